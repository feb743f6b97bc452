"""Puts LoRA files into a prompt: the tag at its preferred weight, then the words that go with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..file.displayed_names import displayed_name
from ..file.lora_library import LibraryEntry
from ..lora_tags import LORA_TAG_PATTERN
from .app_state import AppState
from .weights_routes import TagRequest, insert_tag, joined, tag_from_request


@dataclass(frozen=True)
class InsertedPrompt:
    """The prompts after something was put into them.

    Attributes:
        prompt: The prompt.
        negative: The negative prompt.
        missing: Names of LoRA files that the library does not have.
    """

    prompt: str
    negative: str
    missing: list[str]


def insert_words(prompt: str, words: str, separator: str = " ", form: str = "{}") -> str:
    """The prompt with some words at its end, unless it has them already. form: what is written of the words.

    Those within tags do not count: the tag of mycat does not say the trigger word mycat.
    """
    words = words.strip()
    read = prompt if LORA_TAG_PATTERN.search(words) else LORA_TAG_PATTERN.sub(" ", prompt)
    if not words or words.casefold() in read.casefold():
        return prompt
    return joined(prompt, form.format(words), separator)


def has_tag(prompt: str, *names: str) -> bool:
    """Whether a prompt has a tag of one of some names."""
    found = {displayed_name(match[2].split(":")[0]).lower() for match in LORA_TAG_PATTERN.finditer(prompt)}
    return any(displayed_name(name).lower() in found for name in names if name)


def name_for_prompt(app_state: AppState, entry: LibraryEntry) -> str:
    """What a prompt calls a file: its alias where the user prefers that and it means this file alone."""
    alias, library = entry.alias, app_state.library
    can_be_written = not set(alias) & set(":<>\n") and library.means(alias, entry)
    if app_state.backend.tag_insertion().prefers_alias and can_be_written:
        return alias
    return library.shortest_name(entry)


def insert_library_file(app_state: AppState, name: str, prompt: str, negative: str) -> InsertedPrompt:
    """Puts a file's tag, trigger words and negative text into the prompts, as the web UI's own cards do.

    A tag and words that are there already stay as they are.

    Args:
        app_state: Has the library.
        name: The library's name of the file.
        prompt: The prompt.
        negative: The negative prompt.

    Returns:
        The new prompts.

    Raises:
        FileError: There is no such file.
    """
    entry = app_state.entry(name)
    info, by = app_state.search.info(entry), app_state.backend.tag_insertion()
    if not has_tag(prompt, app_state.library.shortest_name(entry), entry.name, entry.alias, entry.relative_name):
        weight = by.weight if info.preferred_weight is None else info.preferred_weight
        tag = tag_from_request(TagRequest(name=name_for_prompt(app_state, entry), te=weight))
        prompt = insert_tag(prompt, tag, by.separator)
    app_state.marks.record_use(entry.relative_name)
    return InsertedPrompt(
        prompt=insert_words(prompt, info.prompt_words),
        negative=insert_words(negative, info.negative_text, by.separator, "({}:1)"),
        missing=[],
    )

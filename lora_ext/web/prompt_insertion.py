"""Puts LoRA files into a prompt: the tag at its preferred weight, then the words that go with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..file.displayed_names import displayed_name
from ..lora_tags import LORA_TAG_PATTERN
from .app_state import AppState
from .weights_routes import TagRequest, insert_tag, tag_from_request


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


def insert_words(prompt: str, words: str, separator: str = " ") -> str:
    """The prompt with some words at its end, unless it has them already."""
    words = words.strip()
    if not words or words.casefold() in prompt.casefold():
        return prompt
    return f"{prompt.rstrip()}{separator}{words}" if prompt.strip() else words


def has_tag(prompt: str, name: str) -> bool:
    """Whether a prompt has a tag of a name."""
    names = (displayed_name(match[2].split(":")[0]).strip().lower() for match in LORA_TAG_PATTERN.finditer(prompt))
    return displayed_name(name).lower() in names


def insert_library_file(app_state: AppState, name: str, prompt: str, negative: str) -> InsertedPrompt:
    """Puts a file's tag, trigger words and negative text into the prompts, in the order of the web UI's own cards.

    A tag that is there already stays as it is.

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
    info = app_state.search.info(entry)
    call = app_state.library.shortest_name(entry)
    if not has_tag(prompt, call):
        weight = 1.0 if info.preferred_weight is None else info.preferred_weight
        prompt = insert_tag(prompt, tag_from_request(TagRequest(name=call, te=weight)))
    app_state.marks.record_use(entry.relative_name)
    return InsertedPrompt(
        prompt=insert_words(prompt, info.prompt_words),
        negative=insert_words(negative, info.negative_text, ", "),
        missing=[],
    )

"""Sets: several LoRA files with their weights, blocks, curves and regions under a name, and the words beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import FileError, LoraError, PromptError, did_you_mean
from ..file.lora_library import LoraLibrary
from ..file.sidecar_files import as_text
from ..json_text import parse_json
from ..lora_tags import parse_lora_tags
from ..weight_curve import is_curve, split_block_keyframes
from .json_store import JsonStore, taken_since

SETS_FILE = "sets.json"
FORMAT_KEY, FORMAT = "lora_ext_sets", 1
_LONGEST_NAME, _MOST_SETS, _MOST_TAGS, _LONGEST = 64, 2000, 60, 20_000
_HASHES = re.compile(r'Lora hashes: "([^"]*)"')
_END_OF_PROMPT = re.compile(r"\n(Negative prompt|Steps): ")


@dataclass(frozen=True)
class LoraSet:
    """A set.

    Attributes:
        name: Its name.
        tags: Its `<lora:…>` tags.
        words: Words for the prompt.
        negative: Words for the negative prompt.
    """

    name: str
    tags: list[str]
    words: str = ""
    negative: str = ""


class LoraSetStore:
    """The user's sets; each call reads the file anew, so that several programs may share it."""

    def __init__(self, folder: Path) -> None:
        self._store = JsonStore(folder / SETS_FILE)

    def sets(self) -> list[LoraSet]:
        """All sets by name; what is damaged in the file is left out. Raises FileError where all of it is."""
        rows = self._store.load()
        found = (_set_of_json(name, rows[name]) for name in sorted(rows, key=str.casefold))
        return [one for one in found if one is not None]

    def get(self, name: str) -> LoraSet:
        """A set. Raises FileError with the nearest name."""
        known = {one.name: one for one in self.sets()}
        if name not in known:
            raise FileError(f"there is no set {name[:_LONGEST_NAME]!r}{did_you_mean(name, known)}")
        return known[name]

    def save(self, *sets: LoraSet, may_replace: bool = True) -> None:
        """Adds sets, or replaces them if `may_replace`. Raises FileError, also for a name that cannot be one."""
        for one in sets:
            if not one.name.strip() or len(one.name) > _LONGEST_NAME or not one.name.isprintable():
                shown = ascii(one.name[:_LONGEST_NAME])
                raise FileError(f"{shown} cannot be a set's name: give 1 to {_LONGEST_NAME} characters")
        with self._store.changing() as rows:
            taken = None if may_replace else next((one.name for one in sets if one.name in rows), None)
            if taken is not None:
                raise FileError(taken_since(taken))
            rows.update({one.name: {"tags": one.tags, "words": one.words, "negative": one.negative} for one in sets})
            if len(rows) > _MOST_SETS:
                raise FileError(f"there would be more than {_MOST_SETS} sets; delete some first")

    def remove(self, name: str) -> None:
        """Deletes a set. Raises FileError with the nearest name."""
        with self._store.changing() as rows:
            if name not in rows:
                raise FileError(f"there is no set {name[:_LONGEST_NAME]!r}{did_you_mean(name, rows)}")
            del rows[name]


def _set_of_json(name: str, row: object) -> LoraSet | None:
    """A set as a file has it; None where it is none."""
    if not isinstance(row, dict) or not isinstance(row.get("tags"), list):
        return None
    try:
        tags = tags_of_text("\n".join(tag for tag in row["tags"] if isinstance(tag, str)))
    except LoraError:
        return None
    return LoraSet(as_text(name, _LONGEST_NAME), tags, as_text(row.get("words")), as_text(row.get("negative")))


def tags_of_text(text: str) -> list[str]:
    """The `<lora:…>` tags of a text as this program writes them.

    Args:
        text: A prompt, or tags alone.

    Returns:
        The tags, each with its weights, blocks, curves and region.

    Raises:
        PromptError: There is none, one cannot be understood, or there are too many.
    """
    if len(text) > _LONGEST:
        raise PromptError(f"the text is too long; give at most {_LONGEST} characters")
    _, tags, errors = parse_lora_tags(text)
    if errors:
        raise errors[0]
    if not 1 <= len(tags) <= _MOST_TAGS:
        raise PromptError("the text has no <lora:…> tag" if not tags else f"a set has at most {_MOST_TAGS} tags")
    return [tag.format_tag() for tag in tags]


def tags_of_infotext(text: str, library: LoraLibrary) -> list[str]:
    """The tags of a picture's infotext. A file that has another name here is found by the hash that it names.

    Args:
        text: The infotext.
        library: Where the files are.

    Returns:
        The tags.

    Raises:
        PromptError: There is no tag, or one that cannot be understood.
    """
    end = _END_OF_PROMPT.search(text)
    written = _HASHES.search(text)
    rows = (row.rpartition(":") for row in (written[1] if written else "").split(","))
    hashes = {name.strip(): digest.strip().lower() for name, _, digest in rows}
    by_hash = {entry.known_hash[:10]: entry for entry in library.entries if entry.known_hash}
    tags = []
    for tag in parse_lora_tags("\n".join(tags_of_text(text[: end.start()] if end else text)))[1]:
        renamed = by_hash.get(hashes.get(tag.name, "")[:10])
        if library.look_up(tag.name) is None and renamed is not None:
            tag = replace(tag, name=library.shortest_name(renamed))
        tags.append(tag.format_tag())
    return tags


def missing_names(one: LoraSet, library: LoraLibrary) -> list[str]:
    """The names in a set that the library does not have."""
    names = [tag.name for tag in parse_lora_tags("\n".join(one.tags))[1]]
    return [name for name in dict.fromkeys(names) if library.look_up(name) is None]


def export_set(one: LoraSet, presets: Mapping[str, str]) -> str:
    """A set as a file's text. Presets of the user's own are written as numbers, since others do not have them.

    Args:
        one: The set.
        presets: The user's own block-weight presets.

    Returns:
        The text.
    """
    tags = parse_lora_tags("\n".join(one.tags))[1]
    portable = [replace(tag, lbw=tag.lbw and _with_numbers(tag.lbw, presets)) for tag in tags]
    row = {"tags": [tag.format_tag() for tag in portable], "words": one.words, "negative": one.negative}
    return json.dumps({FORMAT_KEY: FORMAT, "sets": {one.name: row}}, ensure_ascii=False, indent=1)


def _with_numbers(lbw: str, presets: Mapping[str, str]) -> str:
    """Block weights, or keyframes of them, with the numbers of presets instead of their names, in any case."""
    if not is_curve(lbw):
        return presets.get(lbw) or {name.upper(): values for name, values in presets.items()}.get(lbw.upper(), lbw)
    parts = [part.strip() for part in split_block_keyframes(lbw)]
    return ";".join(re.sub(r"^[^@~\s]+", lambda name: _with_numbers(name[0], presets), part) for part in parts)


def import_sets(text: str) -> list[LoraSet]:
    """The sets of a file that `export_set` wrote, perhaps somebody else's.

    Args:
        text: The file's text.

    Returns:
        The sets.

    Raises:
        FileError: It is no such file, or has a set that is none.
    """
    try:
        found: Any = parse_json(text)
    except ValueError as error:
        raise FileError(f"the file has no sets: it is not JSON ({error})") from error
    rows = found.get("sets") if isinstance(found, dict) and found.get(FORMAT_KEY) == FORMAT else None
    if not isinstance(rows, dict) or not 1 <= len(rows) <= _MOST_SETS:
        raise FileError(f"the file has no sets: it must be an object with {FORMAT_KEY!r}: {FORMAT} and 'sets'")
    sets = [(name, _set_of_json(name, row)) for name, row in rows.items()]
    broken = next((name for name, one in sets if one is None), None)
    if broken is not None:
        raise FileError(f"the set {broken[:_LONGEST_NAME]!a} has no tags that can be read; nothing was imported")
    return [one for _, one in sets if one is not None]

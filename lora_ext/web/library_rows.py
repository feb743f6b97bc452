"""What is shown of a LoRA file: a row of a list, and everything that is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..blocks import BLOCK_LAYOUTS
from ..file.base_model import block_layout_sizes
from ..file.lora_library import LibraryEntry
from ..file.sidecar_files import SidecarInfo, load_sidecar_info
from ..inspect_file import InspectionReport, inspect_lora_file, inspection_warnings, top_tags
from .app_state import AppState
from .file_marks import FileMarks
from .library_query import FoundText
from .sidecar_index import trigger_phrase, with_trigger_phrase
from .thumbnails import VIDEO_SUFFIXES, find_thumbnail


@dataclass(frozen=True)
class LibraryRow:
    """A LoRA file in a list.

    Attributes:
        name: Its path below the LoRA folder, without the suffix.
        call: What a prompt calls it: the shortest name that means this file alone.
        title: Its file name without the suffix.
        alias: The name that its metadata gives it.
        bytes: Its size.
        time: When it was changed, in seconds since 1970.
        base: "SD1", "SD2", "SDXL" or "unknown"; null while it was not read yet.
        kind: Such as "LoRA" or "LoKr"; null while it was not read yet.
        rank: The commonest rank of its layers.
        mixed: Whether its layers have different ranks.
        error: Why it cannot be used; null where it can.
        thumb: When the picture or video beside it was changed, in seconds since 1970; null without one.
        moving: Whether that is a video.
        marks: What the user has marked it with.
        prompt_words: The words that belong into the prompt with its tag; "" where none are known.
        found: Where the search was found, where that is not the name.
    """

    name: str
    call: str
    title: str
    alias: str
    bytes: int
    time: float
    base: str | None
    kind: str | None
    rank: int | None
    mixed: bool
    error: str | None
    thumb: float | None
    moving: bool
    marks: FileMarks
    prompt_words: str
    found: FoundText | None


@dataclass(frozen=True)
class LoraFileDetails(InspectionReport):
    """A LoRA file with all that is in it but the tensors: the row of a list and the report of `inspect`.

    Attributes:
        about: What the files beside it say.
        words: Trigger words, then its most frequent caption tags.
        warnings: Sentences on what of the file has no effect.
        layouts: The two lengths of block weights for its base: attention blocks alone, all blocks.
        layout: The shorter of them that has every block of the file.
    """

    name: str
    call: str
    title: str
    alias: str
    time: float
    base: str | None
    kind: str | None
    rank: int | None
    mixed: bool
    error: str | None
    thumb: float | None
    moving: bool
    marks: FileMarks
    prompt_words: str
    found: FoundText | None
    about: SidecarInfo
    words: list[str]
    warnings: list[str]
    layouts: tuple[int, int]
    layout: int


def library_row(app_state: AppState, entry: LibraryEntry, search: str = "") -> LibraryRow:
    """One file as a list shows it; what is not known yet is None. search: what the user looks for."""
    known: Mapping[str, Any] = app_state.catalogue.cached_summary(entry) or {}
    wrong = entry.error or known.get("error")
    beside = find_thumbnail(entry.path)
    return LibraryRow(
        name=entry.relative_name,
        call=app_state.library.shortest_name(entry),
        title=entry.name,
        alias=entry.alias,
        bytes=entry.stamp[1],
        time=entry.stamp[0] / 1e9,
        base=known.get("base"),
        kind=known.get("kind"),
        rank=known.get("rank"),
        mixed=known.get("mixed", False),
        error=app_state.hide_folders(wrong) if wrong else None,
        thumb=beside.stat().st_mtime if beside else None,
        moving=beside is not None and beside.name.endswith(VIDEO_SUFFIXES),
        marks=app_state.search.marks_of(entry),
        prompt_words=app_state.search.info(entry).prompt_words,
        found=app_state.search.found_text(entry, search),
    )


def trigger_words(metadata: Mapping[str, str]) -> list[str]:
    """Trigger words as a trainer or a model site wrote them, and the most frequent caption tags after them."""
    found = [word.strip() for word in trigger_phrase(metadata).split(",")] + list(top_tags(metadata, 12))
    return list(dict.fromkeys(word for word in found if word))[:16]


def inspect_library_file(app_state: AppState, name: str) -> LoraFileDetails:
    """Everything about one file of the library.

    Args:
        app_state: Has the library.
        name: The file's name in it.

    Raises:
        FileError: There is no such file, or it cannot be read.
    """
    entry = app_state.entry(name)
    report = app_state.cached("inspect", entry, lambda: inspect_lora_file(entry.path))
    app_state.catalogue.summary(entry)
    sizes = block_layout_sizes(report.family)
    fits = {row.block for row in report.blocks} - {""} <= set(BLOCK_LAYOUTS[sizes[0]].labels)
    shown = {**vars(report), **vars(library_row(app_state, entry)), "path": entry.relative_name + entry.path.suffix}
    return LoraFileDetails(
        **shown,
        about=with_trigger_phrase(load_sidecar_info(entry.path), entry),
        words=trigger_words(report.metadata),
        warnings=[app_state.hide_folders(text) for text in inspection_warnings(report)],
        layouts=sizes,
        layout=sizes[0] if fits else sizes[1],
    )

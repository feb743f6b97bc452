"""Routes of the library: list, look into, metadata, rename, duplicates."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field

from ..blocks import BLOCK_LAYOUTS, SDXL_BLOCKS
from ..errors import FileError
from ..file import hashes
from ..file.containers import load_tensors
from ..file.folder_listing import natural_sort_key
from ..file.lora_library import LibraryEntry
from ..file.peft_config import ADAPTER_CONFIG_NAME
from ..file.saving import FileInUseError, check_not_linked, replace_file, save_safetensors
from ..jobs import Job, JobSummary
from ..tools.metadata import edit_metadata
from .app_state import AppState
from .library_rows import LibraryRow, LoraFileDetails, inspect_library_file, library_row
from .routing import RequestBody
from .thumbnails import THUMBNAIL_SUFFIXES
from .user_paths import check_user_path, create_user_folder

SORT_KEYS: dict[str, Callable[[LibraryEntry], Any]] = {
    "newest": lambda entry: (-entry.stamp[0],),
    "oldest": lambda entry: (entry.stamp[0],),
    "name": lambda entry: natural_sort_key(entry.relative_name),
    "largest": lambda entry: (-entry.stamp[1],),
}


def sort_by_match(entries: list[LibraryEntry], search: str) -> None:
    """Sorts in place: exact matches of the name first, then names beginning with the search, then others; newest first.

    Args:
        entries: Files whose names contain every word of `search`.
        search: What the user typed.
    """
    wanted = search.strip().casefold()

    def sort_key(entry: LibraryEntry) -> tuple[bool, bool, int]:
        names = [name.casefold() for name in (entry.name, entry.relative_name, entry.alias) if name]
        return wanted not in names, not any(name.startswith(wanted) for name in names), -entry.stamp[0]

    entries.sort(key=sort_key)


class EditMetadataRequest(RequestBody):
    """Metadata entries to set and to remove. name: as the library calls the file."""

    name: str
    put: dict[str, str] = Field({})
    remove: list[str] = Field([])


class RenameFileRequest(RequestBody):
    """A new name; a folder before it moves the file there."""

    name: str
    to: str


@dataclass(frozen=True)
class BlockLayoutLabels:
    """The positions of a block-weight vector.

    Attributes:
        labels: The block that each position is for.
    """

    name: str
    labels: list[str]


@dataclass(frozen=True)
class LayoutsAnswer:
    """The layouts of block weights.

    Attributes:
        layouts: Number of block weights → its layout.
        sdxl: The blocks of SDXL's U-Net.
    """

    layouts: dict[str, BlockLayoutLabels]
    sdxl: list[str]


@dataclass(frozen=True)
class LibraryPage:
    """A page of the library.

    Attributes:
        total: How many files match.
        pending: How many files were not read yet.
        facets: "base", "kind" and "rank" → value → how many files that match the search have it.
        errors: What is wrong with the folders, a sentence each.
    """

    total: int
    pending: int
    rows: list[LibraryRow]
    facets: dict[str, dict[str, int]]
    errors: list[str]


@dataclass(frozen=True)
class FileName:
    """The name of a file in the library."""

    name: str


@dataclass(frozen=True)
class DuplicatesResult:
    """Files with the same numbers.

    Attributes:
        groups: Rows of the library, those with the same numbers together.
        files: How many files were compared.
    """

    groups: list[list[LibraryRow]]
    files: int


def register_library_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.get("/layouts")
    def layouts() -> LayoutsAnswer:
        """Block labels of each length of a block-weight vector."""
        named = {str(size): BlockLayoutLabels(one.name, list(one.labels)) for size, one in BLOCK_LAYOUTS.items()}
        return LayoutsAnswer(named, list(SDXL_BLOCKS.blocks))

    @api.get("/library")
    def library(
        search: str = Query("", max_length=200),
        base: str = Query("", max_length=40),
        kind: str = Query("", max_length=40),
        rank: int = Query(0, ge=0, le=100000),
        sort: str = Query("newest", max_length=20),
        offset: int = Query(0, ge=0, le=10_000_000),
        limit: int = Query(60, ge=0, le=500),
    ) -> LibraryPage:
        """A page of the library, how many files match, and what there is to filter by."""
        app_state.catalogue.refresh()
        wanted = search.casefold().split()
        known = app_state.catalogue.cached_summary
        matching, facets = [], {"base": Counter[str](), "kind": Counter[str](), "rank": Counter[str]()}
        for entry in app_state.library.entries:
            text = f"{entry.relative_name} {entry.alias}".casefold()
            if not all(word in text for word in wanted):
                continue
            about: Mapping[str, Any] = known(entry) or {}
            for name, counter in facets.items():
                if about.get(name):
                    counter[str(about[name])] += 1
            if (base and about.get("base") != base) or (kind and about.get("kind") != kind):
                continue
            if not rank or about.get("rank") == rank:
                matching.append(entry)
        if sort == "match":
            sort_by_match(matching, search)
        else:
            matching.sort(key=SORT_KEYS.get(sort, SORT_KEYS["newest"]))
        return LibraryPage(
            total=len(matching),
            pending=app_state.catalogue.pending_count,
            rows=[library_row(app_state, entry) for entry in matching[offset : offset + limit]],
            facets={name: dict(counter.most_common()) for name, counter in facets.items()},
            errors=[app_state.hide_folders(error) for error in app_state.library.errors],
        )

    @api.get("/inspect")
    def inspect(name: str = Query(..., max_length=800)) -> LoraFileDetails:
        """What a file holds: kind, base, ranks, ‖ΔW‖ of each block, metadata, trigger words."""
        return inspect_library_file(app_state, name)

    @api.post("/metadata")
    def metadata(edit: EditMetadataRequest) -> LoraFileDetails:
        """Sets and removes metadata entries; tensors stay bit-identical, hashes are made anew."""
        entry = app_state.changeable_entry(edit.name)
        contents = load_tensors(entry.path)
        if not contents.tensors or entry.path.suffix.lower() != ".safetensors":
            raise FileError(f"{entry.name} is not a safetensors file, so it cannot hold metadata; convert it first")
        new_metadata = edit_metadata(contents.metadata, contents.tensors, new_entries=edit.put, remove=edit.remove)
        save_safetensors(contents.tensors, entry.path, metadata=new_metadata, overwrite=True)
        app_state.refresh_library()
        return inspect_library_file(app_state, entry.relative_name)

    @api.post("/rename")
    def rename(options: RenameFileRequest) -> FileName:
        """Renames a file together with what lies beside it (thumbnail, `.json`, `.txt`)."""
        entry = app_state.changeable_entry(options.name)
        path = rename_file(app_state, entry, options.to)
        app_state.refresh_library()
        return FileName(app_state.library_name(path))

    @api.post("/duplicates", status_code=202)
    def duplicates() -> JobSummary:
        """Looks for files with the same numbers, by their content. Answers with a job."""
        return app_state.jobs.start("duplicates", "Files", lambda job: find_duplicates(app_state, job)).summary()


def rename_file(app_state: AppState, entry: LibraryEntry, to: str) -> Path:
    """Renames within the file's own folder of LoRA files; the new path. Raises FileError."""
    if entry.config is not None:
        raise FileError(
            f"{entry.name} cannot be renamed: its alpha is in {ADAPTER_CONFIG_NAME} beside it; rename the folder, or "
            "convert the file to one that holds its alpha"
        )
    suffix = entry.path.suffix
    relative = check_user_path(to[: -len(suffix)] if to.lower().endswith(suffix.lower()) else to)
    root = entry.root
    target = root.joinpath(*relative.parts[:-1], relative.name + suffix)
    check_not_linked(target.parent, root)
    if target.exists() and not target.samefile(entry.path):
        raise FileError(f"{relative} already exists; choose another name")
    create_user_folder(target.parent)
    moves = [(entry.path, target)]
    for mark in (*THUMBNAIL_SUFFIXES, ".json", ".txt", ".civitai.info"):
        beside, new = entry.path.with_name(entry.path.stem + mark), target.with_name(target.stem + mark)
        if beside.is_file() and not new.exists():
            moves.append((beside, new))
    _move_all(moves, entry.name)
    return target


def _move_all(moves: Sequence[tuple[Path, Path]], name: str) -> None:
    """Renames every file or none. Raises FileError."""
    done: list[tuple[Path, Path]] = []
    try:
        for old, new in moves:
            replace_file(old, new)
            done.append((old, new))
    except (OSError, FileInUseError) as error:
        for old, new in reversed(done):
            replace_file(new, old)
        if isinstance(error, FileInUseError):
            what = old.name if done else name
            raise FileInUseError(
                f"{name} cannot be renamed: another program has {what} open (the web UI, if it has used it); close it "
                "there and try again, nothing was changed"
            ) from error
        raise FileError(f"{name} cannot be renamed: {error.strerror or error}") from error


def find_duplicates(app_state: AppState, job: Job) -> DuplicatesResult:
    """Groups of files whose numbers are the same, whatever their names and metadata say.

    Sizes and short samples tell most files apart; only those that agree there are read whole, once.
    """
    entries = list(app_state.library.entries)
    alike: dict[tuple[int, str], list[LibraryEntry]] = {}
    for done, entry in enumerate(entries):
        job.progress(done, len(entries), entry.name)
        if entry.error is None:
            with suppress(FileError):
                alike.setdefault(hashes.quick_key(entry.path), []).append(entry)
    candidates = [entry for group in alike.values() if len(group) > 1 for entry in group]
    groups: dict[str, list[LibraryEntry]] = {}
    for done, entry in enumerate(candidates):
        job.progress(done, len(candidates), entry.name)
        groups.setdefault(entry.content_hash, []).append(entry)
    job.progress(len(entries), len(entries))
    app_state.library.save_cache()
    found = [group for digest, group in groups.items() if digest and len(group) > 1]
    for entry in itertools.chain.from_iterable(found):
        app_state.catalogue.summary(entry)  # a file that was just written or renamed may not be read yet
    return DuplicatesResult([[library_row(app_state, entry) for entry in group] for group in found], len(entries))

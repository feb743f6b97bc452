"""The route of duplicates: a job that finds files with the same network; sketches of their weights are kept."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from ..errors import LoraError
from ..file.lora_library import LibraryEntry
from ..file.saving import replacing_file
from ..jobs import Job, JobSummary
from ..json_text import parse_json
from ..progress import track_with_callback
from ..tools.duplicates import find_duplicates
from ..tools.weight_relation import WeightRelation
from ..tools.weight_sketch import WeightSketch, sketch_file, sketch_from_json
from .app_state import AppState
from .library_rows import LibraryRow, library_row

_VERSION = 1


@dataclass(frozen=True)
class DuplicateRow(LibraryRow):
    """A file of a group.

    Attributes:
        relation: What it is to the group's first file.
        removable: Whether it may be deleted: not part of the installation.
    """

    relation: WeightRelation
    removable: bool


@dataclass(frozen=True)
class DuplicatesResult:
    """Files with the same network.

    Attributes:
        groups: Rows of the library; the file of the highest rank and precision is the first of each group.
        files: How many files were compared.
        by_content_alone: How many of them were compared by their bytes alone.
    """

    groups: list[list[DuplicateRow]]
    files: int
    by_content_alone: int


class SketchCache:
    """Sketches of files, kept in a JSON file between searches. A sketch holds until its file changes.

    Args:
        path: The JSON file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = self._load()
        self._rows: dict[str, Any] = {}

    def sketch(self, entry: LibraryEntry) -> WeightSketch | None:
        """The sketch of a file, made now where it must be. Raises LoraError."""
        row = self._stored.get(str(entry.path))
        if isinstance(row, list) and len(row) == 2 and row[0] == list(entry.stamp):
            with suppress(ValueError):
                sketch = None if row[1] is None else sketch_from_json(row[1])
                self._rows[str(entry.path)] = row
                return sketch
        sketch = sketch_file(entry.path)
        self._rows[str(entry.path)] = [list(entry.stamp), sketch and sketch.to_json()]
        return sketch

    def save(self) -> None:
        """Writes the sketches that were asked for; an error costs the next search some time and is ignored."""
        with suppress(LoraError, OSError), replacing_file(self._path, overwrite=True) as part:
            part.write_text(json.dumps({"version": _VERSION, "files": self._rows}), encoding="utf-8")

    def _load(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = parse_json(self._path.read_text(encoding="utf-8"))
            if found["version"] == _VERSION and isinstance(found["files"], dict):
                return dict(found["files"])
        return {}


def find_library_duplicates(app_state: AppState, job: Job) -> DuplicatesResult:
    """Groups of files with the same network, whatever their names, metadata, key formats, precisions and ranks."""
    entries = {entry.path: entry for entry in app_state.library.entries if entry.error is None}
    cache = SketchCache(app_state.folders.data / "sketches.json")
    try:
        report = find_duplicates(
            list(entries),
            sketch=lambda path: cache.sketch(entries[path]),
            content_hash=lambda path: entries[path].content_hash,
            track=track_with_callback(job.progress),
        )
    finally:  # also of a job that was stopped
        cache.save()
        app_state.library.save_cache()
    for group in report.groups:
        for file in group:
            app_state.catalogue.summary(entries[file.path])  # one that was just written may not be read yet
    groups = [
        [
            DuplicateRow(
                **vars(library_row(app_state, entries[file.path])),
                relation=file.relation,
                removable=app_state.is_changeable(entries[file.path]),
            )
            for file in group
        ]
        for group in report.groups
    ]
    return DuplicatesResult(groups, report.files, report.by_content_alone)


def register_duplicate_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the route."""

    @api.post("/duplicates", status_code=202)
    def duplicates() -> JobSummary:
        """Looks for files with the same network, by their weights. Answers with a job."""
        work = lambda job: find_library_duplicates(app_state, job)  # noqa: E731
        return app_state.jobs.start("duplicates", "duplicates", work).summary()

"""The route of conflicts between LoRA files: a job that compares them, and suggests a split of their blocks."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field

from ..errors import ToolError
from ..jobs import Job, JobSummary
from ..progress import track_with_callback
from ..tools.block_split import CONFLICT_THRESHOLD, FileSplit, suggest_split
from ..tools.conflicts import FilePairConflict, measure_conflicts
from .app_state import AppState
from .routing import RequestBody

_MOST_FILES = 12


class ConflictPart(RequestBody):
    """A file of the library and the weight of its tag.

    Attributes:
        name: The file's name in the library.
        weight: Its weight.
    """

    name: str
    weight: float = Field(1.0, ge=-100, le=100)


class ConflictRequest(RequestBody):
    """Files to compare.

    Attributes:
        parts: The files, two or more.
        threshold: Interference, 0 to 1, from which a block counts as a conflict.
        every_block: Whether the split gives each block to one file, also without a conflict.
    """

    parts: list[ConflictPart]
    threshold: float = Field(CONFLICT_THRESHOLD, ge=0, le=1)
    every_block: bool = False


@dataclass(frozen=True)
class ConflictAnswer:
    """How much the changes of files have in common.

    Attributes:
        names: The files' names in a tag.
        pairs: Each pair of files.
        split: The suggested split of the blocks, one item for each file.
        warnings: Sentences on what was not measured, and on names that a tag cannot tell apart.
        notes: Sentences that inform, such as which files do nearly the same.
    """

    names: list[str]
    pairs: list[FilePairConflict]
    split: list[FileSplit]
    warnings: list[str]
    notes: list[str]


def run_conflict_job(app_state: AppState, options: ConflictRequest, job: Job) -> ConflictAnswer:
    """Loads the files and compares them. Raises FileError, ToolError."""
    names = [app_state.library.shortest_name(app_state.entry(part.name)) for part in options.parts]
    report = measure_conflicts(
        [app_state.library.load(name) for name in names],
        [part.weight for part in options.parts],
        names=names,
        track=track_with_callback(job.progress),
    )
    split = suggest_split(report, threshold=options.threshold, every_block=options.every_block)
    return ConflictAnswer(report.names, report.pairs, split, report.warnings, report.notes)


def register_conflict_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the route."""

    @api.post("/conflicts", status_code=202)
    def conflicts(options: ConflictRequest) -> JobSummary:
        """Compares the changes of files block by block. Answers with a job; no file is written."""
        if not 2 <= len(options.parts) <= _MOST_FILES:
            raise ToolError(f"conflicts compares 2 to {_MOST_FILES} files, not {len(options.parts)}")
        entries = [app_state.entry(part.name) for part in options.parts]
        title = ", ".join(entry.name for entry in entries)[:80]
        return app_state.jobs.start("conflicts", title, lambda job: run_conflict_job(app_state, options, job)).summary()

"""A job as the routes answer it: with the types of what each kind of job shows and returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from ..jobs import Job, JobDetails, JobSummary
from .app_state import AppState
from .block_routes import BlockAnalysisAnswer
from .conflict_routes import ConflictAnswer
from .dataset_browser import DescribedPictures
from .duplicate_routes import DuplicatesResult
from .file_moves import ChangedFiles
from .preview_routes import PreviewResult
from .sheet_answers import SheetDetails, SheetLive
from .start_routes import SuggestedTraining
from .tool_routes import CheckpointResult, ToolResult
from .training_answers import PreflightResult, TrainProgress, TrainResult


@dataclass(frozen=True)
class GeneratedImage:
    """A picture of the Generate panel.

    Attributes:
        name: Its path below the output folder.
        infotext: The parameters that it was made with.
    """

    name: str
    infotext: str


@dataclass(frozen=True)
class GenerateResult:
    """Pictures of the Generate panel.

    Attributes:
        notes: What is to be said of tags and files, a sentence each.
    """

    pictures: list[GeneratedImage]
    notes: list[str]


class NothingLive(TypedDict):
    """Nothing is shown while the job works."""


JobResult = (
    BlockAnalysisAnswer
    | ChangedFiles
    | CheckpointResult
    | ConflictAnswer
    | DescribedPictures
    | DuplicatesResult
    | GenerateResult
    | PreflightResult
    | PreviewResult
    | SheetDetails
    | SuggestedTraining
    | ToolResult
    | TrainResult
)


@dataclass(frozen=True)
class JobAnswer(JobDetails):
    """A job with its log, what it shows meanwhile, and its result."""

    live: TrainProgress | SheetLive | NothingLive
    result: JobResult | None


@dataclass(frozen=True)
class JobList:
    """All jobs, oldest first; those that wait come last.

    Attributes:
        library: Changes when LoRA files came, went or changed.
        applied_by: The extension that applies tags instead of this one; "" where none does.
    """

    jobs: list[JobSummary]
    library: tuple[int, int, int]
    applied_by: str


def job_summary(app_state: AppState, job: Job) -> JobSummary:
    """A job as a list shows it, without folders of this system."""
    return replace(job.summary(), error=app_state.hide_folders(job.error) if job.error else None)


def job_answer(app_state: AppState, job: Job) -> JobAnswer:
    """A job with everything that is known of it, without folders of this system."""
    shown = {**vars(job.details()), **vars(job_summary(app_state, job))}
    return JobAnswer(**{**shown, "log": [app_state.hide_folders(line) for line in job.log]})

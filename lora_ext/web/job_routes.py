"""Routes of jobs and of the Generate panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Query
from pydantic import Field

from ..generate import save_images
from ..host.infotext import PARAMETERS_KEY
from ..jobs import MODEL_LANE, Job, JobSummary
from .app_state import AppState
from .job_answers import GeneratedImage, GenerateResult, JobAnswer, JobList, job_answer, job_summary
from .routing import RequestBody, SamplingRequest


class GenerateRequest(SamplingRequest):
    """What to draw.

    Attributes:
        seed: Seed of the first picture, each further one has the next; -1 for a random one.
        batch: How many pictures.
        show_curve: Whether the notes tell the weights that files had at each U-Net call.
    """

    seed: int = Field(-1, ge=-1, le=2**32 - 1)
    batch: int = Field(1, ge=1, le=16)
    show_curve: bool = False


class MoveJobRequest(RequestBody):
    """Where a job that waits goes.

    Attributes:
        to: One place up or down in its queue, or first.
    """

    to: Literal["up", "down", "first"]


@dataclass(frozen=True)
class ForgottenJob:
    """A job that was taken off the list."""

    gone: Literal[True] = True


@dataclass(frozen=True)
class Choices:
    """What lists offer, and what this program can do.

    Attributes:
        checkpoints: Paths below the checkpoint folders; "" is the small model that comes with this program.
        draws: Whether there is a Generate panel.
        prompts: Whether the page has the web UI's prompt fields.
    """

    samplers: list[str]
    schedulers: list[str]
    checkpoints: list[str]
    draws: bool
    prompts: bool


@dataclass(frozen=True)
class NativeSize:
    """The size of pictures for which none is given.

    Attributes:
        side: Width and height in pixels; 0 where it is not known before the model is loaded.
    """

    side: int


def run_generate_job(app_state: AppState, options: GenerateRequest, job: Job) -> GenerateResult:
    """Draws, keeps the pictures in the output folder, and says how each LoRA fits."""
    settings = {name: getattr(options, name) for name in options.__dict__ if name != "checkpoint"}
    job.text = "loading the model"
    images, fits, notes = app_state.backend.generate(
        {**settings, "ckpt": options.checkpoint or None},
        app_state.library,
        lambda done, total: job.progress(done, total, "drawing"),
    )
    paths = save_images(images, app_state.output_folder("pictures"))
    for note in (*fits, *notes):
        job.notify(str(note))
    names = [path.relative_to(app_state.folders.outputs).as_posix() for path in paths]
    return GenerateResult(
        pictures=[
            GeneratedImage(name, str(image.info.get(PARAMETERS_KEY, "")))
            for name, image in zip(names, images, strict=True)
        ],
        notes=[*notes, *(str(fit) for fit in fits if fit.is_worth_telling)],
    )


def register_job_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.get("/jobs")
    def jobs() -> JobList:
        """All jobs, oldest first, without their logs and results; what is another when files changed; and who applies
        tags in pictures, where it is not this program.
        """
        app_state.catalogue.refresh()
        rows = [job_summary(app_state, job) for job in app_state.jobs.list_jobs()]
        return JobList(rows, app_state.catalogue.version, app_state.backend.applied_by())

    @api.get("/jobs/{job}")
    def job(job: str) -> JobAnswer:
        """One job with its log, what it shows meanwhile, and its result."""
        return job_answer(app_state, app_state.jobs.get(job))

    @api.post("/jobs/{job}/cancel")
    def cancel(job: str, save: bool = Query(True)) -> JobSummary:
        """Asks a job to stop. save: training saves its file and state first, so that it can go on later."""
        return app_state.jobs.cancel(job, save=save).summary()

    @api.post("/jobs/{job}/move")
    def move(job: str, options: MoveJobRequest) -> JobSummary:
        """Puts a job that waits up, down or first in its queue."""
        return app_state.jobs.move(job, options.to).summary()

    @api.delete("/jobs/{job}")
    def forget(job: str) -> ForgottenJob:
        """Takes an ended job off the list."""
        app_state.jobs.forget(job)
        return ForgottenJob()

    @api.get("/choices")
    def choices() -> Choices:
        """What the lists offer, and what this program can do."""
        offered = app_state.backend.choices()
        return Choices(
            samplers=offered["samplers"],
            schedulers=offered["schedulers"],
            checkpoints=offered["checkpoints"],
            draws=app_state.backend.can_generate,
            prompts=app_state.backend.has_prompt_fields,
        )

    @api.get("/native-size")
    def native_size(checkpoint: str = "") -> NativeSize:
        """The size that a model was trained for. checkpoint: a name of the list; the web UI has its own model."""
        return NativeSize(app_state.backend.native_size(checkpoint))

    if app_state.backend.can_generate:

        @api.post("/generate", status_code=202)
        def generate(options: GenerateRequest) -> JobSummary:
            """Draws pictures. Answers with a job."""
            title = " ".join(options.prompt.split())[:80] or "(no prompt)"
            work = app_state.jobs.start(
                "generate", title, lambda job: run_generate_job(app_state, options, job), lane=MODEL_LANE
            )
            return work.summary()

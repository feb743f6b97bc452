"""Routes of jobs and of the Generate panel."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from ..generate import save_images
from ..host.infotext import PARAMETERS_KEY
from ..jobs import MODEL_LANE, Job
from .app_state import AppState
from .routing import RequestBody, SamplingRequest


class GenerateRequest(SamplingRequest):
    """What to draw."""

    seed: int = Field(-1, ge=-1, le=2**32 - 1)
    batch: int = Field(1, ge=1, le=16)


class MoveJobRequest(RequestBody):
    """Where a job that waits goes."""

    to: Literal["up", "down", "first"]


def run_generate_job(app_state: AppState, options: GenerateRequest, job: Job) -> dict[str, Any]:
    """Draws, keeps the pictures in the output folder, and says how each LoRA fits."""
    settings = {name: getattr(options, name) for name in options.__dict__ if name != "checkpoint"}
    job.text = "loading the model"
    images, fits, notes = app_state.backend.generate(
        {**settings, "ckpt": options.checkpoint or None},
        app_state.library,
        lambda done, total: job.progress(done, total, "drawing"),
    )
    paths = save_images(images, app_state.output_folder("pictures"))
    for told in (*fits, *notes):
        job.notify(str(told))
    names = [path.relative_to(app_state.folders.outputs).as_posix() for path in paths]
    return {
        "pictures": [
            {"name": name, "infotext": str(image.info.get(PARAMETERS_KEY, ""))}
            for name, image in zip(names, images, strict=True)
        ],
        "notes": [*notes, *(str(fit) for fit in fits if not fit.ok or fit.dead or fit.uncovered)],
    }


def job_as_json(app_state: AppState, job: Job, *, brief: bool = True) -> dict[str, Any]:
    """A job as the page has it: what it says of files without folders of this system."""
    row = job.as_json(brief=brief)
    row["error"] = app_state.hide_folders(job.error) if job.error else None
    return row if brief else {**row, "log": [app_state.hide_folders(line) for line in row["log"]]}


def register_job_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.get("/jobs")
    def jobs() -> dict[str, Any]:
        """All jobs, oldest first, without their logs and results; what is another when files changed; and who applies
        tags in pictures, where it is not this program."""
        app_state.catalogue.refresh()
        rows = [job_as_json(app_state, job) for job in app_state.jobs.list_jobs()]
        return {"jobs": rows, "library": app_state.catalogue.version, "applied_by": app_state.backend.applied_by()}

    @api.get("/jobs/{job}")
    def job(job: str) -> dict[str, Any]:
        """One job with its log, what it shows meanwhile, and its result."""
        return job_as_json(app_state, app_state.jobs.get(job), brief=False)

    @api.post("/jobs/{job}/cancel")
    def cancel(job: str, save: bool = Query(True)) -> dict[str, Any]:
        """Asks a job to stop. save: training saves its file and state first, so that it can go on later."""
        return app_state.jobs.cancel(job, save=save).as_json(brief=True)

    @api.post("/jobs/{job}/move")
    def move(job: str, wish: MoveJobRequest) -> dict[str, Any]:
        """Puts a job that waits up, down or first in its queue."""
        return app_state.jobs.move(job, wish.to).as_json(brief=True)

    @api.delete("/jobs/{job}")
    def forget(job: str) -> dict[str, bool]:
        """Takes an ended job off the list."""
        app_state.jobs.forget(job)
        return {"gone": True}

    @api.get("/choices")
    def choices() -> dict[str, Any]:
        """What the lists offer, and what this program can do."""
        return {
            **app_state.backend.choices(),
            "draws": app_state.backend.can_generate,
            "prompts": app_state.backend.has_prompt_fields,
        }

    if app_state.backend.can_generate:

        @api.post("/generate", status_code=202)
        def generate(wish: GenerateRequest) -> dict[str, Any]:
            """Draws pictures. Answers with a job."""
            title = " ".join(wish.prompt.split())[:80] or "(no prompt)"
            work = app_state.jobs.start(
                "generate", title, lambda job: run_generate_job(app_state, wish, job), lane=MODEL_LANE
            )
            return work.as_json(brief=True)

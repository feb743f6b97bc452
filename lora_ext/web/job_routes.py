"""Routes of jobs and of the Generate panel."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from ..generate import save
from ..host.infotext import KEY
from ..jobs import MODEL, Job
from .app_state import Studio
from .routing import Body, Sampled


class Drawing(Sampled):
    """What to draw."""

    seed: int = Field(-1, ge=-1, le=2**32 - 1)
    batch: int = Field(1, ge=1, le=16)


class Move(Body):
    """Where a job that waits goes."""

    to: Literal["up", "down", "first"]


def draw(studio: Studio, wish: Drawing, job: Job) -> dict[str, Any]:
    """Draws, keeps the pictures in the output folder, and says how each LoRA fits."""
    settings = {name: getattr(wish, name) for name in wish.__dict__ if name != "checkpoint"}
    job.text = "loading the model"
    images, fits, notes = studio.desk.draw(
        {**settings, "ckpt": wish.checkpoint or None},
        studio.library,
        lambda done, total: job.progress(done, total, "drawing"),
    )
    paths = save(images, studio.output("pictures"))
    for told in (*fits, *notes):
        job.say(str(told))
    names = [path.relative_to(studio.folders.outputs).as_posix() for path in paths]
    return {
        "pictures": [
            {"name": name, "infotext": str(image.info.get(KEY, ""))} for name, image in zip(names, images, strict=True)
        ],
        "notes": [*notes, *(str(fit) for fit in fits if not fit.ok or fit.dead or fit.uncovered)],
    }


def shown(studio: Studio, job: Job, *, brief: bool = True) -> dict[str, Any]:
    """A job as the page has it: what it says of files without folders of this system."""
    row = job.as_json(brief=brief)
    row["error"] = studio.nameless(job.error) if job.error else None
    return row if brief else {**row, "log": [studio.nameless(line) for line in row["log"]]}


def add(api: APIRouter, studio: Studio) -> None:
    """Adds the routes."""

    @api.get("/jobs")
    def jobs() -> dict[str, Any]:
        """All jobs, oldest first, without their logs and results; what is another when files changed; and who applies
        tags in pictures, where it is not this program."""
        studio.catalogue.refresh()
        rows = [shown(studio, job) for job in studio.jobs.all()]
        return {"jobs": rows, "library": studio.catalogue.version, "applied_by": studio.desk.applied_by()}

    @api.get("/jobs/{job}")
    def job(job: str) -> dict[str, Any]:
        """One job with its log, what it shows meanwhile, and its result."""
        return shown(studio, studio.jobs.get(job), brief=False)

    @api.post("/jobs/{job}/cancel")
    def cancel(job: str, save: bool = Query(True)) -> dict[str, Any]:
        """Asks a job to stop. save: training saves its file and state first, so that it can go on later."""
        return studio.jobs.cancel(job, save=save).as_json(brief=True)

    @api.post("/jobs/{job}/move")
    def move(job: str, wish: Move) -> dict[str, Any]:
        """Puts a job that waits up, down or first in its queue."""
        return studio.jobs.move(job, wish.to).as_json(brief=True)

    @api.delete("/jobs/{job}")
    def forget(job: str) -> dict[str, bool]:
        """Takes an ended job off the list."""
        studio.jobs.forget(job)
        return {"gone": True}

    @api.get("/choices")
    def choices() -> dict[str, Any]:
        """What the lists offer, and what this program can do."""
        return {**studio.desk.choices(), "draws": studio.desk.draws, "prompts": studio.desk.prompts}

    if studio.desk.draws:

        @api.post("/generate", status_code=202)
        def generate(wish: Drawing) -> dict[str, Any]:
            """Draws pictures. Answers with a job."""
            title = " ".join(wish.prompt.split())[:80] or "(no prompt)"
            work = studio.jobs.start("generate", title, lambda job: draw(studio, wish, job), lane=MODEL)
            return work.as_json(brief=True)

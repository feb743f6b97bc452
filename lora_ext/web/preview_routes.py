"""The route of previews: one picture without a LoRA and one with it, from the same seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import APIRouter
from pydantic import Field

from ..compare.cell_store import CellStore
from ..compare.generate_cells import SheetProgress, generate_cells
from ..compare.image_spec import ImageSpec, remove_tags
from ..jobs import MODEL_LANE, Job, JobSummary
from .app_state import AppState
from .routing import SamplingRequest
from .sheets import requested_image_fields

_KEPT_PICTURES = 60


class PreviewRequest(SamplingRequest):
    """A small picture of a file's effect; the prompt has its tag.

    Attributes:
        lora: What tags call the file.
        seed: The picture's seed.
    """

    lora: str = Field(..., max_length=800)
    seed: int = Field(0, ge=0, le=2**32 - 1)


@dataclass(frozen=True)
class PreviewResult:
    """Two pictures of one seed, by their paths below the output folder.

    Attributes:
        without: Without the LoRA's tag.
        applied: With it.
    """

    without: str
    applied: str


def run_preview_job(app_state: AppState, options: PreviewRequest, job: Job) -> PreviewResult:
    """Draws what is not drawn yet; the picture without the LoRA is kept while the other one changes."""
    after = ImageSpec(**requested_image_fields(options), lora=options.lora)
    before = replace(after, prompt=remove_tags(after.prompt, options.lora).rstrip())
    store = CellStore(app_state.output_folder("previews"))

    def watch(now: SheetProgress) -> None:
        job.progress(now.done_with_batch, now.total, "drawing")

    job.text = "loading the model"
    with app_state.backend.open_renderer(options.checkpoint, app_state.library) as renderer:
        generate_cells([before, after], renderer, store, batch=2, on_progress=watch)
        paths = [store.path(spec.key(renderer.identity(spec))) for spec in (before, after)]
    outputs = app_state.folders.outputs
    without, applied = (path.relative_to(outputs).as_posix() for path in paths if path is not None)
    _remove_old_pictures(store.cells, {path for path in paths if path is not None})
    return PreviewResult(without, applied)


def _remove_old_pictures(folder: Path, kept: set[Path]) -> None:
    """Previews are made again in no time: the newest are enough."""
    pictures = sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in pictures[_KEPT_PICTURES:]:
        if path not in kept:
            path.unlink(missing_ok=True)


def register_preview_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the route."""

    @api.post("/preview", status_code=202)
    def preview(options: PreviewRequest) -> JobSummary:
        """Draws a picture without a LoRA and one with it. Answers with a job."""
        title = app_state.entry(options.lora).name
        work = lambda job: run_preview_job(app_state, options, job)  # noqa: E731
        return app_state.jobs.start("preview", title, work, lane=MODEL_LANE).summary()

"""Routes of the Train panel: the form, preflight, runs, history, the dataset browser."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from ..errors import LoraError
from ..jobs import MODEL_LANE, Job
from ..train.config.recipe_metadata import settings_from_lora_file
from . import dataset_browser
from .app_state import AppState
from .routing import RequestBody
from .sheets import SheetService
from .training_runs import form_fields


class TrainRequest(RequestBody):
    """Values of the form by name; those left out are at their defaults. prompts: sample prompts, one a line.

    compare: whether a sheet of epochs × weights follows by itself.
    """

    settings: dict[str, Any] = Field({})
    prompts: str = ""
    compare: bool = False


class CaptionRequest(RequestBody):
    """A picture's caption. picture: its path below the dataset."""

    dataset: str
    picture: str
    caption: str


class DescribeRequest(RequestBody):
    """Descriptions of a dataset's pictures. captioner: a name of the form's `captioners`; overwrite: also of pictures
    that have a caption."""

    dataset: str
    captioner: str
    overwrite: bool = False


class ReplaceRequest(RequestBody):
    """Find and replace in all captions of a dataset. dry: only count."""

    dataset: str
    find: str
    put: str = ""
    whole_tags: bool = False
    dry: bool = True


def register_train_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    sheets = SheetService(app_state)
    runs = sheets.runs

    @api.get("/train/form")
    def form() -> dict[str, Any]:
        """Every knob of training, with help, limits and defaults."""
        return {
            "fields": form_fields(),
            "datasets": dataset_browser.dataset_names(app_state),
            "loaded": app_state.backend.has_prompt_fields,
            "captioners": list(app_state.backend.image_captioners()),
        }

    @api.get("/train/begin")
    def begin(name: str = Query(..., max_length=400)) -> dict[str, Any]:
        """The settings a LoRA file was trained with, as its metadata tells them, and what of them is not known here."""
        settings, told = settings_from_lora_file(app_state.entry(name).path)
        return {"settings": settings, "told": told}

    @api.post("/train/preflight", status_code=202)
    def preflight(wish: TrainRequest) -> dict[str, Any]:
        """Looks over pictures and model before a run. Answers with a job."""
        runs.recipe_from_form(wish.settings)
        work = app_state.jobs.start(
            "preflight", "preflight", lambda job: runs.run_preflight(wish.settings, job), lane=MODEL_LANE
        )
        return work.as_json(brief=True)

    @api.post("/train", status_code=202)
    def train(wish: TrainRequest) -> dict[str, Any]:
        """Queues a run. Answers with a job; cancelling it saves first."""
        runs.recipe_from_form(wish.settings)
        title = str(wish.settings.get("output_name") or "last")
        return app_state.jobs.start("train", title, lambda job: work(wish, job), lane=MODEL_LANE).as_json(brief=True)

    def work(wish: TrainRequest, job: Job) -> dict[str, Any]:
        made = runs.train(wish.settings, wish.prompts, job)
        if wish.compare and not made["stopped"]:
            try:
                made["sheet"] = sheets.start_job(sheets.request_for_run(made["name"])).id
            except LoraError as error:
                job.notify(f"no sheet of epochs and weights: {error}")
        return made

    @api.post("/train/{name}/compare", status_code=202)
    def compare(name: str) -> dict[str, Any]:
        """A sheet of a run's epochs × weights on its sample prompts. Answers with a job."""
        return sheets.start_job(sheets.request_for_run(name)).as_json(brief=True)

    @api.get("/train/history")
    def history() -> dict[str, Any]:
        """Runs of before, newest first, with their settings and files."""
        return {"runs": runs.history()}

    @api.get("/train/curve")
    def curve(name: str = Query(..., max_length=200)) -> dict[str, Any]:
        """A run's losses and learning rates: rows of step, loss, smoothed, of the U-Net, of the text encoder."""
        return runs.loss_curve(name)

    @api.get("/train/run")
    def made(name: str = Query(..., max_length=800)) -> dict[str, Any]:
        """The run that made a file: its name (none where it was not trained here) and its curve."""
        run = runs.find_run_of_file(name)
        return {"run": run, **(runs.loss_curve(run) if run else {"rows": []})}

    @api.get("/dataset")
    def dataset(
        name: str = Query(..., max_length=400),
        resolution: str = Query("512", max_length=20),
        buckets: bool = Query(True),
    ) -> dict[str, Any]:
        """The pictures of a dataset with captions and buckets; those without a caption first."""
        return dataset_browser.browse_dataset(app_state, name, resolution, buckets)

    @api.get("/dataset/thumbnail", response_class=Response)
    def thumbnail(dataset: str = Query(..., max_length=400), picture: str = Query(..., max_length=800)) -> Response:
        """A small JPEG of a picture."""
        return Response(dataset_browser.dataset_thumbnail(app_state, dataset, picture), media_type="image/jpeg")

    @api.put("/dataset/caption")
    def caption(wish: CaptionRequest) -> dict[str, str]:
        """Writes a picture's caption."""
        dataset_browser.save_dataset_caption(app_state, wish.dataset, wish.picture, wish.caption)
        return {"caption": wish.caption.strip()}

    @api.post("/dataset/describe", status_code=202)
    def describe(wish: DescribeRequest) -> dict[str, Any]:
        """Describes the pictures of a dataset. Answers with a job; what is written stays when it is cancelled."""
        dataset_browser.image_captioner(app_state, wish.captioner)
        title = dataset_browser.dataset_folder(app_state, wish.dataset).name
        return app_state.jobs.start(
            "caption",
            title,
            lambda job: dataset_browser.describe_dataset(
                app_state, wish.dataset, wish.captioner, job, overwrite=wish.overwrite
            ),
            lane=MODEL_LANE,
        ).as_json(brief=True)

    @api.post("/dataset/replace")
    def replace(wish: ReplaceRequest) -> dict[str, Any]:
        """Finds and replaces in all captions, or counts what that would change."""
        return dataset_browser.replace_in_captions(
            app_state, wish.dataset, wish.find, wish.put, whole_tags=wish.whole_tags, dry=wish.dry
        )

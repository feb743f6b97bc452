"""Routes of the Train panel: the form, preflight, runs, history, the dataset browser."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from ..errors import LoraError
from ..jobs import MODEL_LANE, Job, JobSummary
from ..train.config.recipe import Recipe, recipe_options
from ..train.config.recipe_metadata import settings_from_lora_file
from ..train.run.run_requests import RunRequest
from . import dataset_browser
from .app_state import AppState
from .caption_changes import CaptionChanges, ReplacedCaptions
from .picture_edit_routes import register_picture_edit_routes
from .routing import RequestBody
from .settings_files import form_settings_of_file
from .sheets import SheetService
from .training_answers import (
    FileSettings,
    RequestedSamples,
    RunOfFile,
    SavedCaption,
    TrainForm,
    TrainHistory,
    TrainingCurve,
    TrainResult,
)
from .training_runs import form_fields


class TrainRequest(RequestBody):
    """A training run.

    Attributes:
        settings: Values of the form by name; those left out are at their defaults.
        prompts: Sample prompts, one a line.
        compare: Whether a sheet of epochs × weights follows by itself.
    """

    settings: dict[str, Any] = Field({})
    prompts: str = ""
    compare: bool = False


class CaptionRequest(RequestBody):
    """A picture's caption.

    Attributes:
        dataset: The data set's name.
        picture: The picture's path below the data set.
        caption: The caption.
    """

    dataset: str
    picture: str
    caption: str


class DescribeRequest(RequestBody):
    """Captions for a data set's pictures, by a model.

    Attributes:
        dataset: The data set's name.
        captioner: A name of the form's `captioners`.
        overwrite: Whether pictures that have a caption get another one.
    """

    dataset: str
    captioner: str
    overwrite: bool = False


class ReplaceRequest(RequestBody):
    """Find and replace in all captions of a data set.

    Attributes:
        dataset: The data set's name.
        find: The text to find.
        put: The text in its place.
        whole_tags: Whether only whole tags between commas are found.
        whole_words: Whether only whole words are found.
        dry: Whether changes are only counted.
    """

    dataset: str
    find: str
    put: str = ""
    whole_tags: bool = False
    whole_words: bool = False
    dry: bool = True


class SampleRequest(RequestBody):
    """Samples of a run, now.

    Attributes:
        job: The id of the run's job.
    """

    job: str = Field(max_length=100)


class SettingsFileRequest(RequestBody):
    """A settings file of kohya's GUI, OneTrainer or traintrain.

    Attributes:
        file: Its name.
        text: What is in it.
    """

    file: str = Field(max_length=400)
    text: str = Field(max_length=1_000_000)


class ControlRequest(RequestBody):
    """What is asked of a run at work, after its next step.

    Attributes:
        job: The id of the run's job.
        sample: Whether its sample prompts are drawn.
        save: Whether the file and a state are saved.
        lr_factor: A factor on the learning rates of its settings; null leaves them as they are.
    """

    job: str = Field(max_length=100)
    sample: bool = False
    save: bool = False
    lr_factor: float | None = None


class AddedTagRequest(RequestBody):
    """A tag for all captions of a data set.

    Attributes:
        dataset: The data set's name.
        tag: The tag.
        first: Whether it comes before what is there, or after it.
    """

    dataset: str
    tag: str = Field(max_length=400)
    first: bool = False


class UndoRequest(RequestBody):
    """A change of all captions, or of a picture's crop and mask, to take back.

    Attributes:
        change: The number that its answer gave as `undo`.
    """

    change: int = Field(ge=1)


def _title(options: TrainRequest) -> str:
    """What a run is called in the list of jobs."""
    return str(options.settings.get("output_name") or "last")


def _option_query(name: str) -> Any:
    """A number of a query, with the default and the limits of a training option."""
    item, option = recipe_options()[name]
    return Query(item.default, ge=option.low, le=option.high)


def register_train_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    sheets = SheetService(app_state)
    runs = sheets.runs
    captions = CaptionChanges(app_state)
    register_picture_edit_routes(api, app_state, captions)

    @api.get("/train/form")
    def form() -> TrainForm:
        """Every training option, with help, limits and defaults."""
        return TrainForm(
            fields=form_fields(),
            datasets=dataset_browser.dataset_names(app_state),
            loaded=app_state.backend.has_prompt_fields,
            captioners=list(app_state.backend.image_captioners()),
        )

    @api.get("/train/begin")
    def begin(name: str = Query(..., max_length=400)) -> FileSettings:
        """The settings a LoRA file was trained with, as its metadata tells them, and what of them is not known here."""
        return FileSettings(*settings_from_lora_file(app_state.entry(name).path))

    @api.post("/train/settings-file")
    def settings_file(options: SettingsFileRequest) -> FileSettings:
        """The settings of another program's file as values of the form, and a sentence for what is not used."""
        return FileSettings(*form_settings_of_file(options.text, options.file))

    @api.post("/train/preflight", status_code=202)
    def preflight(options: TrainRequest) -> JobSummary:
        """Looks over pictures and model before a run. Answers with a job."""
        runs.recipe_from_form(options.settings)
        work = app_state.jobs.start(
            "preflight", _title(options), lambda job: runs.run_preflight(options.settings, job), lane=MODEL_LANE
        )
        return work.summary()

    @api.post("/train", status_code=202)
    def train(options: TrainRequest) -> JobSummary:
        """Queues a run. Answers with a job; cancelling it saves first."""
        runs.recipe_from_form(options.settings)
        return app_state.jobs.start("train", _title(options), lambda job: work(options, job), lane=MODEL_LANE).summary()

    def work(options: TrainRequest, job: Job) -> TrainResult:
        result: TrainResult = {**runs.train(options.settings, options.prompts, job)}
        if options.compare and not result["stopped"]:
            try:
                result["sheet"] = sheets.start_job(sheets.request_for_run(result["name"])).id
            except LoraError as error:
                job.notify(f"no sheet of epochs and weights: {error}")
        return result

    @api.post("/train/sample")
    def sample(options: SampleRequest) -> RequestedSamples:
        """Asks a run at work for samples of its prompts after the next step."""
        runs.request(options.job, RunRequest(sample=True))
        return RequestedSamples(options.job)

    @api.post("/train/control")
    def control(options: ControlRequest) -> RequestedSamples:
        """Asks a run at work for samples, a save or other learning rates, after the next step."""
        wanted = RunRequest(sample=options.sample, save=options.save, lr_factor=options.lr_factor)
        runs.request(options.job, wanted)
        return RequestedSamples(options.job)

    @api.post("/train/{name}/compare", status_code=202)
    def compare(name: str) -> JobSummary:
        """A sheet of a run's epochs × weights on its sample prompts. Answers with a job."""
        return sheets.start_job(sheets.request_for_run(name)).summary()

    @api.get("/train/history")
    def history() -> TrainHistory:
        """Runs of before, newest first, with their settings and files."""
        return TrainHistory(runs.history())

    @api.get("/train/curve")
    def curve(name: str = Query(..., max_length=200)) -> TrainingCurve:
        """A run's losses and learning rates: rows of step, loss, smoothed, of the U-Net, of the text encoder."""
        return runs.loss_curve(name)

    @api.get("/train/run")
    def made(name: str = Query(..., max_length=800)) -> RunOfFile:
        """The run that made a file: its name (none where it was not trained here) and its curve."""
        run = runs.find_run_of_file(name)
        return RunOfFile(runs.loss_curve(run).rows if run else [], run)

    @api.get("/dataset")
    def dataset(
        name: str = Query(..., max_length=400),
        resolution: str = Query(Recipe.resolution, max_length=20),
        buckets: bool = Query(True),
        min_bucket_reso: int = _option_query("min_bucket_reso"),
        max_bucket_reso: int = _option_query("max_bucket_reso"),
        bucket_reso_steps: int = _option_query("bucket_reso_steps"),
        bucket_no_upscale: bool = Query(Recipe.bucket_no_upscale),
        dataset_repeats: int = _option_query("dataset_repeats"),
    ) -> dataset_browser.DatasetAnswer:
        """The pictures of a dataset with captions and buckets; those without a caption first."""
        recipe = Recipe(
            resolution=resolution,
            enable_bucket=buckets,
            min_bucket_reso=min_bucket_reso,
            max_bucket_reso=max_bucket_reso,
            bucket_reso_steps=bucket_reso_steps,
            bucket_no_upscale=bucket_no_upscale,
            dataset_repeats=dataset_repeats,
        )
        return dataset_browser.browse_dataset(app_state, name, recipe)

    @api.get("/dataset/thumbnail", response_class=Response)
    def thumbnail(dataset: str = Query(..., max_length=400), picture: str = Query(..., max_length=800)) -> Response:
        """A small JPEG of a picture."""
        return Response(dataset_browser.dataset_thumbnail(app_state, dataset, picture), media_type="image/jpeg")

    @api.put("/dataset/caption")
    def caption(options: CaptionRequest) -> SavedCaption:
        """Writes a picture's caption."""
        dataset_browser.save_dataset_caption(app_state, options.dataset, options.picture, options.caption)
        return SavedCaption(options.caption.strip())

    @api.post("/dataset/describe", status_code=202)
    def describe(options: DescribeRequest) -> JobSummary:
        """Describes the pictures of a dataset. Answers with a job; what is written stays when it is cancelled."""
        dataset_browser.image_captioner(app_state, options.captioner)
        title = dataset_browser.dataset_folder(app_state, options.dataset).name
        return app_state.jobs.start(
            "caption",
            title,
            lambda job: dataset_browser.describe_dataset(
                app_state, options.dataset, options.captioner, job, overwrite=options.overwrite
            ),
            lane=MODEL_LANE,
        ).summary()

    @api.post("/dataset/replace")
    def replace(options: ReplaceRequest) -> ReplacedCaptions:
        """Finds and replaces in all captions, or counts what that would change."""
        extent = "tags" if options.whole_tags else "words" if options.whole_words else "anywhere"
        return captions.replace(options.dataset, options.find, options.put, extent=extent, dry=options.dry)

    @api.post("/dataset/tag")
    def tag(options: AddedTagRequest) -> ReplacedCaptions:
        """Adds a tag to all captions that lack it."""
        return captions.add_tag(options.dataset, options.tag, first=options.first)

    @api.post("/dataset/undo")
    def undo(options: UndoRequest) -> ReplacedCaptions:
        """Takes a change of all captions, or of a crop and mask, back; undoing what this answers does it again."""
        return captions.undo(options.change)

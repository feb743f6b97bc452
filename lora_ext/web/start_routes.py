"""Routes of Start here: pictures that are sent by the page, and the settings that suit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from ..errors import FileError, TrainError, did_you_mean
from ..file.displayed_names import displayed_name
from ..jobs import MODEL_LANE, Job, JobSummary
from ..train.config.suggested_recipe import KINDS_OF_CONCEPT
from ..train.config.suggested_setting import SuggestedSetting
from ..training.expected_length import ExpectedLength, expected_lengths
from ..training.settings_for_pictures import (
    duplicate_pictures,
    regularisation_folder_name,
    sample_prompt_lines,
    scan_picture_folder,
    suggest_for_pictures,
)
from .app_state import AppState
from .dataset_browser import dataset_folder
from .page_files import REGULARISATION_PICTURE, page_folder
from .picture_uploads import AddedPictures, DuplicatePicture, add_uploaded_pictures
from .removed_pictures import remove_picture
from .routing import RequestBody
from .upload_files import MOST_FILES, PIECE_BYTES, save_upload_piece
from .user_paths import find_user_path, user_dataset_folder


class UploadRequest(RequestBody):
    """A piece of a file.

    Attributes:
        upload: 32 hexadecimal digits, the same for all files of an upload.
        file: The file's name, with its folders.
        offset: Where the piece begins, in bytes.
        data: The piece's bytes as base64.
    """

    upload: str = Field(max_length=32)
    file: str = Field(max_length=800)
    offset: int = Field(0, ge=0)
    data: str = Field(max_length=PIECE_BYTES * 4 // 3 + 4)


class AddRequest(RequestBody):
    """An upload that is complete.

    Attributes:
        upload: The upload's 32 hexadecimal digits.
        files: The names that were sent.
        dataset: The data set that its pictures go to; "" for a new one called `name`.
        name: Name of the new data set.
    """

    upload: str = Field(max_length=32)
    files: list[str]
    dataset: str = Field("", max_length=400)
    name: str = Field("", max_length=200)


class SuggestRequest(RequestBody):
    """What is taught.

    Attributes:
        kind: "person", "character", "style", "object" or "concept".
        dataset: The data set's name.
        trigger: The word that calls what is taught.
        checkpoint: The model, a name of `/choices`; "" for the one that is loaded, or the small one.
    """

    kind: str
    dataset: str
    trigger: str = Field(min_length=1, max_length=200)
    checkpoint: str = ""


@dataclass(frozen=True)
class UploadedBytes:
    """How many bytes of a file are there."""

    bytes: int


@dataclass(frozen=True)
class RemovedPicture:
    """A picture that was taken out of a data set.

    Attributes:
        kept: Where it is now, below the data folder.
    """

    kept: str


@dataclass(frozen=True)
class SettingWithReason:
    """A suggested setting.

    Attributes:
        name: The option.
        value: Its value.
        reason: One sentence that says why, in English.
        template: The sentence with {0}, {1} … for `values`, to be translated.
        values: What stands there; text is translated too.
    """

    name: str
    value: Any
    reason: str
    template: str
    values: list[str | int]


@dataclass(frozen=True)
class OfferedRegularisation:
    """Pictures that keep other prompts as they are, drawn where they are missing.

    Attributes:
        on: Whether they suit this run.
        reason: One sentence that says why, or why not, in English.
        template: The sentence with {0}, {1} … for `values`, to be translated.
        values: What stands there.
        settings: The options that it takes.
        expected: The length of the run with them.
    """

    on: bool
    reason: str
    template: str
    values: list[str | int]
    settings: list[SettingWithReason]
    expected: ExpectedLength


@dataclass(frozen=True)
class SuggestedTraining:
    """Suggested settings of a run.

    Attributes:
        settings: The options that are not at their defaults.
        expected: The length of the run without regularisation.
        regularisation: Pictures that keep other prompts as they are.
        prompts: Sample prompts, one a line.
        pictures: How many pictures can be read.
        duplicates: Pictures that are there twice.
        skipped: A sentence for each picture that cannot be read.
    """

    settings: list[SettingWithReason]
    expected: ExpectedLength
    regularisation: OfferedRegularisation
    prompts: str
    pictures: int
    duplicates: list[DuplicatePicture]
    skipped: list[str]


def suggest_training(app_state: AppState, options: SuggestRequest, job: Job) -> SuggestedTraining:
    """Looks at the pictures and the model. Raises LoraError."""
    folder = dataset_folder(app_state, options.dataset)
    job.text = "scanning pictures"
    scan = scan_picture_folder(folder)
    path = find_user_path(app_state.folders.checkpoints, options.checkpoint) if options.checkpoint else None
    job.text = "loading the model"
    with app_state.backend.open_trainable_model(str(path) if path else None) as model:
        name = regularisation_folder_name(options.kind, model)
        kept = user_dataset_folder(app_state.folders.datasets, name)
        suggested = suggest_for_pictures(options.kind, scan, model, options.trigger.strip(), kept, name)
        lengths = expected_lengths(folder, suggested, model)
    offer, why = suggested.regularisation, suggested.regularisation.choice
    return SuggestedTraining(
        settings=_rows(suggested.settings),
        expected=lengths.plain,
        regularisation=OfferedRegularisation(
            bool(why.value), why.reason, why.template, list(why.values), _rows(offer.settings), lengths.regularised
        ),
        prompts=sample_prompt_lines(scan, options.trigger.strip()),
        pictures=len(scan.images),
        duplicates=[
            DuplicatePicture(displayed_name(path.name), displayed_name(first.name))
            for path, first in duplicate_pictures(scan)
        ],
        skipped=[displayed_name(sentence.replace(str(folder), options.dataset)) for sentence in scan.skipped],
    )


def _rows(settings: Mapping[str, SuggestedSetting]) -> list[SettingWithReason]:
    return [
        SettingWithReason(name, row.value, row.reason, row.template, list(row.values)) for name, row in settings.items()
    ]


def register_start_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.post("/teach/upload")
    def upload(options: UploadRequest) -> UploadedBytes:
        """Receives a piece of a picture, a caption or a zip. It is kept apart until `/teach/pictures` is called."""
        size = save_upload_piece(app_state, options.upload, options.file, options.offset, options.data)
        return UploadedBytes(size)

    @api.post("/teach/pictures")
    def pictures(options: AddRequest) -> AddedPictures:
        """Adds the pictures and captions of an upload to a data set; names those that are left out, and why."""
        if len(options.files) > MOST_FILES:
            raise FileError(f"an upload has at most {MOST_FILES} files, not {len(options.files)}; send it in parts")
        return add_uploaded_pictures(app_state, options.upload, options.files, options.dataset, options.name)

    @api.delete("/dataset/picture")
    def remove(dataset: str = Query(..., max_length=400), picture: str = Query(..., max_length=800)) -> RemovedPicture:
        """Moves a picture and its caption out of a data set, into the folder `removed`."""
        return RemovedPicture(displayed_name(remove_picture(app_state, dataset, picture)))

    @api.get("/teach/regularisation-picture", response_class=Response)
    def regularisation_picture() -> Response:
        """What regularisation does: pictures of the small model without a LoRA, trained without it and with it."""
        path = page_folder() / REGULARISATION_PICTURE
        if not path.is_file():
            raise FileError(f"{path.name} is not installed here: see docs/guide in the project's folder")
        return Response(path.read_bytes(), media_type="image/png")

    @api.post("/teach/suggest", status_code=202)
    def suggest(options: SuggestRequest) -> JobSummary:
        """Suggests settings for the pictures of a data set, each with its reason. Answers with a job."""
        if options.kind not in KINDS_OF_CONCEPT:
            near = did_you_mean(options.kind, KINDS_OF_CONCEPT)
            raise TrainError(f"kind {options.kind[:40]!r} is none of {', '.join(KINDS_OF_CONCEPT)}{near}")
        dataset_folder(app_state, options.dataset)
        return app_state.jobs.start(
            "suggest", options.dataset, lambda job: suggest_training(app_state, options, job), lane=MODEL_LANE
        ).summary()

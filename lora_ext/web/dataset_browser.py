"""The dataset browser: pictures by bucket with their captions, edited in place; find and replace; tag counts."""

from __future__ import annotations

import io
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..errors import FileError, TrainError, did_you_mean
from ..file.displayed_names import displayed_name, find_by_displayed_parts, paths_by_displayed_name
from ..file.saving import check_not_linked, replacing_file
from ..jobs import Job
from ..progress import track_with_callback
from ..train.config.recipe import Recipe
from ..train.data import dataset_folders
from ..train.data.captioning import ImageCaptioner, caption_folder
from ..train.data.captions import caption_files
from ..train.data.dataset_scan import DatasetImage, DatasetScan, scan_dataset
from ..train.data.image_files import is_image_file, load_training_image
from ..train.data.picture_edit import crop_image, cropped_size, load_mask, load_picture_edit, picture_edit_path
from ..training.settings_for_pictures import REGULARISATION_FOLDER
from .app_state import AppState
from .user_paths import containing_folder, find_user_path, split_user_path

_LONGEST = 20_000
_THUMB, _SCREEN = 256, 1280


@dataclass(frozen=True)
class DatasetPicture:
    """A picture of a dataset.

    Attributes:
        name: Its path below the dataset.
        size: Width and height in pixels, of the part that is trained.
        bucket: Width×height that it is trained at.
        caption: Its caption; "" without one.
        concept: The concept that its folder's name gives.
        captioned: Whether it has a caption of its own.
        repeats: How often an epoch shows it.
        time: A number that changes with it, its crop and its mask.
        cropped: Whether a part of it is trained.
        masked: Whether a painted mask leaves something out.
    """

    name: str
    size: list[int]
    bucket: str
    caption: str
    concept: str
    captioned: bool
    repeats: int
    time: float
    cropped: bool
    masked: bool


@dataclass(frozen=True)
class DatasetAnswer:
    """A dataset.

    Attributes:
        pictures: Those without a caption first, then by bucket.
        buckets: Bucket → how many pictures.
        tags: The most frequent tags → how many captions have them.
        missing: How many pictures have no caption.
        skipped: A sentence for each picture that cannot be read.
    """

    pictures: list[DatasetPicture]
    buckets: dict[str, int]
    tags: dict[str, int]
    missing: int
    skipped: list[str]


@dataclass(frozen=True)
class DescribedPictures:
    """What describing the pictures of a dataset did.

    Attributes:
        written: How many captions were written.
        had: How many pictures have a caption already.
        skipped: A sentence for each picture that was left out.
    """

    written: int
    had: int
    skipped: list[str]


def dataset_names(app_state: AppState) -> list[str]:
    """Folders below the dataset folders that could be trained on, those drawn for regularisation last."""
    roots = [root for root in app_state.folders.datasets if root.is_dir()]
    inside = ((root, path) for root in roots for path in sorted(root.iterdir()))
    names = paths_by_displayed_name(
        (root, path) for root, path in inside if path.is_dir() and not path.name.startswith(".")
    )
    return sorted(names, key=lambda name: name.startswith(REGULARISATION_FOLDER))


def dataset_folder(app_state: AppState, name: str) -> Path:
    """The dataset's folder. Raises FileError."""
    path = find_user_path(app_state.folders.datasets, name)
    if not path.is_dir():
        raise FileError(f"{name!r} is not a folder")
    return path


def dataset_image_path(app_state: AppState, dataset: str, name: str) -> Path:
    """A picture of a dataset by its path below it, links followed. Raises FileError."""
    path = find_by_displayed_parts(dataset_folder(app_state, dataset), split_user_path(name))
    if path is None or not path.is_file() or not is_image_file(path):
        raise FileError(f"{displayed_name(dataset)} has no picture {displayed_name(name)!r}")
    return path


def _scan(folder: Path, recipe: Recipe) -> DatasetScan:
    try:
        recipe.size()
    except ValueError:
        raise TrainError(
            f"resolution {recipe.resolution[:40]!r} is not a side or width,height, such as 512 or 512,768"
        ) from None
    return scan_dataset(dataset_folders.find_subsets(replace(recipe, train_data_dir=str(folder))))


def browse_dataset(app_state: AppState, name: str, recipe: Recipe) -> DatasetAnswer:
    """A dataset's pictures with captions and the recipe's buckets; those without a caption first, then by bucket."""
    folder = dataset_folder(app_state, name)
    found = _scan(folder, recipe)
    tags: Counter[str] = Counter()
    buckets: Counter[str] = Counter()
    rows = []
    for picture in found.images:
        row = _row(picture, found, folder)
        rows.append(row)
        buckets[row.bucket] += 1
        if picture.has_caption:
            tags.update(tag for tag in (part.strip() for part in picture.caption.split(",")) if tag)
    rows.sort(key=lambda row: (row.captioned, row.bucket, row.name))
    return DatasetAnswer(
        pictures=rows,
        buckets=dict(buckets.most_common()),
        tags=dict(tags.most_common(500)),
        missing=sum(not row.captioned for row in rows),
        skipped=[displayed_name(sentence.replace(str(folder), name)) for sentence in found.skipped],
    )


def _row(picture: DatasetImage, found: DatasetScan, folder: Path) -> DatasetPicture:
    width, height = picture.bucket_fit.bucket
    return DatasetPicture(
        name=displayed_name(picture.path.relative_to(folder).as_posix()),
        size=list(picture.size),
        bucket=f"{width}×{height}",
        caption=picture.caption if picture.has_caption else "",
        concept=found.subsets[picture.subset].concept,
        captioned=picture.has_caption,
        repeats=found.subsets[picture.subset].repeats,
        time=_changed(picture.path),
        cropped=picture.crop is not None,
        masked=picture.mask == picture_edit_path(picture.path),
    )


def _changed(picture: Path) -> float:
    """When a picture, or its crop and mask, was changed. An edit that was removed makes it another time, too."""
    edit = picture_edit_path(picture)
    return picture.stat().st_mtime + (edit.stat().st_mtime if edit.is_file() else 0)


def dataset_thumbnail(app_state: AppState, dataset: str, name: str) -> bytes:
    """A small JPEG of what is trained of a picture; what a mask leaves out is dark. Raises FileError, TrainError."""
    path = dataset_image_path(app_state, dataset, name)
    image = load_training_image(path).rgb
    edit, _ = load_picture_edit(path)
    cropped_size(path, edit.crop, image.size)
    if edit.mask is not None:
        shown = load_mask(picture_edit_path(path), image.size).point(lambda white: 64 + white * 3 // 4)
        image = Image.composite(image, Image.new("RGB", image.size), shown)
    return _small_jpeg(crop_image(image, edit.crop), _THUMB)


def whole_picture(app_state: AppState, dataset: str, name: str) -> bytes:
    """A JPEG of a whole picture, at most as large as a screen. Raises FileError, TrainError."""
    return _small_jpeg(load_training_image(dataset_image_path(app_state, dataset, name)).rgb, _SCREEN)


def _small_jpeg(image: Image.Image, side: int) -> bytes:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85)
    return out.getvalue()


def save_dataset_caption(app_state: AppState, dataset: str, name: str, caption: str) -> None:
    """Writes the caption beside the picture, where one is already or as `.txt`. Raises FileError, also at a link."""
    save_picture_caption(app_state, dataset_image_path(app_state, dataset, name), caption)


def save_picture_caption(app_state: AppState, picture: Path, caption: str) -> None:
    """Writes the caption beside the picture. Raises FileError, also at a link."""
    if len(caption) > _LONGEST:
        raise FileError(f"a caption of {len(caption)} characters is too long; give at most {_LONGEST}")
    check_not_linked(picture.parent, containing_folder(app_state.folders.datasets, picture))
    with replacing_file(caption_path(picture), overwrite=True) as part:
        part.write_text(caption.strip() + "\n", encoding="utf-8", errors="replace")


def caption_path(picture: Path) -> Path:
    """The file of a picture's caption: the one that is read, else a new one."""
    return next((path for path, _ in caption_files(picture)), picture.with_suffix(".txt"))


def image_captioner(app_state: AppState, name: str) -> ImageCaptioner:
    """What describes pictures, by its name. Raises TrainError with the nearest name."""
    captioners = app_state.backend.image_captioners()
    if name not in captioners:
        raise TrainError(f"there is no interrogator {name!r}{did_you_mean(name, captioners)}")
    return captioners[name]


def describe_dataset(
    app_state: AppState, dataset: str, captioner: str, job: Job, *, overwrite: bool = False
) -> DescribedPictures:
    """Describes the dataset's pictures that have no caption, or all of them.

    Args:
        app_state: Has the captioners and the folders.
        dataset: The dataset's name.
        captioner: A name of the backend's captioners.
        job: Shows the progress; where it is stopped the captions so far are counted.
        overwrite: Whether captions that exist are replaced.

    Returns:
        How many captions were written.

    Raises:
        FileError: There is no such dataset.
        TrainError: There is no such captioner, the dataset has no pictures, or the captioner fails.
    """

    def show_progress(done: int, total: int, text: str) -> None:
        job.show_progress(done, total, text)

    try:
        report = caption_folder(
            dataset_folder(app_state, dataset),
            image_captioner(app_state, captioner),
            overwrite=overwrite,
            recursive=True,
            track=track_with_callback(show_progress),
            cancelled=job.cancelled,
        )
    except TrainError as error:
        if error.__cause__ is not None:  # the page shows the sentence; the console says where the model failed
            traceback.print_exception(error.__cause__)
        raise
    skipped = [displayed_name(app_state.hide_folders(sentence)) for sentence in report.skipped]
    return DescribedPictures(len(report.written), len(report.had), skipped)

"""An upload of the page → pictures and captions of a data set: what is damaged, twice or no picture is left out."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import FileError
from ..file.saving import check_not_linked
from ..train.data.captions import CAPTION_EXTENSIONS
from ..train.data.dataset_scan import SCAN_THREADS
from ..train.data.image_files import (
    IMAGE_FILE_SUFFIXES,
    UnreadableImage,
    check_image_data,
    damaged_image_reason,
    is_image_file,
    rejecting_truncated_images,
)
from .app_state import AppState
from .dataset_browser import dataset_folder
from .upload_files import ReceivedFile, received_files, upload_folder
from .user_paths import check_user_path, containing_folder, create_user_folder

MOST_CAPTION_BYTES = 100_000
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF", "JXL")
"""Formats of the endings that are accepted: of the others some start another program to be decoded, such as EPS."""
_LONGEST_STEM = 150
"""Bytes of a picture's name without its ending."""


@dataclass(frozen=True)
class RefusedFile:
    """A file of an upload that is left out.

    Attributes:
        file: Its name.
        reason: Why.
    """

    file: str
    reason: str


@dataclass(frozen=True)
class DuplicatePicture:
    """A picture of an upload that is there already.

    Attributes:
        file: Its name.
        same_as: The name of the same picture in the data set.
    """

    file: str
    same_as: str


@dataclass
class AddedPictures:
    """What became of an upload.

    Attributes:
        dataset: The data set; "" where nothing was added to a new one.
        added: Names of the pictures that were added.
        captions: How many captions came with them.
        duplicates: Pictures that are there already.
        refused: Files that are left out.
    """

    dataset: str
    added: list[str] = field(default_factory=list)
    captions: int = 0
    duplicates: list[DuplicatePicture] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)


def add_uploaded_pictures(
    app_state: AppState, upload: str, files: Sequence[str], dataset: str, name: str
) -> AddedPictures:
    """Checks the files of an upload and adds the good ones to a data set. The upload is then gone.

    Args:
        app_state: Has the folders.
        upload: The upload.
        files: The names of its files, as they were sent.
        dataset: The data set to add to; "" for a new one.
        name: What a new data set is called; a number is added where the name is taken.

    Returns:
        What was added, and what was not.

    Raises:
        FileError: A name that is not accepted, or a folder that cannot be written.
    """
    folder = upload_folder(app_state, upload)
    if not dataset and len(check_user_path(name).parts) != 1:
        raise FileError(f"the name {name[:80]!a} must be a name without folders")
    place = _existing_dataset(app_state, dataset) if dataset else None
    result = AddedPictures(dataset)
    try:
        received = list(received_files(folder, files, lambda *why: result.refused.append(RefusedFile(*why))))
        pictures = list(_check_pictures(received, result))
        if pictures and place is None:
            place = _new_dataset(app_state, name)
            result.dataset = place.name
        if place is not None:
            _add(place, received, pictures, result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _existing_dataset(app_state: AppState, dataset: str) -> Path:
    place = dataset_folder(app_state, dataset)
    check_not_linked(place, containing_folder(app_state.folders.datasets, place))
    return place


def _new_dataset(app_state: AppState, name: str) -> Path:
    root = app_state.folders.datasets[0]
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    place = next(root / free for free in names if not (root / free).exists())
    check_not_linked(place, root)
    create_user_folder(place)
    return place


def _check_pictures(received: Sequence[ReceivedFile], result: AddedPictures) -> Iterator[tuple[ReceivedFile, str]]:
    """The pictures that can be decoded, with the digests of their bytes."""

    def check(file: ReceivedFile) -> str | RefusedFile:
        try:
            data = file.path.read_bytes()
            _check_format(file, data)
            check_image_data(Path(file.name), data)
        except (UnreadableImage, OSError) as error:
            return RefusedFile(file.name, str(error).removeprefix(f"{Path(file.name)} "))
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    pictures = [file for file in received if file.suffix in IMAGE_FILE_SUFFIXES]
    with rejecting_truncated_images(), ThreadPoolExecutor(SCAN_THREADS) as pool:
        for file, found in zip(pictures, pool.map(check, pictures), strict=True):
            if isinstance(found, RefusedFile):
                result.refused.append(found)
            else:
                yield file, found


def _check_format(file: ReceivedFile, data: bytes) -> None:
    """Raises UnreadableImage for what is none of `_FORMATS`."""
    Image.init()
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN]):
            return
    except Exception:  # decoders have many words for a damaged file
        raise UnreadableImage(damaged_image_reason(Path(file.name), len(data))) from None


def _add(
    place: Path,
    received: Sequence[ReceivedFile],
    pictures: Sequence[tuple[ReceivedFile, str]],
    result: AddedPictures,
) -> None:
    """Moves pictures and captions into the data set."""
    there = [path for path in place.iterdir() if is_image_file(path) and path.is_file()]
    sizes = {file.path.stat().st_size for file, _ in pictures}
    digests = {_digest(path): path.name for path in there if path.stat().st_size in sizes}
    stems = {path.stem: path.stem for path in there}
    taken = {path.stem.lower() for path in there}
    head = _common_folders([file for file, _ in pictures])
    for file, digest in pictures:
        if digest in digests:
            result.duplicates.append(DuplicatePicture(file.name, digests[digest]))
            stems.setdefault(file.stem, Path(digests[digest]).stem)
            continue
        stem = _free_stem("-".join(file.parts[head:])[: -len(file.suffix)], taken)
        target = place / f"{stem}{file.suffix}"
        shutil.move(file.path, target)
        digests[digest] = target.name
        stems[file.stem] = stem
        result.added.append(target.name)
    captions = [file for file in received if file.suffix in CAPTION_EXTENSIONS]
    result.captions = sum(_add_caption(place, file, stems.get(file.stem), result) for file in captions)


def _add_caption(place: Path, file: ReceivedFile, stem: str | None, result: AddedPictures) -> bool:
    """Moves a caption beside its picture; a caption that is there stays."""
    reason = ""
    if stem is None:
        reason = "there is no picture of this name"
    elif any((place / f"{stem}{suffix}").exists() for suffix in CAPTION_EXTENSIONS):
        reason = "its picture has a caption already"
    elif file.path.stat().st_size > MOST_CAPTION_BYTES:
        reason = f"a caption has at most {MOST_CAPTION_BYTES} bytes"
    if reason:
        result.refused.append(RefusedFile(file.name, reason))
        return False
    shutil.move(file.path, place / f"{stem}{file.suffix}")
    return True


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _common_folders(files: Sequence[ReceivedFile]) -> int:
    """How many folders all files begin with."""
    count = min((len(file.parts) - 1 for file in files), default=0)
    return next((n for n in range(count) if len({file.parts[n] for file in files}) > 1), count)


def _free_stem(stem: str, taken: set[str]) -> str:
    """A name that no picture of the data set has, whatever its ending: captions belong to names without one."""
    stem = stem.encode("utf-8")[:_LONGEST_STEM].decode("utf-8", "ignore").strip(" .") or "picture"
    free, number = stem, 2
    while free.lower() in taken:
        free, number = f"{stem}-{number}", number + 1
    taken.add(free.lower())
    return free

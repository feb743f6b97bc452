"""The picture beside a LoRA file: shown, and made from an upload or from a picture that a job made."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Query
from PIL import Image, ImageOps
from pydantic import Field
from starlette.responses import FileResponse, Response

from ..compare.cell_store import CELLS_FOLDER
from ..errors import FileError
from ..file.saving import replacing_file
from ..host.infotext import png_save_options
from ..region_masks import MASKS_FOLDER
from .app_state import AppState
from .routing import RequestBody
from .user_paths import find_user_path

OUTPUT_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
THUMBNAIL_SUFFIXES = tuple(f"{mark}{suffix}" for suffix in OUTPUT_IMAGE_SUFFIXES for mark in ("", ".preview"))
"""What a file's picture beside it may be called after its stem: the web UI's names, in its order."""
VIDEO_SUFFIXES = tuple(f"{mark}{suffix}" for suffix in (".mp4", ".webm") for mark in ("", ".preview"))
"""What a moving preview beside a file may be called, as downloaders write it; shown where there is no picture."""
SHEET_FOLDERS = ("compare", "blocks")
"""Folders of pictures that are made of others, which lie in their `cells`."""
_SIDE = 768
"""Pixels of the longer side of what is written: the web UI's cards show it larger than our lists."""
_LARGEST = 40_000_000
"""Bytes of an upload, and pixels of what it may unfold to."""


class ThumbnailRequest(RequestBody):
    """A file's new picture.

    Attributes:
        name: The file's name in the library.
        picture: A picture's name below the output folder; "" where `data` is given.
        data: An uploaded picture's bytes as base64; "" where `picture` is given.
    """

    name: str
    picture: str = ""
    data: str = Field("", max_length=_LARGEST * 4 // 3)


@dataclass(frozen=True)
class OutputImage:
    """A picture below the output folder.

    Attributes:
        name: Its path below the output folder.
        time: When it was changed, in seconds since 1970.
    """

    name: str
    time: float


@dataclass(frozen=True)
class OutputImages:
    """Pictures below the output folder, newest first."""

    pictures: list[OutputImage]


@dataclass(frozen=True)
class SavedThumbnail:
    """A file's new picture.

    Attributes:
        time: When it was written, in seconds since 1970.
    """

    time: float


def find_thumbnail(path: Path) -> Path | None:
    """The picture that lies beside a file, else the moving one, if there is one."""
    beside = (path.with_name(path.stem + suffix) for suffix in (*THUMBNAIL_SUFFIXES, *VIDEO_SUFFIXES))
    return next((found for found in beside if found.is_file()), None)


def output_image_path(app_state: AppState, name: str) -> Path:
    """A picture by its name below the output folder. Raises FileError."""
    path = find_user_path([app_state.folders.outputs], name)
    if path.suffix.lower() not in OUTPUT_IMAGE_SUFFIXES or not path.is_file():
        raise FileError(f"{name!r} is not a picture")
    return path


def save_thumbnail(app_state: AppState, options: ThumbnailRequest) -> Path:
    """Writes `STEM.png` beside the file, which every list then shows; what made the picture stays in it.

    Raises FileError for what is no picture, or is too large.
    """
    entry = app_state.changeable_entry(options.name)
    path = entry.path.with_name(entry.path.stem + THUMBNAIL_SUFFIXES[0])
    image = _opened(
        output_image_path(app_state, options.picture).read_bytes() if options.picture else decode_upload(options.data)
    )
    save_options = png_save_options(image)
    with contextlib.suppress(Exception):  # Pillow has many errors for damaged EXIF: the picture stays as it lies
        image = ImageOps.exif_transpose(image) or image
    image = image.convert("RGB")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    with replacing_file(path, overwrite=True) as part:
        image.save(part, format="PNG", **save_options)
    return path


def decode_upload(data: str) -> bytes:
    """The bytes of an upload that came as base64. Raises FileError where it is none."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise FileError("data is not base64 text") from None


@contextlib.contextmanager
def reading_picture(data: bytes) -> Iterator[Image.Image]:
    """Opens a received picture; raises FileError where it is none, also where that shows only while it is read."""
    if not data:
        raise FileError("the file is empty")
    try:
        yield Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
    except FileError:
        raise
    except Exception as error:  # decoders have many words for a damaged file
        raise FileError("the file is not a PNG, JPEG or WebP picture") from error


def _opened(data: bytes) -> Image.Image:
    """The picture. Its size is looked at before it is unfolded."""
    with reading_picture(data) as image:
        if image.width * image.height > _LARGEST:
            raise FileError(
                f"a picture of {image.width}×{image.height} is too large; "
                f"give at most {_LARGEST // 10**6} million pixels"
            )
        image.load()
    return image


def recent_images(app_state: AppState, limit: int) -> list[OutputImage]:
    """The newest pictures below the output folder: those that a model drew, not whole sheets and masks."""
    outputs = app_state.folders.outputs
    found: list[OutputImage] = []
    for path in outputs.rglob("*"):
        name = path.relative_to(outputs)
        whole = (name.parts[0] in SHEET_FOLDERS and CELLS_FOLDER not in name.parts) or MASKS_FOLDER in name.parts[:-1]
        if path.suffix.lower() in OUTPUT_IMAGE_SUFFIXES and not whole and path.is_file():
            found.append(OutputImage(name.as_posix(), path.stat().st_mtime))
    return sorted(found, key=lambda image: -image.time)[:limit]


def register_thumbnail_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""

    @api.get("/thumbnail", response_class=Response)
    def show(name: str = Query(..., max_length=800)) -> Response:
        """The picture or video beside a file. 404 without one."""
        path = find_thumbnail(app_state.entry(name).path)
        return FileResponse(path) if path else Response(status_code=404)

    @api.put("/thumbnail")
    def write(options: ThumbnailRequest) -> SavedThumbnail:
        """Puts a picture beside a file, where the web UI looks for it."""
        return SavedThumbnail(save_thumbnail(app_state, options).stat().st_mtime)

    @api.get("/pictures", response_class=Response)
    def one(name: str = Query(..., max_length=800)) -> Response:
        """A picture below the output folder."""
        return FileResponse(output_image_path(app_state, name))

    @api.get("/pictures/newest")
    def newest(limit: int = Query(60, ge=1, le=500)) -> OutputImages:
        """The newest pictures below the output folder: sheets' cells, samples, drawings."""
        return OutputImages(recent_images(app_state, limit))

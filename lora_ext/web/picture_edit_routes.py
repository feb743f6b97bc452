"""Routes that crop and mask pictures of a data set; the pictures themselves stay as they are."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from ..errors import FileError
from ..train.data.image_files import load_training_image
from ..train.data.picture_edit import PictureEdit, check_crop, load_mask, load_picture_edit, picture_edit_path
from . import dataset_browser
from .app_state import AppState
from .caption_changes import CaptionChanges
from .routing import RequestBody
from .thumbnails import decode_upload

_MOST_MASK_BYTES = 10_000_000


class PictureEditRequest(RequestBody):
    """What is trained of a picture.

    Attributes:
        dataset: The data set's name.
        picture: The picture's path below the data set.
        crop: Left, top, width and height in pixels; null for all of it.
        mask: A picture's bytes as base64, whose white is learned; "" for all of it.
    """

    dataset: str = Field(max_length=400)
    picture: str = Field(max_length=800)
    crop: tuple[int, int, int, int] | None = None
    mask: str = Field("", max_length=_MOST_MASK_BYTES * 4 // 3)


@dataclass(frozen=True)
class PictureEditAnswer:
    """What is trained of a picture.

    Attributes:
        size: Width and height of the whole picture.
        crop: Left, top, width and height of the part that is trained; None for all of it.
        mask: A PNG as base64 over the whole picture, whose white is learned; "" for all of it.
    """

    size: list[int]
    crop: list[int] | None
    mask: str


@dataclass(frozen=True)
class SavedPictureEdit:
    """A crop and mask that were saved.

    Attributes:
        undo: The change's number, by which it is undone; None where nothing changed.
    """

    undo: int | None


def _checked_mask(path: Path, data: bytes, size: tuple[int, int]) -> bytes | None:
    """The mask as a greyscale PNG; None where it leaves nothing out. Raises FileError."""
    mask = load_training_image(path, data).rgb.convert("L")
    darkest, brightest = mask.getextrema()
    if brightest == 0:
        raise FileError("this mask leaves everything out; take the picture out of the data set instead")
    if abs(mask.width * size[1] - mask.height * size[0]) > 2 * max(*size, *mask.size):
        raise FileError(f"the mask is {mask.width}×{mask.height}, another shape than the picture's {size[0]}×{size[1]}")
    if darkest == 255:
        return None
    out = io.BytesIO()
    mask.save(out, format="PNG")
    return out.getvalue()


def save_picture_edit(app_state: AppState, changes: CaptionChanges, options: PictureEditRequest) -> int | None:
    """Saves a picture's crop and mask; the change's number. Raises FileError, TrainError."""
    path = dataset_browser.dataset_image_path(app_state, options.dataset, options.picture)
    size = load_training_image(path).rgb.size
    crop = None if options.crop == (0, 0, *size) else options.crop
    try:
        check_crop(crop, size)
    except ValueError as error:
        raise FileError(str(error)) from None
    mask = _checked_mask(path, decode_upload(options.mask), size) if options.mask else None
    edit = PictureEdit(crop, mask)
    return changes.save_beside(picture_edit_path(path), None if edit == PictureEdit() else edit.to_json())


def register_picture_edit_routes(api: APIRouter, app_state: AppState, changes: CaptionChanges) -> None:
    """Adds the routes.

    Args:
        api: The router.
        app_state: Has the folders.
        changes: Keeps the changes, to undo them.
    """

    @api.get("/dataset/edit")
    def edit(dataset: str = Query(..., max_length=400), picture: str = Query(..., max_length=800)) -> PictureEditAnswer:
        """The crop and the mask of a picture."""
        path = dataset_browser.dataset_image_path(app_state, dataset, picture)
        size, found = load_training_image(path).rgb.size, load_picture_edit(path)[0]
        if found.mask is not None:
            load_mask(picture_edit_path(path), size)  # a damaged one is said, not shown
        mask = base64.b64encode(found.mask or b"").decode("ascii")
        return PictureEditAnswer(list(size), list(found.crop) if found.crop else None, mask)

    @api.put("/dataset/edit")
    def save(options: PictureEditRequest) -> SavedPictureEdit:
        """Saves the crop and the mask of a picture in a file beside it; the picture stays as it is."""
        return SavedPictureEdit(save_picture_edit(app_state, changes, options))

    @api.get("/dataset/whole", response_class=Response)
    def whole(dataset: str = Query(..., max_length=400), picture: str = Query(..., max_length=800)) -> Response:
        """A picture without its crop and mask, as a JPEG."""
        return Response(
            dataset_browser.whole_picture(app_state, dataset, picture),
            media_type="image/jpeg",
            headers={"Cache-Control": "no-cache"},
        )

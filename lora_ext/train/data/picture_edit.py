"""A picture's crop and mask as data in a file beside it. The picture itself is never changed."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...json_text import parse_json
from .buckets import PixelSize
from .image_files import DecodedImage, PixelBox, UnreadableImage, load_training_image

PICTURE_EDIT_SUFFIX = ".edit.json"
"""Behind the picture's whole name: `a.png.edit.json`."""
MOST_EDIT_BYTES = 30_000_000


@dataclass(frozen=True)
class PictureEdit:
    """What is trained of a picture.

    Attributes:
        crop: The part of the upright picture; None for all of it.
        mask: A PNG over the whole picture, whose brightness weighs the loss as kohya's `masked_loss` does: white is
            learned, black is not. None for white.
    """

    crop: PixelBox | None = None
    mask: bytes | None = None

    def to_json(self) -> bytes:
        """The content of its file."""
        mask = None if self.mask is None else base64.b64encode(self.mask).decode("ascii")
        return json.dumps({"crop": self.crop, "mask": mask}).encode("ascii")


def picture_edit_path(picture: Path) -> Path:
    """The file of a picture's crop and mask."""
    return picture.with_name(picture.name + PICTURE_EDIT_SUFFIX)


def load_picture_edit(picture: Path) -> tuple[PictureEdit, bytes]:
    """Loads a picture's crop and mask.

    Args:
        picture: The picture.

    Returns:
        (the crop and the mask, the file's bytes); neither and b"" where there is no file.

    Raises:
        UnreadableImage: The file is damaged.
    """
    path = picture_edit_path(picture)
    try:
        if not path.is_file():
            return PictureEdit(), b""
        if path.stat().st_size > MOST_EDIT_BYTES:
            raise ValueError("it is too large")
        data = path.read_bytes()
        return _parse(parse_json(data.decode("utf-8"))), data
    except (OSError, ValueError, binascii.Error) as error:
        raise UnreadableImage(f"{path} cannot be read: {error}; crop and mask the picture anew") from None


def _parse(found: object) -> PictureEdit:
    """Raises ValueError."""
    crop, mask = (found.get("crop"), found.get("mask")) if isinstance(found, dict) else (0, 0)
    if crop is not None and not (isinstance(crop, list) and len(crop) == 4 and all(type(x) is int for x in crop)):
        raise ValueError(f"its crop {str(crop)[:40]} is not [left, top, width, height]")
    if mask is not None and not isinstance(mask, str):
        raise ValueError("its mask is no text")
    return PictureEdit(
        None if crop is None else (crop[0], crop[1], crop[2], crop[3]),
        None if mask is None else base64.b64decode(mask, validate=True),
    )


def check_crop(crop: PixelBox | None, size: PixelSize) -> None:
    """Raises ValueError where a crop does not lie in a picture of (width, height)."""
    if crop is None:
        return
    left, top, width, height = crop
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        where = f"{width}x{height} at {left},{top}"
        raise ValueError(f"the crop {where} does not lie in the picture of {size[0]}x{size[1]}")


def cropped_size(picture: Path, crop: PixelBox | None, size: PixelSize) -> PixelSize:
    """The size of the part that is trained. Raises UnreadableImage where the crop is not in the picture."""
    try:
        check_crop(crop, size)
    except ValueError as error:
        raise UnreadableImage(f"{picture} is left out: {error}; crop it anew") from None
    return size if crop is None else (crop[2], crop[3])


def crop_image(image: Image.Image, crop: PixelBox | None) -> Image.Image:
    """The cropped part of an image."""
    if crop is None:
        return image
    left, top, width, height = crop
    return image.crop((left, top, left + width, top + height))


def load_cropped_image(picture: Path) -> DecodedImage:
    """The part of a picture that is trained, with its alpha channel. Raises UnreadableImage."""
    whole, crop = load_training_image(picture), load_picture_edit(picture)[0].crop
    cropped_size(picture, crop, whole.rgb.size)
    return DecodedImage(crop_image(whole.rgb, crop), None if whole.alpha is None else crop_image(whole.alpha, crop))


def load_mask(path: Path, size: PixelSize) -> Image.Image:
    """A mask (mode L) of a whole picture.

    Args:
        path: A picture, or the file of a picture's crop and mask.
        size: (width, height) of the whole picture.

    Returns:
        The mask, of that size.

    Raises:
        UnreadableImage: It cannot be decoded.
    """
    if path.name.endswith(PICTURE_EDIT_SUFFIX):
        edit, _ = load_picture_edit(path.with_name(path.name.removesuffix(PICTURE_EDIT_SUFFIX)))
        mask = load_training_image(path, edit.mask or b"").rgb.convert("L")
    else:
        mask = load_training_image(path).rgb.convert("L")
    return mask if mask.size == size else mask.resize(size)

"""Image files → pixels: decoding of any mode, EXIF orientation, scaling, cropping and augmentation."""

from __future__ import annotations

import contextlib
import io
import math
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps
from torch import Tensor

from ...counted_words import counted
from ...errors import TrainError
from ...file.broken_links import broken_links_ending, broken_links_note, is_broken_link
from ...file.unreadable_files import EMPTY_FILE_REASON, why_unreadable
from ...protocols import VAE_SCALE_FACTOR
from .buckets import BucketFit, PixelSize, covering_size

IMAGE_FILE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jfif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".jxl",
    ".heic",
)
"""Suffixes of images; those that the installed Pillow cannot decode are reported as unreadable."""
TRANSPARENT_BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels, whose own colour in the file is arbitrary."""
MAX_DECODED_PIXELS = 178_956_970
"""Most pixels of an image; above Pillow's own limit a file may be a decompression bomb."""
_PIXELS_OF_ANY_FILE, _PIXELS_A_BYTE = 16_000_000, 1200
"""Above the first number, the most pixels for each byte of a file: more than formats pack of a plain area in colour."""
_BAD = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, ArithmeticError, MemoryError,
        AttributeError, struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip

RESAMPLING_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "lanczos4": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
"""kohya's names (OpenCV's) → Pillow's filters, which average over the area when they reduce."""

PixelBox = tuple[int, int, int, int]
"""left, top, width, height, in pixels."""


class UnreadableImage(TrainError):
    """A file that is not an image, or a damaged one."""


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        rgb: The image, mode RGB.
        alpha: Its alpha channel, mode L, or None.
    """

    rgb: Image.Image
    alpha: Image.Image | None


@contextlib.contextmanager
def rejecting_truncated_images() -> Iterator[None]:
    """Inside, a truncated image is an error.

    Programs around us, such as the web UI, may have set Pillow's LOAD_TRUNCATED_IMAGES, which fills the rest with grey.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def find_images(folder: Path, recursive: bool) -> tuple[list[Path], list[str]]:
    """Lists the images of a folder in order.

    Args:
        folder: The folder.
        recursive: Whether the folders inside are searched too.

    Returns:
        (the images, a sentence on links to images that do not exist).

    Raises:
        TrainError: There is no image.
    """
    named = sorted(path for path in folder.glob("**/*" if recursive else "*") if is_image_file(path))
    found, links = [path for path in named if path.is_file()], list(filter(is_broken_link, named))
    if not found:
        deep = "" if recursive else "; --recursive looks into the folders inside"
        ending = deep + broken_links_ending(links)
        raise TrainError(f"{folder} has no pictures{ending}")
    return found, [broken_links_note(links)] if links else []


def is_image_file(path: Path) -> bool:
    """Whether a file name is an image's; hidden files, such as macOS' `._a.jpg`, are not.

    Args:
        path: The file; only its name counts.

    Returns:
        Whether its ending is one of `IMAGE_FILE_SUFFIXES`.
    """
    return path.suffix.lower() in IMAGE_FILE_SUFFIXES and not path.name.startswith(".")


def load_training_image(path: Path, data: bytes | None = None) -> DecodedImage:
    """Decodes an image, turned upright, 8 bits a channel.

    Transparent pixels are put on white, 16-bit values are scaled, and CMYK is converted with its own colour profile.
    The first frame of an animation is used.

    Args:
        path: The file.
        data: Its bytes, if they were read already.

    Returns:
        The image and its alpha channel.

    Raises:
        UnreadableImage: The file cannot be decoded; the message says why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = path.read_bytes() if data is None else data
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image.size, path, len(data))
                image.load()
                return _upright(image)
    except UnreadableImage:
        raise
    except _BAD as error:
        raise UnreadableImage(f"{path} cannot be read: {_reason(error, path, data)}") from None


def check_image_data(path: Path, data: bytes) -> PixelSize:
    """The upright (width, height) of an image, after all of its data was decoded. Raises UnreadableImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image.size, path, len(data))
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                image.draft(
                    "RGB", (max(1, width // 8), max(1, height // 8))
                )  # a JPEG is decoded whole, at an eighth of its size
                image.load()
                return (height, width) if turned else (width, height)
    except UnreadableImage:
        raise
    except _BAD as error:
        raise UnreadableImage(f"{path} cannot be read: {_reason(error, path, data)}") from None


def _check_size(size: PixelSize, path: Path, file_size: int) -> None:
    if size[0] * size[1] > MAX_DECODED_PIXELS:
        raise UnreadableImage(f"{path} has {size[0]}x{size[1]} pixels, which is too large; make it smaller first")
    if size[0] * size[1] > max(_PIXELS_OF_ANY_FILE, _PIXELS_A_BYTE * file_size):
        raise UnreadableImage(
            f"{path} claims {size[0]}x{size[1]} pixels in {counted(file_size, 'byte')}; make it smaller first"
        )


def damaged_image_reason(path: Path, size: int) -> str:
    """What is wrong with a file of `size` bytes that no decoder takes for an image."""
    if not size:
        return EMPTY_FILE_REASON
    return f"it is damaged, or of a kind that cannot be read here ({path.suffix}); save it as JPEG or PNG"


def _reason(error: BaseException, path: Path, data: bytes | None) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return damaged_image_reason(path, len(data or b""))
    if isinstance(error, OSError) and error.strerror:
        return why_unreadable(path, error)
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _upright(image: Image.Image) -> DecodedImage:
    """Upright RGB and alpha of a loaded image of any mode."""
    image = ImageOps.exif_transpose(image) or image
    alpha = None
    if "transparency" in image.info and image.mode in ("P", "L", "RGB", "1"):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*TRANSPARENT_BACKGROUND, 255)), image)
    return DecodedImage(_as_rgb(image), alpha)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_numbers(np.asarray(image), image.mode).convert("RGB")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted if converted is not None else image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile: convert without it
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_numbers(values: np.ndarray, mode: str) -> Image.Image:
    """One channel of integers (16 bits, which Pillow may hold in 32) or floats → mode L."""
    values = values.astype(np.float64)
    if mode == "F" and values.size and values.max() <= 1:
        scale = 255.0  # floats are in 0..1 or in 0..255
    elif mode == "F":
        scale = 1.0
    else:
        scale = 255 / 65535 if values.max(initial=0) <= 65535 else 255 / values.max()
    return Image.fromarray(np.clip(np.nan_to_num(values * scale) + 0.5, 0, 255).astype(np.uint8))


def resize_image(image: Image.Image, size: PixelSize, interpolation: str | None = None) -> Image.Image:
    """Scales an image.

    Args:
        image: The image.
        size: (width, height).
        interpolation: A name of `RESAMPLING_FILTERS`. Without one area is used to reduce and Lanczos to enlarge, as by
            kohya's scripts.
    """
    if image.size == size:
        return image
    if interpolation is not None:
        return image.resize(size, RESAMPLING_FILTERS[interpolation])
    shrinks = size[0] <= image.width and size[1] <= image.height
    return image.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class AugmentationRules:
    """How images are scaled and varied; names as in kohya's scripts.

    Attributes:
        flip_aug: Whether images are mirrored half of the time.
        color_aug: Whether hue and gamma vary.
        random_crop: Whether images are cropped at a random place.
        face_crop: (smallest, largest) size of the crop around a face, as factors of the face's size.
        resize_interpolation: A name of `RESAMPLING_FILTERS`.
        alpha_mask: Whether the alpha channel is the mask.
    """

    flip_aug: bool = False
    color_aug: bool = False
    random_crop: bool = False
    face_crop: tuple[float, float] | None = None
    resize_interpolation: str | None = None
    alpha_mask: bool = False

    @property
    def fixed(self) -> bool:
        """Whether an image has the same pixels in every step, apart from flipping, so that latents can be cached."""
        return not (self.color_aug or self.random_crop or self.face_crop)


class ImageCrop(NamedTuple):
    """Where an image is cropped.

    Attributes:
        source_box: The part of the image that is scaled; None for all of it.
        resized: (width, height) that it is scaled to.
        left: Left edge of the bucket in the scaled part.
        top: Top edge of the bucket in the scaled part.
    """

    source_box: PixelBox | None
    resized: PixelSize
    left: int
    top: int


def choose_crop(
    size: PixelSize, bucket_fit: BucketFit, rules: AugmentationRules, rng: random.Random, face: PixelBox | None = None
) -> ImageCrop:
    """Chooses the crop of an image: the centre, a random place, or around a face.

    Args:
        size: (width, height) of the image.
        bucket_fit: Its bucket and scaled size.
        rules: The augmentation rules.
        rng: The random numbers.
        face: The face's box, for `face_crop`.

    Returns:
        The crop.
    """
    part, resized = None, bucket_fit.resized
    if rules.face_crop and face:
        part = crop_around_face(face, size, bucket_fit.bucket, rng.uniform(*rules.face_crop))
        resized = covering_size(part[2:], bucket_fit.bucket)
    spare = resized[0] - bucket_fit.bucket[0], resized[1] - bucket_fit.bucket[1]
    if rules.random_crop:
        return ImageCrop(part, resized, rng.randint(0, spare[0]), rng.randint(0, spare[1]))
    return ImageCrop(part, resized, spare[0] // 2, spare[1] // 2)


def crop_around_face(face: PixelBox, size: PixelSize, bucket: PixelSize, factor: float) -> PixelBox:
    """A box of the bucket's aspect ratio that contains the face; its shorter side is `factor` times the face."""
    shorter = max(1.0, max(face[2:]) * factor)
    scale = shorter / min(bucket)
    scale = min(scale, size[0] / bucket[0], size[1] / bucket[1])
    width, height = (max(1, math.floor(side * scale)) for side in bucket)
    left = round(face[0] + face[2] / 2 - width / 2)
    top = round(face[1] + face[3] / 2 - height / 2)
    return min(max(left, 0), size[0] - width), min(max(top, 0), size[1] - height), width, height


def apply_crop(image: Image.Image, crop: ImageCrop, bucket: PixelSize, interpolation: str | None) -> Image.Image:
    """Scales and crops an image to the size of its bucket."""
    if crop.source_box:
        left, top, width, height = crop.source_box
        image = image.crop((left, top, left + width, top + height))
    image = resize_image(image, crop.resized, interpolation)
    return image.crop((crop.left, crop.top, crop.left + bucket[0], crop.top + bucket[1]))


def vary_colour(image: Image.Image, rng: random.Random) -> Image.Image:
    """Changes hue (up to 16 degrees) or gamma (0.95 to 1.05) in a third of the calls, as kohya's scripts do."""
    if rng.random() >= 1 / 3:
        return image
    if rng.random() < 0.5:
        shift = round(rng.uniform(-8, 8) / 180 * 256)
        hue, saturation, value = image.convert("HSV").split()
        return Image.merge("HSV", (hue.point(lambda h: (h + shift) % 256), saturation, value)).convert("RGB")
    gamma = rng.uniform(0.95, 1.05)
    return image.point([round(255 * (v / 255) ** gamma) for v in range(256)] * 3)


def image_to_pixels(image: Image.Image) -> Tensor:
    """RGB image → (3, h, w) float32 in −1..1."""
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    return values.permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1)


def image_to_latent_mask(image: Image.Image) -> Tensor:
    """A mask (mode L) of a bucket's size → (1, h/8, w/8) float32 in 0..1, averaged over each latent pixel."""
    small = image.resize((image.width // VAE_SCALE_FACTOR, image.height // VAE_SCALE_FACTOR), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, dtype=np.uint8)).float().div_(255).unsqueeze(0)


FaceFinder = Callable[[Image.Image], PixelBox | None]
"""RGB image → the box of its largest face, or None."""

"""`CroppedImageLoader`: a data set's images and masks, cropped to their buckets and kept in memory."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from PIL import Image

from ...errors import TrainError
from .buckets import PixelSize
from .dataset_scan import DatasetImage
from .faces import opencv_face_finder, parse_face_box
from .image_files import FaceFinder, ImageCrop, PixelBox, apply_crop, choose_crop, load_training_image
from .picture_edit import crop_image, load_mask
from .subset import Subset

IMAGE_CACHE_BYTES = 2**30
"""Cropped images kept in memory, so that a repeat decodes nothing. 1 GiB is about 1,000 images of 512x512."""

ImageAndMask = tuple[Image.Image, Image.Image | None]
"""An RGB image and its mask (mode L, of the same size), or None without one."""


class CroppedImageLoader:
    """Loads images cropped to their buckets; safe for threads.

    Attributes:
        subsets: The subsets that the images' numbers refer to.
        find_face: Finds an image's largest face for `face_crop_aug_range`, where its name does not tell the box.
    """

    def __init__(self, subsets: Sequence[Subset], find_face: FaceFinder | None) -> None:
        self.subsets, self.find_face = subsets, find_face
        self._cache = _ImageCache(IMAGE_CACHE_BYTES)

    def load(self, image: DatasetImage, rng: random.Random) -> tuple[Image.Image, Image.Image | None, ImageCrop]:
        """An image as one step trains it: cropped to its bucket, its mask cropped alike, and the crop."""
        rules = self.subsets[image.subset].augmentation
        if rules.fixed:
            crop = choose_crop(image.size, image.bucket_fit, rules, rng)
            cropped, mask = self._cache.get(image, lambda: self.load_cropped(image, crop))
            return cropped, mask, crop
        whole, mask = self._load_whole(image)
        face = _named_face(image) if rules.face_crop else None
        if rules.face_crop and face is None and self.find_face:
            face = self.find_face(whole)
        crop = choose_crop(image.size, image.bucket_fit, rules, rng, face)
        return *self._apply(whole, mask, image, crop), crop

    def load_cropped(self, image: DatasetImage, crop: ImageCrop) -> ImageAndMask:
        """An image and its mask with a given crop, without keeping them."""
        return self._apply(*self._load_whole(image), image, crop)

    def _apply(
        self, whole: Image.Image, mask: Image.Image | None, image: DatasetImage, crop: ImageCrop
    ) -> ImageAndMask:
        interpolation, bucket = self.subsets[image.subset].augmentation.resize_interpolation, image.bucket_fit.bucket
        cropped = apply_crop(whole, crop, bucket, interpolation)
        return cropped, None if mask is None else apply_crop(mask, crop, bucket, interpolation)

    def _load_whole(self, image: DatasetImage) -> ImageAndMask:
        """The part of the decoded image that is trained, and its mask of the same size."""
        opened = load_training_image(image.path)
        rgb = crop_image(opened.rgb, image.crop)
        outside = image.crop and (
            image.crop[0] + image.crop[2] > opened.rgb.width or image.crop[1] + image.crop[3] > opened.rgb.height
        )
        if rgb.size != image.size or outside:
            raise TrainError(f"{image.path} was changed while training; start the run again")
        mask = opened.alpha if self.subsets[image.subset].augmentation.alpha_mask else None
        if image.mask is not None:
            mask = load_mask(image.mask, opened.rgb.size)
        return rgb, None if mask is None else crop_image(mask, image.crop)


def _named_face(image: DatasetImage) -> PixelBox | None:
    """The box of the face that the file's name tells, in the part that is trained."""
    face = parse_face_box(image.path)
    if face is None or image.crop is None:
        return face
    return face[0] - image.crop[0], face[1] - image.crop[1], face[2], face[3]


def default_face_finder(images: Sequence[DatasetImage], subsets: Sequence[Subset]) -> FaceFinder | None:
    """OpenCV's face finder where some image needs it: faces are cropped, and its name does not tell the box."""
    face_cropped = [image for image in images if subsets[image.subset].augmentation.face_crop]
    return opencv_face_finder() if any(parse_face_box(image.path) is None for image in face_cropped) else None


def crop_origin(crop: ImageCrop, image: DatasetImage, flipped: bool) -> tuple[int, int]:
    """(left, top) of the bucket in the whole image, in pixels of the image scaled as its crop; flipped: mirrored.

    SDXL's U-Net is given it (Podell et al. 2023, arXiv:2307.01952, section 2.2).
    """
    left, top, scale = crop.left, crop.top, crop.resized[0] / image.size[0]
    if crop.source_box:
        scale = crop.resized[0] / crop.source_box[2]
        left, top = left + round(crop.source_box[0] * scale), top + round(crop.source_box[1] * scale)
    if flipped:
        left = max(0, round(image.size[0] * scale) - image.bucket_fit.bucket[0] - left)
    return left, top


class _ImageCache:
    """The last images that were cropped to their buckets, up to `limit` bytes; safe for threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.lock = limit, 0, threading.Lock()
        self.held: OrderedDict[DatasetImage, ImageAndMask] = OrderedDict()

    def get(self, image: DatasetImage, compute: Callable[[], ImageAndMask]) -> ImageAndMask:
        """The kept pair; `make` makes it where there is none."""
        with self.lock:
            if image in self.held:
                self.held.move_to_end(image)
                return self.held[image]
        pair = compute()
        with self.lock:
            if image not in self.held:
                self.held[image] = pair
                self.size += _byte_count(image.bucket_fit.bucket)
            while self.size > self.limit and len(self.held) > 1:
                self.size -= _byte_count(self.held.popitem(last=False)[0].bucket_fit.bucket)
        return pair


def _byte_count(bucket: PixelSize) -> int:
    """Bytes of an RGB image and a mask of a bucket's size: Pillow keeps 3 bytes a pixel in 4."""
    return 4 * bucket[0] * bucket[1]

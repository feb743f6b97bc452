"""Scans every image once before the first step: size, content and caption; unreadable files are listed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainError
from ...file.broken_links import broken_links_note
from ...file.unreadable_files import why_unreadable
from ...progress import Track, no_progress
from .buckets import BucketFit, PixelSize, fit_to_bucket
from .captions import load_caption
from .image_files import PixelBox, UnreadableImage, check_image_data, is_image_file, rejecting_truncated_images
from .picture_edit import cropped_size, load_picture_edit, picture_edit_path
from .subset import Subset

SCAN_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class DatasetImage:
    """One image file of a subset.

    Attributes:
        path: The file.
        subset: The number of its subset.
        size: (width, height) in pixels, of the part that is trained.
        bucket_fit: Its bucket, and the size to scale it to.
        digest: Hash of the bytes of the file and of its crop and mask, so that a changed image is another one.
        caption: All lines of its caption; the folder's concept without one.
        has_caption: Whether it has a caption of its own.
        mask: The file of its mask, which is over the whole picture: the one that was painted, else that of the folder.
        crop: The part that is trained; None for all of it.
    """

    path: Path
    subset: int
    size: PixelSize
    bucket_fit: BucketFit
    digest: str
    caption: str
    has_caption: bool
    mask: Path | None = None
    crop: PixelBox | None = None


@dataclass(frozen=True)
class DatasetScan:
    """The result of a scan.

    Attributes:
        subsets: The scanned subsets.
        images: The images that can be read.
        skipped: A sentence for each image that cannot be read, and one for all links to images that do not exist.
    """

    subsets: tuple[Subset, ...]
    images: tuple[DatasetImage, ...]
    skipped: tuple[str, ...]


def scan_dataset(subsets: Sequence[Subset], *, strict: bool = False, track: Track = no_progress) -> DatasetScan:
    """Reads every image of the subsets.

    Args:
        subsets: The folders.
        strict: Whether an unreadable image is an error.
        track: Shows the progress.

    Returns:
        The readable images, and sentences for the others.

    Raises:
        UnreadableImage: An image cannot be read, with `strict`.
        TrainError: None of the training images can be read.
    """
    broken = list(dict.fromkeys(link for subset in subsets for link in subset.broken_links))
    if broken and strict:
        raise UnreadableImage(broken_links_note(broken))
    jobs = [(index, path) for index, subset in enumerate(subsets) for path in subset.files]

    def scan(job: tuple[int, Path]) -> DatasetImage | str:
        try:
            return _scan_image(job[1], job[0], subsets[job[0]])
        except UnreadableImage as error:
            if strict:
                raise
            return str(error)

    with rejecting_truncated_images(), ThreadPoolExecutor(SCAN_THREADS) as pool:
        results = [result for _, result in zip(track(jobs, "scanning pictures"), pool.map(scan, jobs), strict=True)]
    images = tuple(result for result in results if isinstance(result, DatasetImage))
    skipped = (*([broken_links_note(broken)] if broken else ()), *(one for one in results if isinstance(one, str)))
    if not any(not subsets[image.subset].regularisation for image in images):
        first = skipped[0] if skipped else "-"
        if len(jobs) == 1:
            raise TrainError(f"the only picture cannot be read: {first}")
        raise TrainError(f"none of the {len(jobs)} pictures can be read; the first: {first}")
    return DatasetScan(tuple(subsets), images, skipped)


def _scan_image(path: Path, index: int, subset: Subset) -> DatasetImage:
    data = _bytes(path)
    edit, edit_data = load_picture_edit(path)
    size = cropped_size(path, edit.crop, check_image_data(path, data))
    caption = subset.listed_captions.get(path) if subset.listed_captions else None
    if caption is None:
        try:
            caption = load_caption(path, subset.caption_extension)
        except TrainError as error:  # one bad caption must not stop the scan of all other images
            raise UnreadableImage(f"{path} is left out: {error}") from None
    digest = hashlib.blake2b(data, digest_size=16)
    digest.update(edit_data)
    mask = picture_edit_path(path) if edit.mask is not None else None
    if edit.mask is not None:
        check_image_data(picture_edit_path(path), edit.mask)
    elif subset.masks and (mask := _find_mask(path, subset.masks)) is not None:
        check_image_data(mask, mask_data := _bytes(mask))
        digest.update(mask_data)
    return DatasetImage(
        path=path,
        subset=index,
        size=size,
        bucket_fit=fit_to_bucket(size, subset.bucket_rules),
        digest=digest.hexdigest(),
        caption=caption or subset.concept,
        has_caption=bool(caption),
        mask=mask,
        crop=edit.crop,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {why_unreadable(path, error)}") from None


def _find_mask(path: Path, masks: Path) -> Path | None:
    """The mask of an image: an image of the same name with any suffix."""
    same = masks / path.name
    if same.is_file():
        return same
    return next((p for p in sorted(masks.glob(f"{_escape_glob(path.stem)}.*")) if is_image_file(p)), None)


def _escape_glob(text: str) -> str:
    """Text with the special characters of glob escaped."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)

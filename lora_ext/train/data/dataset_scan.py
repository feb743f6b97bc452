"""Looks at every picture once, before the first step: size, content, caption; what cannot be read is named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainError
from ...progress import Track, no_progress
from .buckets import BucketFit, PixelSize, fit_to_bucket
from .captions import load_caption
from .image_files import UnreadableImage, check_image_data, is_image_file, rejecting_truncated_images
from .subset import Subset

SCAN_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class DatasetImage:
    """One file of a subset. caption: its text, all lines, the folder's concept where it has none (`has_caption` tells).

    digest: of the file's bytes (and its mask's), so that a changed picture is another one.
    """

    path: Path
    subset: int
    size: PixelSize
    bucket_fit: BucketFit
    digest: str
    caption: str
    has_caption: bool
    mask: Path | None = None


@dataclass(frozen=True)
class DatasetScan:
    """What was found. skipped: a sentence for each picture that cannot be read."""

    subsets: tuple[Subset, ...]
    images: tuple[DatasetImage, ...]
    skipped: tuple[str, ...]


def scan_dataset(subsets: Sequence[Subset], *, strict: bool = False, track: Track = no_progress) -> DatasetScan:
    """Read every picture of the subsets. strict: raise the first UnreadablePicture instead of skipping."""
    jobs = [(index, path) for index, subset in enumerate(subsets) for path in subset.files]

    def look(job: tuple[int, Path]) -> DatasetImage | str:
        try:
            return _scan_image(job[1], job[0], subsets[job[0]])
        except UnreadableImage as error:
            if strict:
                raise
            return str(error)

    with rejecting_truncated_images(), ThreadPoolExecutor(SCAN_THREADS) as pool:
        looked = [result for _, result in zip(track(jobs, "looking at pictures"), pool.map(look, jobs), strict=True)]
    pictures = tuple(result for result in looked if isinstance(result, DatasetImage))
    skipped = tuple(result for result in looked if isinstance(result, str))
    if not any(not subsets[picture.subset].regularisation for picture in pictures):
        raise TrainError(f"none of the {len(jobs)} pictures can be read; the first: {skipped[0] if skipped else '-'}")
    return DatasetScan(tuple(subsets), pictures, skipped)


def _scan_image(path: Path, index: int, subset: Subset) -> DatasetImage:
    data = _bytes(path)
    size = check_image_data(path, data)
    caption = subset.listed_captions.get(path) if subset.listed_captions else None
    if caption is None:
        try:
            caption = load_caption(path, subset.caption_extension)
        except TrainError as error:  # one such caption is no reason to look at none of the pictures
            raise UnreadableImage(f"{path} is left out: {error}") from None
    digest = hashlib.blake2b(data, digest_size=16)
    mask = _find_mask(path, subset.masks) if subset.masks else None
    if mask is not None:
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
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror or error}") from None


def _find_mask(picture: Path, masks: Path) -> Path | None:
    """The mask of a picture: a picture of the same name, whatever its suffix."""
    same = masks / picture.name
    if same.is_file():
        return same
    return next((p for p in sorted(masks.glob(f"{_escape_glob(picture.stem)}.*")) if is_image_file(p)), None)


def _escape_glob(text: str) -> str:
    """Text as glob takes it literally."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)

"""Looks at every picture once, before the first step: size, content, caption; what cannot be read is named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainError
from ...progress import Track, silent
from .buckets import Fitted, Size, fit
from .captions import read_caption
from .image_files import UnreadablePicture, check, is_picture, whole_pictures_only
from .subset import Subset

THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Picture:
    """One file of a subset. caption: its text, all lines, the folder's concept where it has none (`captioned` tells).

    digest: of the file's bytes (and its mask's), so that a changed picture is another one.
    """

    path: Path
    subset: int
    size: Size
    fitted: Fitted
    digest: str
    caption: str
    captioned: bool
    mask: Path | None = None


@dataclass(frozen=True)
class Scan:
    """What was found. skipped: a sentence for each picture that cannot be read."""

    subsets: tuple[Subset, ...]
    pictures: tuple[Picture, ...]
    skipped: tuple[str, ...]


def scan(found: Sequence[Subset], *, strict: bool = False, track: Track = silent) -> Scan:
    """Read every picture of the subsets. strict: raise the first UnreadablePicture instead of skipping."""
    jobs = [(index, path) for index, subset in enumerate(found) for path in subset.files]

    def look(job: tuple[int, Path]) -> Picture | str:
        try:
            return _look(job[1], job[0], found[job[0]])
        except UnreadablePicture as error:
            if strict:
                raise
            return str(error)

    with whole_pictures_only(), ThreadPoolExecutor(THREADS) as pool:
        looked = [result for _, result in zip(track(jobs, "looking at pictures"), pool.map(look, jobs), strict=True)]
    pictures = tuple(result for result in looked if isinstance(result, Picture))
    skipped = tuple(result for result in looked if isinstance(result, str))
    if not any(not found[picture.subset].regularisation for picture in pictures):
        raise TrainError(f"none of the {len(jobs)} pictures can be read; the first: {skipped[0] if skipped else '-'}")
    return Scan(tuple(found), pictures, skipped)


def _look(path: Path, index: int, subset: Subset) -> Picture:
    data = _bytes(path)
    size = check(path, data)
    caption = subset.listed.get(path) if subset.listed else None
    if caption is None:
        try:
            caption = read_caption(path, subset.caption_extension)
        except TrainError as error:  # one such caption is no reason to look at none of the pictures
            raise UnreadablePicture(f"{path} is left out: {error}") from None
    digest = hashlib.blake2b(data, digest_size=16)
    mask = _mask_of(path, subset.masks) if subset.masks else None
    if mask is not None:
        check(mask, mask_data := _bytes(mask))
        digest.update(mask_data)
    return Picture(
        path=path,
        subset=index,
        size=size,
        fitted=fit(size, subset.buckets),
        digest=digest.hexdigest(),
        caption=caption or subset.concept,
        captioned=bool(caption),
        mask=mask,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadablePicture(f"{path} cannot be read: {error.strerror or error}") from None


def _mask_of(picture: Path, masks: Path) -> Path | None:
    """The mask of a picture: a picture of the same name, whatever its suffix."""
    same = masks / picture.name
    if same.is_file():
        return same
    return next((p for p in sorted(masks.glob(f"{_literal(picture.stem)}.*")) if is_picture(p)), None)


def _literal(text: str) -> str:
    """Text as glob takes it literally."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in text)

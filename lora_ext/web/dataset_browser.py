"""The dataset browser: pictures by bucket with their captions, edited in place; find and replace; tag counts."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import FileError, TrainError
from ..file.displayed_names import files_below, find_shown, named, shown
from ..file.saving import check_not_linked, replacing
from ..train.config.recipe import Recipe
from ..train.data import dataset_folders
from ..train.data.captions import read_caption
from ..train.data.dataset_scan import Picture, Scan, scan
from ..train.data.image_files import is_picture, open_picture
from .app_state import Studio
from .user_paths import below, parts_of, root_of

_LONGEST = 20_000
_THUMB = 256


def names(studio: Studio) -> list[str]:
    """Folders below the dataset folders that could be trained on."""
    roots = [root for root in studio.folders.datasets if root.is_dir()]
    inside = ((root, path) for root in roots for path in sorted(root.iterdir()))
    return list(named((root, path) for root, path in inside if path.is_dir() and not path.name.startswith(".")))


def folder_of(studio: Studio, name: str) -> Path:
    """The dataset's folder. Raises FileError."""
    path = below(studio.folders.datasets, name)
    if not path.is_dir():
        raise FileError(f"{name!r} is no folder")
    return path


def picture_of(studio: Studio, dataset: str, name: str) -> Path:
    """A picture of a dataset by its path below it, links followed. Raises FileError."""
    path = find_shown(folder_of(studio, dataset), parts_of(name))
    if path is None or not path.is_file() or not is_picture(path):
        raise FileError(f"{shown(name)!r} is no picture of {shown(dataset)}")
    return path


def _scan(folder: Path, resolution: str, bucketed: bool) -> Scan:
    recipe = Recipe(train_data_dir=str(folder), resolution=resolution, enable_bucket=bucketed)
    try:
        recipe.size()
    except ValueError:
        raise TrainError(f"resolution {resolution[:40]!r} is a side or width,height, such as 512 or 512,768") from None
    return scan(dataset_folders.subsets(recipe))


def look(studio: Studio, name: str, resolution: str, bucketed: bool) -> dict[str, Any]:
    """{pictures, buckets, tags, missing, skipped}: pictures without a caption first, then by bucket."""
    folder = folder_of(studio, name)
    found = _scan(folder, resolution, bucketed)
    tags: Counter[str] = Counter()
    buckets: Counter[str] = Counter()
    rows = []
    for picture in found.pictures:
        row = _row(picture, found, folder)
        rows.append(row)
        buckets[row["bucket"]] += 1
        if picture.captioned:
            tags.update(tag for tag in (part.strip() for part in picture.caption.split(",")) if tag)
    rows.sort(key=lambda row: (row["captioned"], row["bucket"], row["name"]))
    return {
        "pictures": rows,
        "buckets": dict(buckets.most_common()),
        "tags": dict(tags.most_common(500)),
        "missing": sum(not row["captioned"] for row in rows),
        "skipped": [shown(sentence.replace(str(folder), name)) for sentence in found.skipped],
    }


def _row(picture: Picture, found: Scan, folder: Path) -> dict[str, Any]:
    width, height = picture.fitted.bucket
    return {
        "name": shown(picture.path.relative_to(folder).as_posix()),
        "size": list(picture.size),
        "bucket": f"{width}×{height}",
        "caption": picture.caption if picture.captioned else "",
        "concept": found.subsets[picture.subset].concept,
        "captioned": picture.captioned,
        "repeats": found.subsets[picture.subset].repeats,
        "time": picture.path.stat().st_mtime,
    }


def thumbnail(studio: Studio, dataset: str, name: str) -> bytes:
    """A small JPEG of a picture. Raises FileError, TrainError."""
    image = open_picture(picture_of(studio, dataset, name)).rgb
    image.thumbnail((_THUMB, _THUMB), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85)
    return out.getvalue()


def write_caption(studio: Studio, dataset: str, name: str, caption: str) -> None:
    """Writes the caption beside the picture, where one is already or as `.txt`. Raises FileError, also at a link."""
    _write(studio, picture_of(studio, dataset, name), caption)


def _write(studio: Studio, picture: Path, caption: str) -> None:
    if len(caption) > _LONGEST:
        raise FileError(f"a caption of {len(caption)} characters is too long")
    check_not_linked(picture.parent, root_of(studio.folders.datasets, picture))
    beside = [picture.with_suffix(suffix) for suffix in (".txt", ".caption")]
    path = next((p for p in beside if p.is_file()), beside[0])
    with replacing(path, overwrite=True) as part:
        part.write_text(caption.strip() + "\n", encoding="utf-8", errors="replace")


def replace_all(studio: Studio, dataset: str, find: str, put: str, *, whole_tags: bool, dry: bool) -> dict[str, Any]:
    """Finds and replaces in all captions; whole_tags: between commas only, and an empty `put` takes the tag out.

    dry: only counts. Returns {changed, examples, skipped}; skipped: a sentence for each caption that cannot be read or
    written. Raises FileError.
    """
    if not find.strip():
        raise FileError("there is nothing to find")
    folder = folder_of(studio, dataset)
    changed = 0
    examples: list[list[str]] = []
    skipped: list[str] = []
    for path in filter(is_picture, files_below(folder)):
        try:
            before = read_caption(path) or ""
            after = _tags_replaced(before, find.strip(), put.strip()) if whole_tags else before.replace(find, put)
            if after == before:
                continue
            if not dry:
                _write(studio, path, after)
        except (FileError, TrainError) as error:
            skipped.append(shown(studio.nameless(str(error))))
            continue
        changed += 1
        examples += [[before, after]] * (len(examples) < 5)
    return {"changed": changed, "examples": examples, "skipped": skipped}


def _tags_replaced(caption: str, find: str, put: str) -> str:
    lines = []
    for line in caption.split("\n"):
        tags = [tag.strip() for tag in line.split(",")]
        swapped = [put if re.fullmatch(re.escape(find), tag, re.IGNORECASE) else tag for tag in tags]
        lines.append(", ".join(tag for tag in dict.fromkeys(swapped) if tag) if swapped != tags else line)
    return "\n".join(lines)

"""Captions of a folder in one file: `metadata.jsonl` and `metadata.csv` as for diffusers, and kohya's metadata JSON."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from ...errors import TrainError, did_you_mean
from ...file.displayed_names import find_by_displayed_parts
from ...file.unreadable_files import EMPTY_FILE_REASON
from ...json_text import parse_json
from .image_files import is_image_file

CAPTION_LIST_NAMES = ("metadata.jsonl", "metadata.csv")
"""Caption lists of Hugging Face's image folders."""


def find_caption_list(folder: Path) -> Path | None:
    """A folder's own caption list, or None."""
    return next((folder / name for name in CAPTION_LIST_NAMES if (folder / name).is_file()), None)


def load_caption_list(path: Path, folder: Path, column: str = "text") -> dict[Path, str]:
    """Loads a caption list.

    Args:
        path: `metadata.jsonl`, `metadata.csv` or kohya's metadata JSON.
        folder: The folder that its file names are relative to.
        column: The name of the captions' column; where it is "text", other usual names are found too.

    Returns:
        Image file → caption.

    Raises:
        TrainError: The file cannot be read, or names an image that is not there.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise ValueError(EMPTY_FILE_REASON)
        if path.suffix.lower() == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        elif path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
        else:
            rows = [{"file_name": name, **entry} for name, entry in parse_json(text).items()]
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as error:
        raise TrainError(f"{path} cannot be read as a list of captions: {error}") from None
    listed = {}
    for number, row in enumerate(rows, 1):
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            raise TrainError(f"{path}, row {number} has no file_name")
        try:
            image = _find(folder, name)
        except (OSError, ValueError):  # no file can have that name
            image = None
        if image is None:
            raise TrainError(f"{path}, row {number}: {folder} has no picture {name}")
        if column != "text" and column not in row:
            raise TrainError(f"{path}, row {number} has no column {column!r}{did_you_mean(column, filter(None, row))}")
        listed[image] = _caption_in(row) if column == "text" else str(row[column] or "").strip()
    return listed


def _find(folder: Path, name: str) -> Path | None:
    r"""A listed image: its path, in the folder or absolute. kohya's metadata may leave the suffix out.

    A list of another machine, or of before the folder was moved, names files by their full paths there: the longest end
    of such a path that the folder has is taken. On every system `\` separates folders too, as on Windows.
    """
    found = _find_named(folder, name)
    if found is not None:
        return found
    parts = PureWindowsPath(name).parts  # both separators
    is_full = PureWindowsPath(name).root != "" or PureWindowsPath(name).drive != ""
    if ".." in parts or (not is_full and "\\" not in name):
        return None
    ends = ["/".join(parts[start:]) for start in range(1, len(parts))] if is_full else ["/".join(parts)]
    return next((path for end in ends if (path := _find_named(folder, end)) is not None), None)


def _find_named(folder: Path, name: str) -> Path | None:
    """An image by its path as it is written."""
    path = folder / name
    if path.is_file():
        return path
    same = None if path.is_absolute() else find_by_displayed_parts(folder, Path(name).parts)
    if same is not None and same.is_file():  # macOS writes another form of the same name
        return same
    return (
        next((p for p in sorted(path.parent.glob(f"{path.name}.*")) if is_image_file(p)), None)
        if (path.parent.is_dir())
        else None
    )


def _caption_in(row: Mapping[str, Any]) -> str:
    """A row's caption: `text`, `caption` (followed by kohya's `tags`), `prompt`, or else its only other text."""
    known = [row[name] for name in ("text", "caption", "tags", "prompt") if isinstance(row.get(name), str)]
    if known:
        return ", ".join(text.strip() for text in known[:2] if text.strip()) if "caption" in row else known[0].strip()
    texts = [value for name, value in row.items() if isinstance(value, str) and name != "file_name"]
    return texts[0].strip() if len(texts) == 1 else ""

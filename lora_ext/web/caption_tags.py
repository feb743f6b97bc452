"""A tag for all captions of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import FileError, TrainError
from ..file.displayed_names import displayed_name, files_below
from ..train.data.captions import load_caption
from ..train.data.image_files import is_image_file
from .app_state import AppState
from .dataset_browser import ReplacedCaptions, dataset_folder, save_picture_caption

_EXAMPLES = 5


def add_tag_to_captions(app_state: AppState, dataset: str, tag: str, *, first: bool) -> ReplacedCaptions:
    """Adds a tag to every caption that lacks it; a picture without a caption gets it as its caption.

    Args:
        app_state: Has the folders.
        dataset: The data set's name.
        tag: The tag.
        first: Whether it comes before what is there, or after it.

    Returns:
        How many captions were changed, the first of them, and a sentence for each that cannot be read or written.

    Raises:
        FileError: There is no such data set, or the tag is none.
    """
    tag = tag.strip().strip(",").strip()
    if not tag or "\n" in tag:
        raise FileError("the tag is empty" if not tag else "a tag is one line")
    changed, skipped = [], []
    for path in _pictures(dataset_folder(app_state, dataset)):
        try:
            before = load_caption(path) or ""
            after = _with_tag(before, tag, first=first)
            if after == before:
                continue
            save_picture_caption(app_state, path, after)
        except (FileError, TrainError) as error:
            skipped.append(displayed_name(app_state.hide_folders(str(error))))
            continue
        changed.append((before, after))
    return ReplacedCaptions(len(changed), changed[:_EXAMPLES], skipped)


def _pictures(folder: Path) -> Iterator[Path]:
    return filter(is_image_file, files_below(folder))


def _with_tag(caption: str, tag: str, *, first: bool) -> str:
    lines = []
    for line in caption.split("\n"):
        tags = [one.strip() for one in line.split(",") if one.strip()]
        has = tag.lower() in (one.lower() for one in tags)
        lines.append(line if has else ", ".join([tag, *tags] if first else [*tags, tag]))
    return "\n".join(lines)

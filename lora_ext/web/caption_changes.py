"""Changes of all captions of a data set at once, and of a picture's crop and mask; each can be undone."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, TrainError
from ..file.displayed_names import displayed_name, files_below
from ..file.saving import check_not_linked, replacing_file
from ..train.data.captions import load_caption
from ..train.data.image_files import is_image_file
from .app_state import AppState
from .dataset_browser import caption_path, dataset_folder, save_picture_caption
from .user_paths import containing_folder

_EXAMPLES = 5
_KEPT_CHANGES = 20


@dataclass(frozen=True)
class ReplacedCaptions:
    """What a change of all captions changed, or would change.

    Attributes:
        changed: How many captions.
        examples: The first of them, before and after.
        skipped: A sentence for each caption that cannot be read or written, or was changed since.
        undo: The change's number, by which it is undone; None where nothing was written.
    """

    changed: int
    examples: list[tuple[str, str]]
    skipped: list[str]
    undo: int | None = None


@dataclass(frozen=True)
class _ChangedFile:
    """A file's bytes before and after a change; None: there was no file."""

    path: Path
    before: bytes | None
    after: bytes | None


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


class CaptionChanges:
    """Changes captions and keeps the last changes since the program's start, to undo them.

    Args:
        app_state: Has the folders.
    """

    def __init__(self, app_state: AppState) -> None:
        self._app_state = app_state
        self._numbers = itertools.count(1)
        self._kept: dict[int, list[_ChangedFile]] = {}
        self._lock = threading.Lock()

    def replace(self, dataset: str, find: str, replacement: str, *, extent: str, dry: bool) -> ReplacedCaptions:
        """Finds and replaces in all captions.

        Args:
            dataset: The data set's name.
            find: What to look for.
            replacement: What it becomes; empty takes it out.
            extent: "tags" or "words": whole ones in any case; "anywhere": any text, in this case.
            dry: Whether nothing is written.

        Returns:
            What was changed, or with `dry` would be.

        Raises:
            FileError: There is no such data set, or `find` is empty.
        """
        if not find.strip():
            raise FileError("the text to find is empty")

        def change(caption: str) -> str:
            if extent == "tags":
                return _tags_replaced(caption, find.strip(), replacement.strip())
            if extent == "words":
                return _words_replaced(caption, find.strip(), replacement.strip())
            return caption.replace(find, replacement)

        return self._change(dataset, change, dry=dry)

    def add_tag(self, dataset: str, tag: str, *, first: bool) -> ReplacedCaptions:
        """Adds a tag to every caption that lacks it; a picture without a caption gets it as its caption.

        Args:
            dataset: The data set's name.
            tag: The tag.
            first: Whether it comes before what is there, or after it.

        Returns:
            What was changed.

        Raises:
            FileError: There is no such data set, or the tag is none.
        """
        tag = tag.strip().strip(",").strip()
        if not tag or "\n" in tag:
            raise FileError("the tag is empty" if not tag else "a tag is one line")
        return self._change(dataset, lambda caption: _with_tag(caption, tag, first=first))

    def _change(self, dataset: str, change: Callable[[str], str], *, dry: bool = False) -> ReplacedCaptions:
        """Changes the captions that `change` makes others of."""
        examples: list[tuple[str, str]] = []
        skipped: list[str] = []
        written: list[_ChangedFile] = []
        count = 0
        seen: set[Path] = set()
        for picture in filter(is_image_file, files_below(dataset_folder(self._app_state, dataset))):
            path = caption_path(picture)
            if path in seen:  # a.jpg and a.png have one caption, which is changed once
                continue
            seen.add(path)
            try:
                caption = load_caption(picture) or ""
                changed = change(caption)
                if changed == caption:
                    continue
                if not dry:
                    before = _bytes_of(path)
                    save_picture_caption(self._app_state, picture, changed)
                    written.append(_ChangedFile(path, before, _bytes_of(path)))
            except (FileError, TrainError) as error:
                skipped.append(self._shown(error))
                continue
            count += 1
            examples += [(caption, changed)] * (len(examples) < _EXAMPLES)
        return ReplacedCaptions(count, examples, skipped, self._keep(written))

    def save_beside(self, path: Path, data: bytes | None) -> int | None:
        """Writes a file beside a picture, or removes it.

        Args:
            path: The file.
            data: Its bytes; None removes it.

        Returns:
            The change's number; None where nothing changed.

        Raises:
            FileError: It cannot be written, or a link leads to it.
        """
        before = _bytes_of(path)
        if before == data:
            return None
        self._write(path, data)
        return self._keep([_ChangedFile(path, before, data)])

    def undo(self, number: int) -> ReplacedCaptions:
        """Takes a change back, byte for byte. What was changed since stays, and is named.

        Args:
            number: The change's number.

        Returns:
            What was changed; it is a change of its own, so that undoing it does the first one again.

        Raises:
            FileError: No change of this number is kept.
        """
        with self._lock:
            files = self._kept.pop(number, None)
        if files is None:
            raise FileError(f"there is no change {number} to undo: the last {_KEPT_CHANGES} since the start are kept")
        skipped: list[str] = []
        written: list[_ChangedFile] = []
        for file in files:
            try:
                self._take_back(file)
            except FileError as error:
                skipped.append(self._shown(error))
                continue
            written.append(_ChangedFile(file.path, file.after, file.before))
        return ReplacedCaptions(len(written), [], skipped, self._keep(written))

    def _take_back(self, file: _ChangedFile) -> None:
        try:
            if _bytes_of(file.path) != file.after:
                raise FileError(f"{file.path}: it was changed since and stays")
        except OSError as error:
            raise FileError(f"{file.path}: {error.strerror}") from error
        self._write(file.path, file.before)

    def _write(self, path: Path, data: bytes | None) -> None:
        """Writes a file of a data set, or removes it. Raises FileError, also at a link."""
        check_not_linked(path.parent, containing_folder(self._app_state.folders.datasets, path))
        if data is None:
            try:
                path.unlink()
            except OSError as error:
                raise FileError(f"{path}: {error.strerror}") from error
            return
        with replacing_file(path, overwrite=True) as part:
            part.write_bytes(data)

    def _keep(self, files: list[_ChangedFile]) -> int | None:
        if not files:
            return None
        with self._lock:
            number = next(self._numbers)
            self._kept[number] = files
            while len(self._kept) > _KEPT_CHANGES:
                del self._kept[min(self._kept)]
        return number

    def _shown(self, error: Exception) -> str:
        return displayed_name(self._app_state.hide_folders(str(error)))


def _tags_replaced(caption: str, find: str, replacement: str) -> str:
    lines = []
    for line in caption.split("\n"):
        tags = [tag.strip() for tag in line.split(",")]
        swapped = [replacement if re.fullmatch(re.escape(find), tag, re.IGNORECASE) else tag for tag in tags]
        lines.append(", ".join(tag for tag in dict.fromkeys(swapped) if tag) if swapped != tags else line)
    return "\n".join(lines)


def _words_replaced(caption: str, find: str, replacement: str) -> str:
    """The caption with other words; blanks and commas around one that is taken out go with it."""
    changed = re.sub(rf"(?<!\w){re.escape(find)}(?!\w)", lambda _: replacement, caption, flags=re.IGNORECASE)
    if changed == caption or replacement:
        return changed
    lines = (re.sub(r" {2,}", " ", re.sub(r"(, *)+(?=,|$)", "", line)).strip(" ,") for line in changed.split("\n"))
    return "\n".join(lines)


def _with_tag(caption: str, tag: str, *, first: bool) -> str:
    lines = []
    for line in caption.split("\n"):
        tags = [one.strip() for one in line.split(",") if one.strip()]
        has = tag.lower() in (one.lower() for one in tags)
        lines.append(line if has else ", ".join([tag, *tags] if first else [*tags, tag]))
    return "\n".join(lines)

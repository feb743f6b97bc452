"""Tags, favourites and ratings of files, and when each was used last: what the web UI's own files have no place for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..file.sidecar_files import SidecarInfo, as_words
from .json_store import JsonStore

MARKS_FILE = "file_marks.json"
MOST_STARS, MOST_TAGS, LONGEST_TAG = 5, 60, 60


@dataclass(frozen=True)
class FileMarks:
    """What the user has marked a file with.

    Attributes:
        tags: The tags; those of Lora-Manager or a model site while the user has set none.
        favourite: Whether it is a favourite.
        rating: 1 to 5; 0 for none.
        used: When it was last put into a prompt from the library, in seconds since 1970; 0 for never.
    """

    tags: tuple[str, ...] = ()
    favourite: bool = False
    rating: int = 0
    used: float = 0.0


_NONE = FileMarks()


class FileMarksStore:
    """The marks by the library's name of a file. Another program may change them too.

    Attributes:
        problem: What is wrong with the store's file; "" for nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._store = JsonStore(folder / MARKS_FILE)
        self._stamp: tuple[int, int] | None = None
        self._rows: Mapping[str, Any] = {}
        self.problem = ""

    @property
    def version(self) -> tuple[int, int] | None:
        """Another one whenever marks were changed."""
        try:
            status = self._store.path.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size)

    def rows(self) -> Mapping[str, Any]:
        """The file's content, read again where it changed; empty where it is damaged, which `problem` then tells."""
        stamp = self.version
        if stamp != self._stamp:
            self._rows, self._stamp, self.problem = {}, stamp, ""
            try:
                self._rows = self._store.load()
            except FileError as error:
                self.problem = str(error)
        return self._rows

    def of(self, name: str, info: SidecarInfo, rows: Mapping[str, Any] | None = None) -> FileMarks:
        """The marks of a file.

        Args:
            name: The library's name of it.
            info: What the files beside it say: it counts where the user has marked nothing.
            rows: What `rows` has just given, for the marks of many files; None to look whether the store changed.
        """
        row = (self.rows() if rows is None else rows).get(name)
        if row is None and not info.tags and info.favourite is None:
            return _NONE
        row = row if isinstance(row, dict) else {}
        favourite = row.get("favourite", info.favourite)
        return FileMarks(
            tags=as_words(row["tags"]) if "tags" in row else info.tags[:MOST_TAGS],
            favourite=favourite is True,
            rating=_as_rating(row.get("rating")),
            used=_as_time(row.get("used")),
        )

    def change(
        self,
        infos: Mapping[str, SidecarInfo],
        *,
        favourite: bool | None = None,
        rating: int | None = None,
        add_tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
    ) -> None:
        """Changes the marks of some files at once; None leaves a mark as it is.

        Args:
            infos: Name of each file → what the files beside it say.
            favourite: Whether they are favourites.
            rating: 1 to 5, 0 for none.
            add_tags: Tags that all get.
            remove_tags: Tags that none has afterwards.

        Raises:
            FileError: A tag is no tag, there would be too many, or the file is damaged.
        """
        added, removed = [_checked_tag(tag) for tag in add_tags], {tag.strip() for tag in remove_tags}
        given = {"favourite": favourite, "rating": rating}
        with self._store.changing() as rows:
            for name, info in infos.items():
                row = rows[name] = dict(rows[name]) if isinstance(rows.get(name), dict) else {}
                row.update({key: value for key, value in given.items() if value is not None})
                if added or removed:
                    old = as_words(row["tags"]) if "tags" in row else info.tags
                    row["tags"] = [tag for tag in dict.fromkeys([*old, *added]) if tag not in removed]
                    if len(row["tags"]) > MOST_TAGS:
                        raise FileError(f"{name} would have more than {MOST_TAGS} tags; remove some first")

    def record_use(self, name: str) -> None:
        """Remembers that a file was put into a prompt now. Raises FileError."""
        with self._store.changing() as rows:
            row = rows[name] = dict(rows[name]) if isinstance(rows.get(name), dict) else {}
            row["used"] = round(time.time(), 3)

    def rename(self, names: Mapping[str, str]) -> None:
        """Files got other names: their marks go with them. Raises FileError."""
        if any(name in self.rows() for name in names):
            with self._store.changing() as rows:
                taken = {new: rows.pop(old) for old, new in names.items() if old in rows}
                rows.update(taken)


def _as_rating(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_STARS else 0


def _as_time(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11 else 0.0


def _checked_tag(text: str) -> str:
    tag = text.strip()
    if not tag or len(tag) > LONGEST_TAG or not tag.isprintable() or "," in tag:
        raise FileError(f"{tag[:LONGEST_TAG]!a} is not a tag: give 1 to {LONGEST_TAG} characters without commas")
    return tag

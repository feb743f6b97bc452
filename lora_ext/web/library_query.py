"""Which files of the library a search and its filters find, in which order, and what there is to filter by."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..file.folder_listing import natural_sort_key
from ..file.lora_library import LibraryEntry
from ..file.sidecar_files import SidecarInfo, search_text
from .file_catalogue import FileCatalogue
from .file_marks import FileMarks, FileMarksStore
from .sidecar_index import trigger_phrase

_AROUND = 60
"""Characters of a text that are shown before and after what was found in it."""
_MOST_CACHED = 16
_SHARE = 20
"""While files are read, what is known of them is gathered again after this many times as long as that takes."""


@dataclass(frozen=True)
class LibraryQuery:
    """What is looked for.

    Attributes:
        search: Words that the name, the trigger words, the notes, the tags, the base model or the description have.
        base: As in `LibraryRow`; "" for any.
        kind: As in `LibraryRow`; "" for any.
        rank: As in `LibraryRow`; 0 for any.
        tag: A tag of the file; "" for any.
        folder: A folder that the file is in, or below; "" for any.
        favourite: Only favourites.
        rating: The least rating.
        sort: A name of `SORTS`, or "match".
    """

    search: str = ""
    base: str = ""
    kind: str = ""
    rank: int = 0
    tag: str = ""
    folder: str = ""
    favourite: bool = False
    rating: int = 0
    sort: str = "newest"


@dataclass(frozen=True)
class FoundFiles:
    """What a query found.

    Attributes:
        entries: The files in order.
        facets: "base", "kind", "rank", "tag" and "folder" → value → how many files that match the search have it.
        letters: First letter → position of the first file with it, where they are sorted by name.
    """

    entries: list[LibraryEntry]
    facets: dict[str, dict[str, int]]
    letters: dict[str, int]


@dataclass(frozen=True)
class FoundText:
    """Where a search was found in what is not the file's name.

    Attributes:
        field: "trigger words", "notes", "tags", "base model", "description", "title" or "negative text".
        text: The part of the text around it.
    """

    field: str
    text: str


@dataclass(frozen=True)
class _KnownFile:
    """All that is known of a file. folders: those that it is in, the outermost first."""

    entry: LibraryEntry
    marks: FileMarks
    summary: Mapping[str, Any]
    folders: tuple[str, ...]


@lru_cache(maxsize=2**16)
def _name_key(name: str, relative_name: str) -> tuple[Any, str]:
    return natural_sort_key(_plain(name)), relative_name


SORTS: dict[str, Callable[[_KnownFile], Any]] = {
    "newest": lambda file: (-file.entry.stamp[0],),
    "oldest": lambda file: (file.entry.stamp[0],),
    "name": lambda file: _name_key(file.entry.name, file.entry.relative_name),
    "largest": lambda file: (-file.entry.stamp[1],),
    "used": lambda file: (-file.marks.used, -file.entry.stamp[0]),
    "rating": lambda file: (-file.marks.rating, not file.marks.favourite, -file.entry.stamp[0]),
}


class LibrarySearch:
    """Answers queries; what is known of all files, and the last answers, are kept until files or marks change."""

    def __init__(self, catalogue: FileCatalogue, marks: FileMarksStore) -> None:
        self.catalogue, self.marks = catalogue, marks
        self._files: list[_KnownFile] = []
        self._texts: dict[str, str] = {}
        self._answers: dict[LibraryQuery, FoundFiles] = {}
        self._version: object = None
        self._pending, self._next_look = 0, 0.0

    def find(self, query: LibraryQuery) -> FoundFiles:
        """Finds the files."""
        self._look()
        answers = self._answers
        if query not in answers:
            while len(answers) >= _MOST_CACHED:
                answers.pop(next(iter(answers)), None)
            answers[query] = self._find(query)
        return answers[query]

    @property
    def pending_count(self) -> int:
        """How many files had no summary yet when the answers were made; one asked for later may say 0 too early."""
        return self._pending

    def _look(self) -> None:
        """Forgets the answers where files or marks changed, and from time to time while files are still being read."""
        version, pending = (self.catalogue.version, self.marks.version), self.catalogue.pending_count
        more_is_known = pending != self._pending and time.monotonic() >= self._next_look
        if version == self._version and not more_is_known:
            return
        begun = time.monotonic()
        rows = self.marks.rows()
        files = [self._known_file(entry, rows) for entry in self.catalogue.library.entries]
        self._files, self._texts, self._answers = files, {}, {}
        self._version, self._pending = version, pending
        self._next_look = begun + max(1.0, _SHARE * (time.monotonic() - begun))

    def _known_file(self, entry: LibraryEntry, rows: Mapping[str, Any]) -> _KnownFile:
        parts = entry.relative_name.split("/")[:-1]
        folders = tuple("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        return _KnownFile(entry, self._marks(entry, rows), self.catalogue.cached_summary(entry) or {}, folders)

    def info(self, entry: LibraryEntry) -> SidecarInfo:
        """What the files beside a file say."""
        return self.catalogue.sidecars.info(entry)

    def marks_of(self, entry: LibraryEntry) -> FileMarks:
        """What the user has marked a file with."""
        return self._marks(entry, self.marks.rows())

    def _marks(self, entry: LibraryEntry, rows: Mapping[str, Any]) -> FileMarks:
        return self.marks.of(entry.relative_name, self.info(entry), rows)

    def found_text(self, entry: LibraryEntry, search: str) -> FoundText | None:
        """Where the first word of a search is found that the file's name does not have; None where it has all."""
        name = f"{entry.relative_name} {entry.alias}".casefold()
        missing = next((word for word in search.casefold().split() if word not in name), None)
        if missing is None:
            return None
        for where, text in self._searched(entry, self.marks_of(entry)):
            at = text.casefold().find(missing)
            if at >= 0:
                begin, end = max(0, at - _AROUND), at + len(missing) + _AROUND
                cut = " ".join(text[begin:end].split())
                return FoundText(where, f"{'…' if begin else ''}{cut}{'…' if end < len(text) else ''}")
        return None

    def _searched(self, entry: LibraryEntry, marks: FileMarks) -> Iterable[tuple[str, str]]:
        tags = ", ".join(marks.tags)
        own = [("trigger words", trigger_phrase(entry.short_metadata)), ("tags", tags)]
        return [*((where, text) for where, text in own if text), *search_text(self.info(entry))]

    def _has_words(self, file: _KnownFile, words: Iterable[str]) -> bool:
        """Whether all that a search looks through has some words in small letters."""
        entry, key = file.entry, str(file.entry.path)
        text = self._texts.get(key)
        if text is None:
            found = (text for _, text in self._searched(entry, file.marks))
            text = self._texts[key] = "\n".join((entry.relative_name, entry.alias, *found)).casefold()
        return all(word in text for word in words)

    def _find(self, query: LibraryQuery) -> FoundFiles:
        words = query.search.casefold().split()
        counters = {name: Counter[str]() for name in ("base", "kind", "rank", "tag", "folder")}
        matching: list[_KnownFile] = []
        for file in self._files:
            if words and not self._has_words(file, words):
                continue
            _count(file, counters)
            if _passes(file, query):
                matching.append(file)
        if query.sort == "match":
            _sort_by_match(matching, query.search)
        else:
            matching.sort(key=SORTS.get(query.sort, SORTS["newest"]))
        return FoundFiles(
            entries=[file.entry for file in matching],
            facets={name: dict(counter.most_common()) for name, counter in counters.items()},
            letters=_first_letters(matching) if query.sort == "name" else {},
        )


def _count(file: _KnownFile, counters: Mapping[str, Counter[str]]) -> None:
    for name in ("base", "kind", "rank"):
        if file.summary.get(name):
            counters[name][str(file.summary[name])] += 1
    counters["tag"].update(file.marks.tags)
    counters["folder"].update(file.folders)


def _passes(file: _KnownFile, query: LibraryQuery) -> bool:
    summary = file.summary
    return (
        (not query.base or summary.get("base") == query.base)
        and (not query.kind or summary.get("kind") == query.kind)
        and (not query.rank or summary.get("rank") == query.rank)
        and (not query.tag or query.tag in file.marks.tags)
        and (not query.folder or query.folder in file.folders)
        and (not query.favourite or file.marks.favourite)
        and file.marks.rating >= query.rating
    )


def _sort_by_match(files: list[_KnownFile], search: str) -> None:
    """Sorts in place: the name itself first, with folders before without, then names beginning with the search, then
    names with all its words, then others; newest first.
    """
    wanted = search.strip().casefold()
    words = wanted.split()

    def sort_key(file: _KnownFile) -> tuple[bool, bool, bool, bool, int]:
        entry = file.entry
        names = [name.casefold() for name in (entry.name, entry.relative_name, entry.alias) if name]
        joined = " ".join(names)
        begins, has_all = any(name.startswith(wanted) for name in names), all(word in joined for word in words)
        is_whole = wanted == entry.relative_name.casefold()
        return not is_whole, wanted not in names, not begins, not has_all, -entry.stamp[0]

    files.sort(key=sort_key)


def _plain(name: str) -> str:
    """A name without accents, so that É stands with E."""
    if name.isascii():
        return name
    return "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))


def _first_letters(files: Iterable[_KnownFile]) -> dict[str, int]:
    """A to Z, "#" for what stands before A, "…" for what stands behind Z → position of the first file."""
    found: dict[str, int] = {}
    for position, file in enumerate(files):
        first = _plain(file.entry.name)[:1].lower()
        found.setdefault(first.upper() if "a" <= first <= "z" else "#" if first < "a" else "…", position)
    return found

"""Everything that the API keeps between requests: library, catalogue, presets, jobs, looked-at files."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FileError
from ..file.lora_library import LibraryEntry, LoraLibrary
from ..file.saving import check_not_linked
from ..jobs import JobQueue
from .backend import Backend
from .file_catalogue import FileCatalogue
from .file_marks import FileMarksStore
from .library_query import LibrarySearch
from .preset_store import PresetStore
from .user_paths import user_output_path

_Value = TypeVar("_Value")
LORA_SUFFIX = ".safetensors"


class AppState:
    """What the API keeps between requests; one for a program's lifetime.

    Args:
        backend: The program; its folders are read once, here.

    Attributes:
        backend: The program.
        folders: The user's folders.
        jobs: Background jobs.
        presets: Block-weight presets.
        marks: Tags, favourites and ratings of files.
        made_folders: Folders that moves of files made since the start; one that is emptied by a move is removed.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.folders = backend.folders()
        for folder in (self.folders.data, self.folders.save, self.folders.outputs):
            folder.mkdir(parents=True, exist_ok=True)
        data = self.folders.data
        self.jobs = JobQueue(
            model_lock=backend.model_lock,
            unavailable_reason=lambda kind: self.backend.why_unavailable(kind),
            history_path=data / "jobs.json",
        )
        self.presets = PresetStore(data, backend.presets)
        self.marks = FileMarksStore(data)
        self.made_folders: set[Path] = set()
        shown_folders = (*self.folders.loras, *self.folders.checkpoints, *self.folders.datasets)
        heads = {self.folders.outputs, self.folders.save, data, *shown_folders}
        heads |= {folder.resolve() for folder in heads}
        self._heads = sorted((str(folder) + os.sep for folder in heads), key=len, reverse=True)
        self._library: LoraLibrary | None = None
        self._catalogue: FileCatalogue | None = None
        self._search: LibrarySearch | None = None
        self._lock = threading.RLock()
        self._cache: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    @property
    def library(self) -> LoraLibrary:
        """The index of LoRA files, made when it is first needed."""
        with self._lock:
            if self._library is None:
                self._library = LoraLibrary(
                    self.folders.loras, cache_path=self.folders.data / "index.json", optional=self.folders.optional
                )
            return self._library

    @property
    def catalogue(self) -> FileCatalogue:
        """What is shown of each file."""
        library = self.library
        with self._lock:
            if self._catalogue is None:
                self._catalogue = FileCatalogue(library, self.folders.data / "catalogue.json")
            return self._catalogue

    @property
    def search(self) -> LibrarySearch:
        """Finds files by what is known of them."""
        catalogue = self.catalogue
        with self._lock:
            if self._search is None:
                self._search = LibrarySearch(catalogue, self.marks)
            return self._search

    def entry(self, name: str) -> LibraryEntry:
        """The library's entry of a file, as it is on disk now.

        Args:
            name: Its place in the library (`sub/name`), or what a prompt calls it.

        Returns:
            The entry.

        Raises:
            FileError: No such file; the message has the nearest name.
        """
        return self.library.find_current(name, by_relative_name=True)

    def is_changeable(self, entry: LibraryEntry) -> bool:
        """Whether a file is the user's, not part of this installation."""
        path = entry.path.resolve()
        return not any(path.is_relative_to(folder.resolve()) for folder in self.folders.read_only)

    def changeable_entry(self, name: str) -> LibraryEntry:
        """The entry, if its file may be changed. Raises FileError."""
        entry = self.entry(name)
        if not self.is_changeable(entry):
            raise FileError(
                f"{entry.name} is part of this installation and cannot be changed; merge or resize it into a new file"
            )
        check_not_linked(entry.path.parent, entry.root)
        return entry

    def output_folder(self, *parts: str) -> Path:
        """A folder below the output folder, for writing. Raises FileError where a link leads there."""
        folder = self.folders.outputs.joinpath(*parts)
        check_not_linked(folder, self.folders.outputs)
        return folder

    def hide_folders(self, text: str) -> str:
        """A sentence with files called as the API calls them: below their folder, not by a path of this system."""
        for folder in self._heads:
            text = text.replace(folder, "")
        return text

    def lora_output_path(self, name: str) -> Path:
        """Where a new LoRA file called `name` goes. Raises FileError."""
        return user_output_path(self.folders.save, name, LORA_SUFFIX)

    def refresh_library(self) -> None:
        """Files were written or renamed: the library looks again."""
        self.catalogue.refresh(now=True)

    def library_name(self, path: Path | str) -> str:
        """What the library calls a file that was just written."""
        path = Path(path)
        found = next((e.relative_name for e in self.library.entries if e.path == path), None)
        return found or path.stem

    def cached(self, what: str, entry: LibraryEntry, compute: Callable[[], _Value]) -> _Value:
        """`make()` about a file, computed once until the file changes."""
        key = (what, str(entry.path), tuple(entry.stamp), entry.config)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                found: _Value = self._cache[key]
                return found
        value = compute()
        with self._lock:
            self._cache[key] = value
            while len(self._cache) > 64:
                self._cache.popitem(last=False)
        return value

"""Everything that the API keeps between requests: library, catalogue, presets, jobs, looked-at files."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import FileError
from ..file.lora_library import Entry, Library
from ..file.saving import check_not_linked
from ..jobs import Jobs
from .backend import Desk
from .file_catalogue import Catalogue
from .preset_store import Shelf
from .user_paths import to_write

T = TypeVar("T")
SUFFIX = ".safetensors"


class Studio:
    """One for a program's lifetime. Folders are those that the desk names when it is made."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.folders = desk.folders()
        for folder in (self.folders.data, self.folders.save, self.folders.outputs):
            folder.mkdir(parents=True, exist_ok=True)
        data = self.folders.data
        self.jobs = Jobs(
            on_model=desk.model_lock, cannot=lambda kind: self.desk.cannot(kind), history=data / "jobs.json"
        )
        self.presets = Shelf(data, desk.presets)
        places = (*self.folders.loras, *self.folders.checkpoints, *self.folders.datasets)
        heads = {self.folders.outputs, self.folders.save, data, *places}
        heads |= {folder.resolve() for folder in heads}
        self._heads = sorted((str(folder) + os.sep for folder in heads), key=len, reverse=True)
        self._library: Library | None = None
        self._catalogue: Catalogue | None = None
        self._lock = threading.RLock()
        self._kept: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    @property
    def library(self) -> Library:
        """The index of LoRA files, made when it is first needed."""
        with self._lock:
            if self._library is None:
                self._library = Library(
                    self.folders.loras, cache=self.folders.data / "index.json", optional=self.folders.optional
                )
            return self._library

    @property
    def catalogue(self) -> Catalogue:
        """What is shown of each file."""
        library = self.library
        with self._lock:
            if self._catalogue is None:
                self._catalogue = Catalogue(library, self.folders.data / "catalogue.json")
            return self._catalogue

    def entry(self, name: str) -> Entry:
        """The library's entry by its place (`sub/name`), or as a prompt calls it; as it is on disk now.

        Raises FileError with the nearest name.
        """
        entry = self.library.at(name)
        if entry.fresh:
            return entry
        self.library.refresh()
        return self.library.at(name)

    def changeable(self, name: str) -> Entry:
        """The entry, if its file may be changed. Raises FileError."""
        entry = self.entry(name)
        if any(entry.path.resolve().is_relative_to(folder.resolve()) for folder in self.folders.fixed):
            raise FileError(f"{entry.name} belongs to this installation and stays as it is; merge or resize a copy")
        check_not_linked(entry.path.parent, entry.root)
        return entry

    def output(self, *parts: str) -> Path:
        """A folder below the output folder, for writing. Raises FileError where a link leads there."""
        folder = self.folders.outputs.joinpath(*parts)
        check_not_linked(folder, self.folders.outputs)
        return folder

    def nameless(self, text: str) -> str:
        """A sentence with files called as the API calls them: below their folder, not by a path of this system."""
        for folder in self._heads:
            text = text.replace(folder, "")
        return text

    def target(self, name: str) -> Path:
        """Where a new LoRA file called `name` goes. Raises FileError."""
        return to_write(self.folders.save, name, SUFFIX)

    def changed(self) -> None:
        """Files were written or renamed: the library looks again."""
        self.catalogue.refresh(now=True)

    def place(self, path: Path | str) -> str:
        """What the library calls a file that was just written."""
        path = Path(path)
        found = next((e.place for e in self.library.entries if e.path == path), None)
        return found or path.stem

    def remembered(self, what: str, entry: Entry, make: Callable[[], T]) -> T:
        """`make()` about a file, computed once until the file changes."""
        key = (what, str(entry.path), tuple(entry.stamp), entry.config)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key]
                return found
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > 64:
                self._kept.popitem(last=False)
        return made

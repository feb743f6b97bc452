"""What the files beside all LoRA files of the library say, read in the background and kept while they do not change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..file.folder_listing import FileStamp
from ..file.lora_library import LibraryEntry
from ..file.sidecar_files import TEXT_SUFFIXES, SidecarInfo, load_sidecar_info

_NOTHING = SidecarInfo()


class SidecarIndex:
    """The files beside LoRA files, by LoRA file.

    Attributes:
        version: Another number whenever a look found other files than before.
    """

    def __init__(self) -> None:
        self.version = 0
        self.was_refreshed = False
        self._known: dict[Path, tuple[tuple[tuple[str, FileStamp], ...], SidecarInfo]] = {}

    def refresh(self, entries: Iterable[LibraryEntry]) -> None:
        """Looks at the folders of some LoRA files; only what is new or changed is read."""
        folders: dict[Path, dict[str, FileStamp]] = {}
        found = {}
        for entry in entries:
            folder = entry.path.parent
            if folder not in folders:
                folders[folder] = _stamps(folder)
            present = folders[folder]
            names = [entry.path.stem + suffix for suffix in TEXT_SUFFIXES] if present else []
            stamps = tuple((name, present[name]) for name in names if name in present)
            if stamps:
                known = self._known.get(entry.path)
                is_same = known is not None and known[0] == stamps
                found[entry.path] = known if known and is_same else (stamps, load_sidecar_info(entry.path))
        if found != self._known:
            self._known = found
            self.version += 1
        self.was_refreshed = True

    def info(self, entry: LibraryEntry) -> SidecarInfo:
        """What is known of a file: before the first look, what its own metadata says of trigger words."""
        known = self._known.get(entry.path)
        return with_trigger_phrase(known[1] if known else _NOTHING, entry)


def with_trigger_phrase(info: SidecarInfo, entry: LibraryEntry) -> SidecarInfo:
    """Adds the trigger words of a file's own metadata where no model site names any."""
    phrase = trigger_phrase(entry.short_metadata)
    return replace(info, trained_words=(phrase,)) if phrase and not info.trained_words else info


def trigger_phrase(metadata: Mapping[str, str]) -> str:
    """The words that call what a file has learned, as its trainer wrote them into its metadata; "" where it did not."""
    return (metadata.get("modelspec.trigger_phrase", "") or metadata.get("ss_trigger_words", "")).strip()


def _stamps(folder: Path) -> dict[str, FileStamp]:
    """The text files of a folder and when they were changed."""
    found = {}
    try:
        with os.scandir(folder) as items:
            for item in items:
                if item.name.lower().endswith((".json", ".txt", ".info")):
                    try:
                        status = item.stat()
                    except OSError:  # it was removed meanwhile
                        continue
                    found[item.name] = (status.st_mtime_ns, status.st_size)
    except OSError:  # the library tells about folders that cannot be read
        return {}
    return found

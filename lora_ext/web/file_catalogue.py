"""What the library shows of each file: kind, base and ranks from headers alone, found in the background and kept."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TypedDict, cast

import torch

from ..adapters import adapters_with_rank
from ..errors import LoraError
from ..file import safetensors_file
from ..file.base_model import cross_attention_dim
from ..file.containers import container_format
from ..file.loading import assemble_lora_file, load_lora_file
from ..file.lora_file import LoraFile
from ..file.lora_library import LibraryEntry, LoraLibrary
from ..file.peft_config import find_adapter_config
from ..file.saving import replacing_file
from ..json_text import parse_json
from .sidecar_index import SidecarIndex

_STALE = 4.0
"""Seconds after which the folders are looked at again …"""
_SHARE = 20
"""… and how many times as long as a look takes they are left alone: slow folders are looked at less often."""
_VERSION = 2


class _KnownSummary(TypedDict):
    base: str
    kind: str
    rank: int | None


class FileSummary(_KnownSummary, total=False):
    """What is known of a file, as the cache's JSON holds it.

    Attributes:
        base: "SD1", "SD2", "SDXL" or "unknown".
        kind: Such as "LoRA"; "unreadable" where the file cannot be read.
        rank: The commonest rank.
        mixed: Whether layers have different ranks; one whose change is 0 does not count.
        layers: How many layers it has.
        text: Whether it changes a text encoder.
        cross_attention_dim: What the cross-attention layers of its model take in; 0 where the file does not tell.
        error: Why it cannot be read.
    """

    mixed: bool
    layers: int
    text: bool
    cross_attention_dim: int
    error: str


def load_header_only(path: Path) -> LoraFile:
    """The file with tensors that have shapes but no numbers: its header alone is read. Raises FileError.

    Of a file with several ranks the layers of rank 1 have numbers: files that were resized hold those whose change is 0
    so. Torch files have no header and are read whole.
    """
    if container_format(path) != "safetensors":
        return load_lora_file(path)
    header = safetensors_file.load_safetensors_header(path)
    tensors = {
        name: torch.empty(
            entry.shape, dtype=safetensors_file.TORCH_DTYPES.get(entry.dtype, torch.float32), device="meta"
        )
        for name, entry in header.entries.items()
    }
    file = assemble_lora_file(tensors, header.metadata, path, find_adapter_config(path))
    ranks = {adapter.rank for adapter in file.adapters.values() if adapter.rank}
    if len(ranks) < 2 or 1 not in ranks:
        return file
    of_rank_one = {
        id(tensor) for adapter in file.adapters.values() if adapter.rank == 1 for tensor in adapter.tensors.values()
    }
    names = [name for name, tensor in tensors.items() if id(tensor) in of_rank_one]
    tensors |= dict(safetensors_file.iterate_safetensors(path, header, names))
    return assemble_lora_file(tensors, header.metadata, path, find_adapter_config(path))


def summarise_file(path: Path) -> FileSummary:
    """What the header tells of a file, or why it cannot be read."""
    try:
        file = load_header_only(path)
    except LoraError as error:
        return {"base": "unknown", "kind": "unreadable", "rank": None, "error": str(error)}
    ranks = Counter(adapter.rank for adapter in adapters_with_rank(file.adapters.values())).most_common(2)
    return {
        "base": file.family,
        "kind": file.variant,
        "rank": ranks[0][0] if ranks else None,
        "mixed": len(ranks) > 1,
        "layers": len(file.adapters),
        "text": any(layer_id.part != "unet" for layer_id in file.adapters),
        "cross_attention_dim": cross_attention_dim(file.adapters),
    }


class FileCatalogue:
    """The library with a summary a file. cache: a JSON file that keeps summaries between starts."""

    def __init__(self, library: LoraLibrary, cache: Path | None = None) -> None:
        self.library, self._cache = library, cache
        self.sidecars = SidecarIndex()
        self._lock = threading.Lock()
        self._known: dict[str, tuple[list[int], FileSummary]] = self._stored()
        self._worker: threading.Thread | None = None
        self._looked, self._pause = time.monotonic(), _STALE  # the library was just made
        self._summaries = 0
        self._made = 0
        """How many summaries were made."""
        self._counted: tuple[tuple[int, int], int] = (-1, -1), 0

    def refresh(self, *, now: bool = False) -> None:
        """Looks at the folders again if that is a while ago, and summarises what is new: in the background.

        now: looks before it returns, for a file that was just written.
        """
        if now:
            self._look()
        with self._lock:
            idle = self._worker is None or not self._worker.is_alive()
            if idle and (self._stale or self.pending_count or not self.sidecars.was_refreshed):
                # No daemon, also where a daemon thread asks (a thread inherits that from the one that starts it):
                # one that is within torch when Python ends aborts the process.
                self._worker = threading.Thread(target=self._work, name="lora-ext-catalogue", daemon=False)
                self._worker.start()

    @property
    def version(self) -> tuple[int, int, int]:
        """Another one whenever files came, went or changed, or more is known about them."""
        return self.library.version, self._summaries, self.sidecars.version

    @property
    def _stale(self) -> bool:
        return time.monotonic() - self._looked > self._pause

    def _look(self) -> None:
        begun = time.monotonic()
        self.library.refresh()
        self.sidecars.refresh(self.library.entries)
        self._looked = time.monotonic()
        self._pause = max(_STALE, _SHARE * (self._looked - begun))

    @property
    def pending_count(self) -> int:
        """How many files have no summary yet."""
        now = (self.library.version, self._made)
        if self._counted[0] != now:
            self._counted = now, sum(self.cached_summary(entry) is None for entry in self.library.entries)
        return self._counted[1]

    def cached_summary(self, entry: LibraryEntry) -> FileSummary | None:
        """The summary of a file as it is now, None before it was made."""
        row = self._known.get(str(entry.path))
        return row[1] if row is not None and row[0] == list(entry.stamp) else None

    def summary(self, entry: LibraryEntry) -> FileSummary:
        """The summary, made now if it must be."""
        row = self.cached_summary(entry)
        if row is None:
            row = summarise_file(entry.path)
            self._known[str(entry.path)] = (list(entry.stamp), row)
            self._made += 1
        return row

    def _work(self) -> None:
        """Newest first: those are looked for."""
        if self._stale or not self.sidecars.was_refreshed:
            self._look()
        if not self.pending_count:
            return
        before = self.pending_count
        for entry in sorted(self.library.entries, key=lambda entry: -entry.stamp[0]):
            if not threading.main_thread().is_alive():  # the program ends
                break
            if self.cached_summary(entry) is None:
                with suppress(Exception):
                    self.summary(entry)
                time.sleep(0.001)  # a page that asks meanwhile goes first
        self._summaries += self.pending_count < before
        self._save()

    def _save(self) -> None:
        if self._cache is None:
            return
        present = {str(entry.path) for entry in self.library.entries}
        self._known = {path: row for path, row in self._known.items() if path in present}
        with suppress(LoraError), replacing_file(self._cache, overwrite=True) as part:
            part.write_text(json.dumps({"version": _VERSION, "files": self._known}), encoding="utf-8")

    def _stored(self) -> dict[str, tuple[list[int], FileSummary]]:
        if self._cache is None or not self._cache.is_file():
            return {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = parse_json(self._cache.read_text(encoding="utf-8"))
            if content["version"] == _VERSION:
                rows = content["files"].items()
                return {path: (list(stamp), cast("FileSummary", dict(row))) for path, (stamp, row) in rows}
        return {}

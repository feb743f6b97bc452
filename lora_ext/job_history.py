"""Ended jobs on disk, one line each, so that a later start of the program shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from .errors import LoraError
from .file.saving import replacing_file
from .json_text import dataclass_fields, parse_json


class JobHistory:
    """A file of ended jobs as lines of JSON, to which each is added when it ends.

    A line that a killed program left half written is left out, and so is the file if it cannot be read. A disk that
    is full loses the history, not the job.

    Args:
        path: the file; None to keep nothing.
        max_kept: how many of the last jobs are loaded. With twice as many lines the file is written anew.
    """

    def __init__(self, path: Path | None, max_kept: int) -> None:
        self._path, self._max_kept, self._lines, self._lock = path, max_kept, 0, Lock()

    def load(self) -> list[Any]:
        """The last jobs, the oldest first, each as it was given to `add`; none where there is no file."""
        if self._path is None:
            return []
        rows: list[Any] = []
        with suppress(OSError, UnicodeDecodeError):
            for line in self._path.read_text(encoding="utf-8").split("\n"):
                with suppress(ValueError):
                    row = parse_json(line)
                    rows += row if isinstance(row, list) else [row]  # until 2026-11 the file was one list
        self._lines = len(rows)
        return rows[-self._max_kept :]

    def add(self, job: object, kept: Iterable[object]) -> None:
        """Adds an ended job.

        Args:
            job: the job, a dataclass that is fit for JSON.
            kept: all ended jobs with this one; read only when the file has grown too long.
        """
        self._lines += 1
        if self._lines > 2 * self._max_kept or (self._path and self._path.is_symlink()):
            self.replace(kept)
            return
        with suppress(OSError, TypeError, ValueError), self._lock:
            if self._path:
                line = json.dumps(job, default=dataclass_fields)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"\n{line}")  # the break comes first: what a killed program left stays on its own line

    def replace(self, kept: Iterable[object]) -> None:
        """Writes the file anew, with these jobs alone."""
        if self._path is None:
            return
        with self._lock, suppress(LoraError, TypeError, ValueError), replacing_file(self._path, overwrite=True) as part:
            lines = [json.dumps(job, default=dataclass_fields) for job in kept]
            part.write_text("\n".join(lines), encoding="utf-8")
            self._lines = len(lines)

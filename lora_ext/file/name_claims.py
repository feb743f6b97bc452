"""Claims of names: processes over one folder agree on which of them draws a cell of a sheet, or writes a run's files.

A claim is a file `.NAME.claim` with its owner and time, which its owner touches every few seconds. A claim whose
process no longer runs is lost and is taken over. Whether a process runs is not known on Windows, nor on another
machine: there a claim is lost when it stays untouched for `LOST_SECONDS`. A process that slept longer than that may go
on writing what another one has taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..json_text import parse_json

TOUCH_SECONDS = 5.0
"""Time between two signs of life of a claim's owner."""
LOST_SECONDS = 45.0
"""How long a claim has to stay untouched to be lost. Network folders show a touch late."""
RECHECK_SECONDS = 1.0
"""Time between two looks at a claim of another process."""


class NameClaims:
    """The claims of one process; a context manager that releases them.

    Args:
        folder: the folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        self._held: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}  # name -> (time of the last touch, when that was seen here)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._touch_until_the_end, name="name-claims", daemon=True)

    def __enter__(self) -> NameClaims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for name in tuple(self._held):
            self.release(name)
        self._thread.join()

    def take(self, name: str) -> bool:
        """Claims a name; a lost claim is taken over.

        Args:
            name: such as a cell's key.

        Returns:
            Whether this process has the name now. True as well where the folder takes no files, whose error the
            named file itself meets.
        """
        path = self._path(name)
        if path.exists():  # a claim that comes after this look is found by opening
            owner = _load_owner(path)
            if not self._is_lost(name, path, owner):
                return False
            mine = path.with_name(f"{path.name}-{self._owner['id']}")
            with contextlib.suppress(OSError):
                path.replace(mine)  # of several processes that take a lost claim over, one can rename it
                if _load_owner(mine) != owner:  # but this claim is another one, made since the look
                    mine.replace(path)
                    return False
                mine.unlink()
        try:
            file = path.open("x", encoding="utf-8")
        except FileExistsError:
            return False
        except OSError:
            return True
        try:
            with file:
                json.dump({**self._owner, "time": time.time()}, file)
        except OSError:  # a full disk: a claim without an owner would keep the name from the next run
            with contextlib.suppress(OSError):
                path.unlink()
            return True
        self._held.add(name)
        return True

    def take_when_lost(self, name: str) -> bool:
        """Claims a name; waits, for `LOST_SECONDS` at most, where it cannot be told whether the claim's owner runs.

        Args:
            name: as of `take`.

        Returns:
            Whether this process has the name now; False as soon as the owner gives a sign of life.
        """
        touches: set[int] = set()
        while not self.take(name):
            touches.add(self._seen.get(name, (0, 0.0))[0])
            if self._owner_runs(_load_owner(self._path(name))) or len(touches) > 1:
                return False
            time.sleep(RECHECK_SECONDS)
        return True

    def release(self, name: str) -> None:
        """Gives a claim back, if this process still has it."""
        self._held.discard(name)
        if _load_owner(self._path(name)).get("id") == self._owner["id"]:
            with contextlib.suppress(OSError):
                self._path(name).unlink()

    def remove_done(self, names: Iterable[str]) -> None:
        """Removes the claims of files that are there, left by a process that was killed after it had saved one."""
        for name in names:
            with contextlib.suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f".{name}.claim"

    def _is_lost(self, name: str, path: Path, owner: dict[str, Any]) -> bool:
        """Whether nobody works under a claimed name.

        The time of the last touch is only compared with itself, since the clocks of machines differ.
        """
        try:
            touched = path.stat().st_mtime_ns
        except OSError:
            return True
        if self._owner_runs(owner) is False:
            return True
        now = time.monotonic()
        if self._seen.get(name, (None, 0))[0] != touched:
            self._seen[name] = (touched, now)
        return now - self._seen[name][1] > LOST_SECONDS

    def _owner_runs(self, owner: dict[str, Any]) -> bool | None:
        """Whether the process of a claim runs; None where that cannot be told: then the signs of life decide."""
        pid = owner.get("pid")
        if owner.get("host") != self._owner["host"] or not isinstance(pid, int) or not 0 < pid < 1 << 31:
            return None
        if os.name != "posix":  # on Windows, os.kill would end the process
            return None
        try:
            os.kill(pid, 0)
        except OSError as error:
            return not isinstance(error, ProcessLookupError)
        return True

    def _touch_until_the_end(self) -> None:
        while not self._end.wait(TOUCH_SECONDS):
            for name in tuple(self._held):
                with contextlib.suppress(OSError):
                    os.utime(self._path(name))


def _load_owner(path: Path) -> dict[str, Any]:
    """The owner that a claim names; {} where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = parse_json(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}

"""Claims by which several processes share out the cells of one sheet, on one machine or several over one folder.

A claim is a file `cells/.KEY.claim` with its owner and time. Its owner touches it every few seconds; a claim that stays
untouched, or whose process no longer runs, is lost and is taken over. A picture depends on its spec alone, so that two
processes that draw the same cell after all (one slept longer than a claim holds) write the same file.
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
"""How long a claim has to stay untouched to be lost."""


class CellClaims:
    """The claims of one process; a context manager that releases them.

    Args:
        folder: the folder of the cells.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
        self._held: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}  # key -> (time of the last touch, when that was seen here)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._touch_until_the_end, name="cell-claims", daemon=True)

    def __enter__(self) -> CellClaims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for key in tuple(self._held):
            self.release(key)
        self._thread.join()

    def take(self, key: str) -> bool:
        """Claims a cell; a lost claim is taken over.

        Args:
            key: the cell's key.

        Returns:
            Whether this process has the cell now. True as well where the folder takes no files, whose error the
            picture itself meets.
        """
        path = self._path(key)
        if path.exists():  # a claim that comes after this look is found by opening
            owner = _load_owner(path)
            if not self._is_lost(key, path):
                return False
            mine = path.with_name(f"{path.name}-{self._owner['id']}")
            with contextlib.suppress(OSError):
                path.replace(mine)  # of several processes that take a lost claim over, one can rename it
                if _load_owner(mine) != owner:  # but this claim is another one, made since the look
                    mine.replace(path)
                    return False
                mine.unlink()
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump({**self._owner, "time": time.time()}, file)
        except FileExistsError:
            return False
        except OSError:
            return True
        self._held.add(key)
        return True

    def release(self, key: str) -> None:
        """Gives a claim back, if this process still has it."""
        self._held.discard(key)
        if _load_owner(self._path(key)).get("id") == self._owner["id"]:
            with contextlib.suppress(OSError):
                self._path(key).unlink()

    def remove_done(self, keys: Iterable[str]) -> None:
        """Removes the claims of pictures that are drawn, left by a process that was killed after it had saved one."""
        for key in keys:
            with contextlib.suppress(OSError):
                self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f".{key}.claim"

    def _is_lost(self, key: str, path: Path) -> bool:
        """Whether nobody works on a claimed cell.

        The time of the last touch is only compared with itself, since the clocks of machines differ.
        """
        try:
            touched = path.stat().st_mtime_ns
        except OSError:
            return True
        owner = _load_owner(path)
        if owner.get("host") == self._owner["host"] and not _is_running(owner.get("pid")):
            return True
        now = time.monotonic()
        if self._seen.get(key, (None, 0))[0] != touched:
            self._seen[key] = (touched, now)
        return now - self._seen[key][1] > LOST_SECONDS

    def _touch_until_the_end(self) -> None:
        while not self._end.wait(TOUCH_SECONDS):
            for key in tuple(self._held):
                with contextlib.suppress(OSError):
                    os.utime(self._path(key))


def _load_owner(path: Path) -> dict[str, Any]:
    """The owner that a claim names; {} where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = parse_json(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _is_running(pid: object) -> bool:
    """Whether a process of this machine runs. True where that cannot be told: then the signs of life decide."""
    if os.name != "posix" or not isinstance(pid, int) or not 0 < pid < 1 << 31:
        return True  # on Windows, os.kill would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

"""A lock for files that are read, changed and written again, between threads and between processes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_THREADS = threading.Lock()


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Lets one thread of one process at a time change a file.

    The lock is of an empty hidden file beside `path`, which stays. The system frees the lock when its process ends
    or is killed. On a file system without locks, only the threads of this process wait for each other.

    Args:
        path: the file that is changed; its folder exists.

    Yields:
        None, while the lock is held.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "count.txt"
        >>> with exclusive_lock(path):
        ...     _ = path.write_text("1")
    """
    with _THREADS, contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a folder without write access is reported by the write itself
            handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
            held.callback(os.close, handle)
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
            else:
                _lock_on_windows(handle)
        yield


def _lock_on_windows(handle: int) -> None:
    import msvcrt

    while True:
        try:
            msvcrt.locking(handle, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
            return
        except OSError as error:
            if error.errno != 36:  # EDEADLOCK: it was held for ten seconds, so wait on
                raise

"""Why a file cannot be read, where the system's or a decoder's words do not say it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .broken_links import is_broken_link, link_target

EMPTY_FILE_REASON = "it is empty"


def why_unreadable(path: Path, error: OSError) -> str:
    """Why a file cannot be read, as a part of a sentence: it is a broken link, or empty; else the error's own reason.

    Args:
        path: the file.
        error: what opening or decoding it raised.
    """
    if isinstance(error, FileNotFoundError) and is_broken_link(path):
        return f"it is a link that leads nowhere (to {link_target(path)})"
    with contextlib.suppress(OSError):
        if path.is_file() and not path.stat().st_size:
            return EMPTY_FILE_REASON
    return error.strerror or str(error)

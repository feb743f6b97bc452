"""Reading TOML, on Python 3.10 too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import TrainError

_WINDOWS = re.compile(r'"(?:[A-Za-z]:|\\\\)[^"\n]*\\')
"""A Windows path in double quotes, where TOML reads `\\` and the letter after it as one sign."""
_MISREAD_PATH = re.compile(r"(?:[A-Za-z]:(?=[\x00-\x1f\\])|\\)[^\n\r]*[\x00-\x1f]")
"""What becomes of such a path where the letter after `\\` has a meaning: a tab, the end of a line."""
_PATH_HINT = "write paths with / or in single quotes, such as 'C:\\pictures'; in double quotes \\ has another meaning"


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content. Raises TrainError: missing, not UTF-8, not TOML (with the place), no library for it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TrainError(f"{path} is not UTF-8 text; save it again as UTF-8") from None
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror or error}") from None
    library = _library()
    try:
        content: dict[str, Any] = library.loads(text)
    except library.TOMLDecodeError as error:
        hint = f"; {_PATH_HINT}" if _WINDOWS.search(text) else ""
        raise TrainError(f"{path} is not TOML: {error}{hint}") from None
    for value in _strings(content):
        if _MISREAD_PATH.match(value):
            raise TrainError(f"{path} has a path that is read as {value!r}; {_PATH_HINT}")
    return content


def _strings(value: Any) -> Iterator[str]:
    """All texts in a TOML file's content."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _library() -> Any:
    """Python's own from 3.11 on, else tomli, which pip brings along too."""
    for name in ("tomllib", "tomli", "pip._vendor.tomli"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise TrainError("reading TOML needs the package tomli with this Python: pip install tomli")

"""Reading TOML, also with Python 3.10."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import TrainError
from .text_file import load_utf8

_WINDOWS = re.compile(r'"(?:[A-Za-z]:|\\\\)[^"\n]*\\')
"""A Windows path in double quotes, where TOML reads `\\` and the letter after it as an escape sequence."""
_MISREAD_PATH = re.compile(r"(?:[A-Za-z]:(?=[\x00-\x1f\\])|\\)[^\n\r]*[\x00-\x1f]")
"""Such a path after parsing, where an escape sequence was valid: `\\t` has become a tab."""
_PATH_HINT = (
    "write paths with / or in single quotes, such as 'C:\\pictures'; in double quotes \\ begins an escape sequence"
)


def load_toml(path: Path) -> dict[str, Any]:
    """Loads a TOML file.

    Args:
        path: The file, in UTF-8.

    Returns:
        Its tables and values.

    Raises:
        TrainError: The file is missing, empty, not UTF-8 or not TOML (with the place), or Python 3.10 has no library
            for it.
    """
    text = load_utf8(path)
    if not text.strip():
        raise TrainError(f"{path} is empty")
    library = _library()
    try:
        content: dict[str, Any] = library.loads(text)
    except library.TOMLDecodeError as error:
        hint = f"; {_PATH_HINT}" if _WINDOWS.search(text) else ""
        raise TrainError(f"{path} is not TOML: {error}{hint}") from None
    except RecursionError:
        raise TrainError(f"{path} cannot be read: it is nested too deeply") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise TrainError(f"{path} cannot be read: {error}") from None
    for value in _strings(content):
        if _MISREAD_PATH.match(value):
            raise TrainError(f"{path} has a path that is read as {value!r}; {_PATH_HINT}")
    return content


def _strings(value: Any) -> Iterator[str]:
    """All texts in the content of a TOML file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _library() -> Any:
    """Python's own library from 3.11 on, else tomli, which pip bundles too."""
    for name in ("tomllib", "tomli", "pip._vendor.tomli"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise TrainError("reading TOML needs the package tomli with this Python: pip install tomli")

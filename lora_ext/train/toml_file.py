"""Reading TOML, on Python 3.10 too."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import TrainError


def read_toml(path: Path) -> dict[str, Any]:
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
        raise TrainError(f"{path} is not TOML: {error}") from None
    return content


def _library() -> Any:
    """Python's own from 3.11 on, else tomli, which pip brings along too."""
    for name in ("tomllib", "tomli", "pip._vendor.tomli"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise TrainError("reading TOML needs the package tomli with this Python: pip install tomli")

"""Folders of diffusers models: what makes a folder one, and how one is written whole."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import FileError, ToolError
from ..file.saving import replace_file

MODEL_INDEX = "model_index.json"
"""The file that makes a folder a diffusers model."""


def check_model_folder(folder: Path) -> None:
    """Raises ToolError where `folder` is not a diffusers model."""
    if not (folder / MODEL_INDEX).is_file():
        raise ToolError(f"{folder} is not a diffusers model: it has no {MODEL_INDEX}")


def check_replaceable(save_to: Path) -> None:
    """Raises ToolError where something else than a diffusers model would be replaced."""
    if save_to.exists() and not (save_to / MODEL_INDEX).is_file():
        raise ToolError(f"{save_to} exists and is not a diffusers model; choose another folder")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; it replaces `path` when the block succeeds and is removed otherwise.

    Raises:
        FileError: the folder cannot be written.
    """
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}-", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        yield part
        part.chmod(0o755)
        if path.exists():
            replace_file(path, old, path)
        replace_file(part, path)
    except FileError as error:  # the message names a file in the temporary folder; name the final one instead
        raise FileError(str(error).replace(str(part), str(path))) from error
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if old.exists() and not path.exists():
            replace_file(old, path)
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)

"""Where pictures are that a folder seems to lack: in an archive that is still packed, or in folders further below."""

from __future__ import annotations

import os
from pathlib import Path

from .image_files import is_image_file

ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz")
"""Suffixes of files that have to be unpacked first."""
_MOST_FOLDERS = 200
"""So many folders are looked into: the folder given by mistake may be a whole disk."""


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive."""
    return path.suffix.lower() in ARCHIVE_SUFFIXES and not path.name.startswith(".")


def missing_pictures_ending(folder: Path) -> str:
    """Says what to do where a folder has no pictures of its own, as the end of a sentence.

    Args:
        folder: A folder that exists.

    Returns:
        A hint behind a semicolon; "" where nothing is found.
    """
    for count, (where, folders, files) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        here = Path(where)
        if here != folder and any(is_image_file(here / name) for name in files):
            return f"; there are some in {here}: give that folder"
        archives = sorted(name for name in files if is_archive(here / name))
        if archives:
            return f"; unpack {here / archives[0]} first"
        if count >= _MOST_FOLDERS:
            break
    return ""


def file_instead_of_folder_ending(path: Path) -> str:
    """Says what to do with a file where a folder of pictures is wanted; "" for a file of another kind."""
    if is_archive(path):
        return "; unpack it and give the folder"
    return f"; give the folder that it is in, {path.parent}" if is_image_file(path) else ""

"""Names that come from outside → paths inside the user's folders, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..errors import FileError, did_you_mean
from ..file.displayed_names import displayed_name, files_below, find_in_folders, paths_by_displayed_name
from ..file.saving import check_not_linked

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_LONGEST = 180


def check_user_path(name: str) -> PurePosixPath:
    """`sub/folder/name` as a relative path that is safe on every system.

    Raises FileError for `..`, absolute paths, drive letters, reserved names, control and forbidden characters.
    """
    shown = ascii(name[:80])
    if not name or len(name) > 4 * _LONGEST:
        raise FileError("a name is needed" if not name else f"the name {shown}… is too long")
    bad = _FORBIDDEN.search(name)
    if bad:
        raise FileError(f"{shown} is not a valid name: it contains {bad[0]!a}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FileError(f"{shown} is not a valid name: it is not valid text") from None
    if name.startswith("/"):
        raise FileError(f"{shown} is not a valid name: give it relative to its folder")
    for part in name.split("/"):
        if part in ("", ".", "..") or part != part.strip() or part.endswith("."):
            raise FileError(f"{shown} is not a valid name: {part!r} cannot be a part of it")
        if _RESERVED.fullmatch(part):
            raise FileError(f"{shown} is not a valid name: {part!r} is reserved on Windows")
        if len(part.encode("utf-8")) > _LONGEST:
            raise FileError(f"the name {shown}… is too long")
    return PurePosixPath(name)


def user_output_path(folder: Path, name: str, suffix: str) -> Path:
    """Where a result called `name` goes below `folder`: `suffix` is added, subfolders are made.

    Raises FileError for names that `check_user_path` refuses, and where it would be written through a link.
    """
    bare = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    relative = check_user_path(bare)
    path = folder.joinpath(*relative.parts[:-1], relative.name + suffix)
    check_not_linked(path.parent, folder)
    if path.is_symlink():
        raise FileError(f"{name} is a link, and nothing is written through links; choose another name")
    create_user_folder(path.parent)
    return path


def create_user_folder(folder: Path) -> list[Path]:
    """Makes the folder where it is missing; answers with the folders that it made. Raises FileError."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {folder.name} cannot be created: {error.strerror or error}") from error
    return missing


def split_user_path(name: str) -> tuple[str, ...]:
    """A name of a file that is to be read → its parts, of which none leads out of a folder. Raises FileError.

    Names that are there already may have any characters, so less is refused than in `check_user_path`.
    """
    if os.name == "nt":  # `con` and `a:b` are no files there
        return check_user_path(name).parts
    parts = tuple(name.split("/"))
    if len(name) > 4 * _LONGEST or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise FileError(f"{name[:80]!a} is not a valid name: give it relative to its folder, without ..")
    return parts


def find_user_path(folders: Sequence[Path], name: str) -> Path:
    """The file or folder of a name below the first of some folders that has it, links followed.

    It is for reading; what is written goes through `user_output_path` or `check_not_linked`.

    Args:
        folders: The folders.
        name: A path below them, with slashes.

    Returns:
        The path.

    Raises:
        FileError: A path that leaves the folders, or a name that none of them has.
    """
    parts = split_user_path(name)
    path = find_in_folders(folders, parts)
    if path is not None:
        return path
    known = (
        displayed_name(entry.name)
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.exists()
    )
    raise FileError(f"there is no {displayed_name(name)!r} here{did_you_mean(displayed_name(name), known)}")


def user_dataset_folder(folders: Sequence[Path], name: str) -> Path:
    """A data set that is written to: one that is there, or where one of this name would be made.

    Raises FileError for a name that leads out of the folders, or through a link.
    """
    path = find_in_folders(folders, split_user_path(name))
    if path is None:
        if not folders:
            raise FileError("there is no folder of data sets; name one in the settings")
        path = folders[0].joinpath(*check_user_path(name).parts)
    check_not_linked(path, containing_folder(folders, path))
    return path


def containing_folder(folders: Sequence[Path], path: Path) -> Path:
    """The one of `folders` that a path of `find_user_path` lies in. Raises FileError."""
    for folder in folders:
        if path.is_relative_to(folder):
            return folder
    raise FileError(f"{path.name} lies outside your folders")


def list_user_files(folders: Iterable[Path], suffixes: Sequence[str]) -> list[str]:
    """Names of all files with some endings, as `find_user_path` takes them.

    Of files of one name in several folders the later ones are called `folder/name`.

    Args:
        folders: The folders.
        suffixes: The endings, with their dot.

    Returns:
        The names, sorted; links are followed, hidden files left out.
    """
    return list(paths_by_displayed_name((folder, path) for folder in folders for path in files_below(folder, suffixes)))

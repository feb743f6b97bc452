"""Names that come from outside → paths inside the user's folders, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..errors import FileError, did_you_mean

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_LONGEST = 180


def checked(name: str) -> PurePosixPath:
    """`sub/folder/name` as a relative path that is safe on every system.

    Raises FileError for `..`, absolute paths, drive letters, reserved names, control and forbidden characters.
    """
    shown = ascii(name[:80])
    if not name or len(name) > 4 * _LONGEST:
        raise FileError("a name is needed" if not name else f"the name {shown}… is too long")
    bad = _FORBIDDEN.search(name)
    if bad:
        raise FileError(f"{shown} is not a name here: it contains {bad[0]!a}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FileError(f"{shown} is not a name here: it is no valid text") from None
    if name.startswith("/"):
        raise FileError(f"{shown} is not a name here: give it relative to its folder")
    for part in name.split("/"):
        if part in ("", ".", "..") or part != part.strip() or part.endswith("."):
            raise FileError(f"{shown} is not a name here: {part!r} cannot be a part of it")
        if _RESERVED.fullmatch(part):
            raise FileError(f"{shown} is not a name here: {part!r} is reserved on Windows")
        if len(part.encode("utf-8")) > _LONGEST:
            raise FileError(f"the name {shown}… is too long")
    return PurePosixPath(name)


def to_write(folder: Path, name: str, suffix: str) -> Path:
    """Where a result called `name` goes below `folder`: `suffix` is added, subfolders are made.

    Raises FileError for names that `checked` refuses, and where a link leads out of the folder.
    """
    bare = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    relative = checked(bare)
    path = folder.joinpath(*relative.parts[:-1], relative.name + suffix)
    root = folder.resolve()
    if not path.parent.resolve().is_relative_to(root) or (
        path.is_symlink() and not path.resolve().is_relative_to(root)
    ):
        raise FileError(f"{name} lies outside {folder.name}")
    made(path.parent)
    return path


def made(folder: Path) -> None:
    """Makes the folder where it is missing. Raises FileError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder.name} cannot be a folder here: {error.strerror or error}") from error


def below(folders: Sequence[Path], name: str) -> Path:
    """The file or folder called `name` below the first of `folders` that has it. Raises FileError."""
    relative = checked(name)
    for folder in folders:
        path = folder.joinpath(*relative.parts)
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            return path
    known = (entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir())
    raise FileError(f"there is no {name!r} here{did_you_mean(name, known)}")


def listed(folders: Iterable[Path], suffixes: Sequence[str], *, deep: bool = True) -> list[str]:
    """Names, as `below` takes them, of all files with one of `suffixes`; sorted, hidden ones left out."""
    found: dict[str, None] = {}
    for folder in folders:
        if not folder.is_dir():
            continue
        for path in sorted(folder.rglob("*") if deep else folder.glob("*")):
            name = path.relative_to(folder).as_posix()
            if path.suffix.lower() in suffixes and path.is_file() and not any(p[0] == "." for p in name.split("/")):
                found.setdefault(name)
    return list(found)

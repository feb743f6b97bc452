"""Names of files as text that every answer, console and file can hold, and finding a file by such a name."""

from __future__ import annotations

import argparse
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..console import replace_lone_surrogates
from .broken_links import is_broken_link, may_be_folder_link


def displayed_name(name: str) -> str:
    """Formats a file name as it is shown, sent and typed: NFC, with `\ufffd` for bytes that are not UTF-8.

    macOS and some archives write names decomposed (NFD); a keyboard types them composed. Both are the same name.

    Args:
        name: a name from the file system.

    Returns:
        The name as text that every encoding of Unicode can hold.
    """
    return unicodedata.normalize("NFC", replace_lone_surrogates(name))


def find_by_displayed_parts(folder: Path, parts: Sequence[str]) -> Path | None:
    """Finds a file or folder by its displayed name.

    Args:
        folder: the folder to begin in.
        parts: the names of the folders and of the file below it.

    Returns:
        The path with exactly these names, else the first whose displayed names are the same; None where there is none.
    """
    path = folder
    for part in parts:
        found = path / part
        if not _exists(found):
            wanted = displayed_name(part)
            match = next((name for name in _names(path) if displayed_name(name) == wanted), None)
            if match is None:
                return None
            found = path / match
        path = found
    return path if _exists(path) else None


def typed_path(text: str | Path) -> Path:
    """Finds the path that a user typed, where the file system may hold its name in another normal form of Unicode.

    Args:
        text: the path as typed.

    Returns:
        The path as it is on disk. The part that does not exist stays as it was typed.
    """
    path = Path(text)
    if str(path).isascii() or _exists(path):
        return path
    found = typed_path(path.parent)
    return find_by_displayed_parts(found, [path.name]) or found / path.name


def accept_typed_paths(parser: argparse.ArgumentParser) -> None:
    """Makes a parser convert every argument of `type=Path` with `typed_path`.

    Args:
        parser: the parser; it is changed.
    """
    parser.register("type", Path, typed_path)


def files_below(
    folder: Path,
    suffixes: Sequence[str] | None = None,
    on_error: Callable[[OSError], object] | None = None,
    broken_links: list[Path] | None = None,
) -> Iterator[Path]:
    """Lists the files below a folder in order. Links to folders are followed, each folder is visited once.

    Hidden files and folders are left out. A folder that cannot be read counts as empty.

    Args:
        folder: where to begin.
        suffixes: suffixes in small letters, with the dot; None for all files.
        on_error: called for each folder that cannot be read.
        broken_links: gets the links with such suffixes whose files do not exist, and those to folders.

    Yields:
        The paths.
    """
    seen: set[tuple[int, int]] = set()
    found = []
    for where, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        try:
            status = Path(where).stat()
        except OSError:
            status = None
        if status is None or (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(where, name) for name in names if not name.startswith(".")]
    for path in sorted(found):
        wanted = suffixes is None or path.suffix.lower() in suffixes
        if wanted and path.is_file():
            yield path
        elif broken_links is not None and (wanted or may_be_folder_link(path.name)) and is_broken_link(path):
            broken_links.append(path)


def paths_by_displayed_name(found: Iterable[tuple[Path, Path]]) -> dict[str, Path]:
    """Gives each file a unique displayed name.

    Args:
        found: (folder, path of a file below it).

    Returns:
        Displayed name below the folder → path. Where an earlier folder has a file of the same name, the folder's own
        name comes first: `folder/name`.
    """
    made: dict[str, Path] = {}
    for folder, path in found:
        name = displayed_name(path.relative_to(folder).as_posix())
        made.setdefault(name if made.get(name, path) == path else f"{displayed_name(folder.name)}/{name}", path)
    return made


def find_in_folders(folders: Sequence[Path], parts: Sequence[str]) -> Path | None:
    """Finds a file or folder by the name that `paths_by_displayed_name` gives it.

    Args:
        folders: the folders, in the order given there.
        parts: the name, divided at each `/`.

    Returns:
        The path below the first folder that has it, else below the folder that the first part names; None where
        there is none.
    """
    for folder in folders:
        path = find_by_displayed_parts(folder, parts)
        if path is not None:
            return path
    for folder in folders if len(parts) > 1 else ():
        if (
            displayed_name(folder.name) == displayed_name(parts[0])
            and (path := find_by_displayed_parts(folder, parts[1:])) is not None
        ):
            return path
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # text that no name on this system can be
        return False


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []

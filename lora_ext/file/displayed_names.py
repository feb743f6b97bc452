"""Names of files as text that every answer, console and file can hold, and finding a file by such a name."""

from __future__ import annotations

import argparse
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..console import replace_lone_surrogates


def displayed_name(name: str) -> str:
    """A name as it is shown, sent and typed: in NFC, with `\ufffd` for bytes that are no UTF-8.

    macOS and some archives write names decomposed (NFD); a keyboard types them composed. Both are the same name.
    """
    return unicodedata.normalize("NFC", replace_lone_surrogates(name))


def find_by_displayed_parts(folder: Path, parts: Sequence[str]) -> Path | None:
    """The file or folder below `folder` along `parts`: spelled so, else the first whose shown name is the same."""
    path = folder
    for part in parts:
        found = path / part
        if not _exists(found):
            wanted = displayed_name(part)
            beside = next((name for name in _names(path) if displayed_name(name) == wanted), None)
            if beside is None:
                return None
            found = path / beside
        path = found
    return path if _exists(path) else None


def typed_path(text: str | Path) -> Path:
    """A path as a user typed it, as it is spelled on disk where only the normal form of a name differs.

    What is not there stays as it was typed, below the folders that are.
    """
    path = Path(text)
    if str(path).isascii() or _exists(path):
        return path
    found = typed_path(path.parent)
    return find_by_displayed_parts(found, [path.name]) or found / path.name


def accept_typed_paths(parser: argparse.ArgumentParser) -> None:
    """Makes a parser read every argument of `type=Path` by `typed_path`."""
    parser.register("type", Path, typed_path)


def files_below(folder: Path, suffixes: Sequence[str] | None = None) -> Iterator[Path]:
    """Files below a folder in order, links to folders followed, each folder once; hidden files and folders left out.

    suffixes: in small letters; None for all files. A folder that cannot be read counts as empty.
    """
    seen: set[tuple[int, int]] = set()
    found = []
    for where, folders, names in os.walk(folder, followlinks=True):
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
        if (suffixes is None or path.suffix.lower() in suffixes) and path.is_file():
            yield path


def paths_by_displayed_name(found: Iterable[tuple[Path, Path]]) -> dict[str, Path]:
    """Shown name below its folder → path, of (folder, path below it).

    Where an earlier folder has a file of that name, the folder's own name comes first: `folder/name`.
    """
    made: dict[str, Path] = {}
    for folder, path in found:
        name = displayed_name(path.relative_to(folder).as_posix())
        made.setdefault(name if made.get(name, path) == path else f"{displayed_name(folder.name)}/{name}", path)
    return made


def find_in_folders(folders: Sequence[Path], parts: Sequence[str]) -> Path | None:
    """The file or folder that `paths_by_displayed_name` calls so: below the first folder that has it, else below the
    folder it names.
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

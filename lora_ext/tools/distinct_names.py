"""Names of files in tags, where several files have one name: with the folder, as `LoraLibrary` finds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..file.displayed_names import displayed_name
from ..file.lora_file import LoraFile
from .input_files import find_input_files, shared_folder


def distinct_names(files: Sequence[LoraFile]) -> tuple[list[str], list[str]]:
    """Names the files so that a tag tells them apart.

    Args:
        files: the files.

    Returns:
        (a name for each file, notes). Files of one name are called by their path below the folder that all files
        share, which is the name in a tag where that is the folder of LoRA files; a note says so.
    """
    names, notes = [file.name for file in files], []
    paths = [file.path for file in files if file.path is not None]
    folder = shared_folder(paths) if paths else Path()
    by_path = dict(zip(paths, find_input_files(paths), strict=True))
    for name in [name for name, count in Counter(names).items() if count > 1]:
        rows = [i for i, one in enumerate(names) if one == name]
        if len({path and path.resolve() for path in (files[i].path for i in rows)}) == 1:
            continue  # one file, given more than once
        for i in rows:
            path = files[i].path
            if path is not None:
                below = displayed_name(by_path[path].name)
                # a file directly in the folder is meant beside another of its name by the folder's name in front
                names[i] = below if "/" in below else "/".join(filter(None, (displayed_name(folder.name), below)))
        for i in [i for i in rows if [names[k] for k in rows].count(names[i]) > 1]:
            path = files[i].path
            if path is not None and any(_is_other_file(path, files[k].path) for k in rows):
                names[i] += displayed_name(path.suffix)
        called = list(dict.fromkeys(names[i] for i in rows))
        if called != [name]:
            notes.append(
                f"{len(rows)} files are called {name!r}; their tags name them by their path below {folder}: "
                f"{', '.join(called)}. If your LoRA folder is another one, write their path below that"
            )
    return names, notes


def _is_other_file(path: Path, other: Path | None) -> bool:
    return other is not None and other.resolve() != path.resolve()


def repeated_names(names: Sequence[str], files: Sequence[LoraFile]) -> list[str]:
    """Notes on names that several files have after all: one file given twice, or files without a path."""
    notes = []
    for name in [name for name, count in Counter(names).items() if count > 1]:
        paths = {file.path and file.path.resolve() for one, file in zip(names, files, strict=True) if one == name}
        notes.append(
            f"{name} is given more than once and is compared with itself"
            if len(paths) == 1 and None not in paths
            else f"several files are called {name}, and a tag cannot tell them apart: rename one"
        )
    return notes

"""Moves, renames and deletes LoRA files of the library, each together with what belongs to it beside it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, LoraError, ToolError
from ..file.lora_library import LibraryEntry
from ..file.peft_config import ADAPTER_CONFIG_NAME
from ..file.saving import FileInUseError, check_not_linked, replace_file
from ..file.sidecar_files import sidecar_files
from .app_state import AppState
from .user_paths import check_user_path, create_user_folder

BIN_LIBRARY = "send2trash"


@dataclass(frozen=True)
class FileMove:
    """A file that was moved.

    Attributes:
        name: What the library called it.
        to: What the library calls it now.
    """

    name: str
    to: str


@dataclass(frozen=True)
class FailedFile:
    """A file with which something could not be done, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class MovedFiles:
    """What came of moving several files."""

    moved: list[FileMove]
    failed: list[FailedFile]


@dataclass(frozen=True)
class ChangedFiles:
    """What came of changing or deleting several files: the names of those that it was done with, and the others."""

    done: list[str]
    failed: list[FailedFile]


def rename_file(app_state: AppState, entry: LibraryEntry, to: str) -> Path:
    """Renames within the file's own folder of LoRA files; the new path. Nothing is overwritten. Raises FileError."""
    if entry.config is not None:
        raise FileError(
            f"{entry.name} cannot be renamed: its alpha is in {ADAPTER_CONFIG_NAME} beside it; rename the folder, or "
            "convert the file to one that holds its alpha"
        )
    suffix = entry.path.suffix
    relative = check_user_path(to[: -len(suffix)] if to.lower().endswith(suffix.lower()) else to)
    root = entry.root
    target = root.joinpath(*relative.parts[:-1], relative.name + suffix)
    check_not_linked(target.parent, root)
    moves = [(entry.path, target)]
    for beside in sidecar_files(entry.path):
        moves.append((beside, target.with_name(target.stem + beside.name[len(entry.path.stem) :])))
    for old, new in moves:
        if _is_taken(new, old):
            shown = relative if new == target else relative.with_name(new.name)
            raise FileError(f"{shown} already exists; choose another name")
        if old.is_symlink() and new.parent != old.parent and not old.readlink().is_absolute():
            raise FileError(f"{old.name} is a link, which would lead elsewhere from {new.parent.name}; move its file")
    made = create_user_folder(target.parent)
    app_state.made_folders.update(made)
    try:
        _move_all(moves, entry.name)
    except FileError:
        _remove_made_folders(app_state, target.parent)
        raise
    _remove_made_folders(app_state, entry.path.parent)
    return target


def _remove_made_folders(app_state: AppState, folder: Path) -> None:
    """Removes a folder that a move made, and those around it, where they are empty: what undoing the move leaves."""
    while folder in app_state.made_folders:
        try:
            folder.rmdir()
        except OSError:  # something is in it
            return
        app_state.made_folders.discard(folder)
        folder = folder.parent


def _is_taken(new: Path, old: Path) -> bool:
    """Whether `new` is another directory entry than `old`: a link to it and a second name of its data are."""
    if not os.path.lexists(new):
        return False
    if new.parent == old.parent and os.path.samestat(new.lstat(), old.lstat()):
        names = os.listdir(old.parent)  # noqa: PTH208 (where case does not count, one entry answers to both names)
        return new.name != old.name and {new.name, old.name} <= set(names)
    return True


def _move_all(moves: Sequence[tuple[Path, Path]], name: str) -> None:
    """Renames every file or none. Raises FileError."""
    done: list[tuple[Path, Path]] = []
    try:
        for old, new in moves:
            replace_file(old, new)
            done.append((old, new))
    except (OSError, FileInUseError) as error:
        for old, new in reversed(done):
            replace_file(new, old)
        if isinstance(error, FileInUseError):
            what = old.name if done else name
            raise FileInUseError(
                f"{name} cannot be renamed: another program has {what} open (the web UI, if it has used it); close it "
                "there and try again, nothing was changed"
            ) from error
        raise FileError(f"{name} cannot be renamed: {error.strerror or error}") from error


def move_files(app_state: AppState, moves: Iterable[tuple[str, str]]) -> MovedFiles:
    """Moves files to other names; those that cannot be moved stay, and the others are moved.

    Args:
        app_state: Has the library.
        moves: (the library's name, the new name below the file's folder of LoRA files).

    Returns:
        What was moved and what not.
    """
    moved: list[tuple[str, Path]] = []
    failed = []
    for name, to in moves:
        try:
            entry = app_state.changeable_entry(name)
            moved.append((entry.relative_name, rename_file(app_state, entry, to)))
        except LoraError as error:
            failed.append(FailedFile(name, app_state.hide_folders(str(error))))
    app_state.refresh_library()
    names = {entry.path: entry.relative_name for entry in app_state.library.entries}
    now = {name: names.get(path, path.stem) for name, path in moved}
    app_state.marks.rename(now)
    return MovedFiles([FileMove(name, to) for name, to in now.items()], failed)


def for_each_file(
    app_state: AppState,
    names: Sequence[str],
    act: Callable[[LibraryEntry], None],
    progress: Callable[[int, int, str], None],
) -> ChangedFiles:
    """Does something with each of some files; an error with one does not keep it from the others.

    Args:
        app_state: Has the library.
        names: The library's names of the files.
        act: What is done with a file that may be changed. Raises LoraError.
        progress: Called before each file: (done, total, name).

    Returns:
        With which it was done, and with which not.
    """
    done, failed = [], []
    for count, name in enumerate(names):
        progress(count, len(names), name)
        try:
            entry = app_state.changeable_entry(name)
            act(entry)
            done.append(entry.relative_name)
        except LoraError as error:
            failed.append(FailedFile(name, app_state.hide_folders(str(error))))
    progress(len(names), len(names), "")
    app_state.refresh_library()
    return ChangedFiles(done, failed)


def bin_function() -> Callable[[str], None]:
    """What moves a file to the system's bin.

    Raises:
        ToolError: The library for it is not installed.
    """
    try:
        send: Callable[[str], None] = importlib.import_module(BIN_LIBRARY).send2trash
    except ImportError:
        raise ToolError(
            f"files are deleted into the system's bin, which needs {BIN_LIBRARY}: pip install {BIN_LIBRARY} (in the "
            "web UI with its own Python), then start the program again; nothing was deleted"
        ) from None
    return send


def delete_file(entry: LibraryEntry, send_to_bin: Callable[[str], None]) -> None:
    """Moves a file, and what belongs to it, to the system's bin. Raises FileError."""
    if entry.config is not None:
        raise FileError(f"{entry.name} cannot be deleted here: {ADAPTER_CONFIG_NAME} beside it belongs to it")
    for path in [entry.path, *sidecar_files(entry.path)]:
        try:
            send_to_bin(str(path))
        except OSError as error:  # send2trash's own errors are OSErrors too
            raise FileError(f"{path.name} cannot be moved to the bin: {error.strerror or error}") from error

"""Lists the files in folders of LoRA files, and opens no more of them than needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import FileError
from . import safetensors_file
from .broken_links import broken_links_note, is_broken_link, may_be_folder_link
from .containers import LORA_FILE_SUFFIXES, container_format
from .displayed_names import displayed_name
from .unreadable_files import why_unreadable

FileStamp = tuple[int, int]
"""(mtime in ns, size in bytes): equal as long as a file has not changed since it was read."""

STATE_FOLDER_SUFFIX, STATE_NUMBERS_NAME, STATE_TENSORS_NAME = "-state", "run.json", "run.pt"
"""What the folder of a training run's saved state ends in, and its files."""
_PARTS = re.compile(r"(.+)\.(text_encoder|ti)\.pt", re.IGNORECASE)


def is_training_state(folder: Path) -> bool:
    """Whether a folder is the saved state of a training run: it holds `run.pt`, which is no LoRA file.

    Args:
        folder: the folder.
    """
    files = (STATE_NUMBERS_NAME, STATE_TENSORS_NAME)
    return folder.name.endswith(STATE_FOLDER_SUFFIX) and all((folder / name).is_file() for name in files)


def list_lora_files(
    folders: Iterable[Path], errors: list[str], optional: Collection[Path] = ()
) -> Iterator[tuple[Path, str, FileStamp]]:
    """Lists the LoRA files below some folders, in natural order. Links are followed, each folder is visited once.

    Folders below them that are the saved state of a training run are left out.

    Args:
        folders: where to look.
        errors: gets a sentence for each folder that cannot be read, and one for links to folders that do not exist.
            A broken link with a file's suffix is listed like a file; reading it raises the reason.
        optional: those of `folders` that need not exist.

    Yields:
        (path, relative name, stamp). The relative name is the path below its folder without suffix, with `/`.
    """
    seen: set[tuple[int, int]] = set()
    broken: list[Path] = []
    for folder in folders:
        if folder in optional and not folder.exists():
            continue
        yield from _below(str(folder), "", seen, errors, broken)
    if broken:
        errors.append(broken_links_note(broken))


def _below(
    folder: str, prefix: str, seen: set[tuple[int, int]], errors: list[str], broken: list[Path]
) -> Iterator[tuple[Path, str, FileStamp]]:
    files: list[tuple[str, FileStamp]] = []
    folders: list[str] = []
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as items:
            for item in items:
                if _is_folder(item):
                    folders.append(item.name)
                elif item.name.lower().endswith(LORA_FILE_SUFFIXES):
                    files.append((item.name, _stamp(item)))
                elif item.is_symlink() and may_be_folder_link(item.name) and is_broken_link(Path(item.path)):
                    broken.append(Path(item.path))
    except OSError as error:
        errors.append(f"{folder} cannot be read: {error.strerror or error}")
    present = {name.lower() for name, _ in files}
    for name, stamp in sorted(files, key=lambda item: natural_sort_key(item[0])):
        part = _PARTS.fullmatch(name)
        if not (part and f"{part[1]}.pt".lower() in present):  # belongs to a cloneofsimo .pt beside it
            yield Path(folder, name), prefix + name.rpartition(".")[0], stamp
    for name in sorted(folders, key=natural_sort_key):
        if is_training_state(Path(folder, name)):
            continue
        yield from _below(str(Path(folder, name)), f"{prefix}{name}/", seen, errors, broken)


def with_unique_names(found: Iterable[tuple[Path, str, FileStamp]]) -> list[tuple[Path, str, FileStamp, Path]]:
    """Gives each file a relative name that no other file has.

    Several files may have one relative name: in two folders, in NFC and NFD, or as .pt and .safetensors. The last one
    keeps it, as in the built-in extension. The names of the others get their suffix, or as many parent folders in front
    as make them unique.

    Args:
        found: (path, relative name, stamp), as `list_lora_files` gives them.

    Returns:
        (path, unique relative name, stamp, folder of LoRA files) of every file.
    """
    rows = list(found)
    last = {displayed_name(relative_name): path for path, relative_name, _ in rows}
    taken = set(last)
    made = []
    for path, relative_name, stamp in rows:
        root = path.parents[relative_name.count("/")]
        name = displayed_name(relative_name)
        if last[name] != path:
            above = [*root.parts, name]
            longer = [displayed_name("/".join(above[-count:])).lstrip("/") for count in range(2, len(above) + 1)]
            if last[name].suffix != path.suffix and last[name].parent == path.parent:
                longer.insert(0, name + path.suffix)
            name = next((one for one in longer if one not in taken), f"{name}#{len(taken)}")
            taken.add(name)
        made.append((path, name, stamp, root))
    return made


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself
        return False


def _stamp(item: os.DirEntry[str]) -> FileStamp:
    """The stamp of a file; (0, 0) where it has none, such as a broken link. Opening it then raises the reason."""
    try:
        status = item.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Returns a key that sorts `a2` before `a10`.

    Args:
        name: the text to sort.

    Returns:
        A key that can be compared with those of other names.

    Example:
        >>> sorted(["a10", "a2", "A1"], key=natural_sort_key)
        ['A1', 'a2', 'a10']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name.lower())]


_FRONT = b'{"__metadata__":'
_LAST = re.compile(rb'"data_offsets":\[\d+,(\d+)\]')
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""A surrogate as JSON escapes it; `load_safetensors_header` replaces lone ones."""


def load_metadata_quickly(path: Path) -> Mapping[str, str]:
    """Loads a file's metadata without parsing the rest of its header, where the header begins with it.

    The safetensors library writes it first. A truncated file is noticed by the offset of its last tensor.

    Args:
        path: a safetensors or torch file.

    Returns:
        The metadata; empty for torch files.

    Raises:
        FileError: the file cannot be read or is damaged.
    """
    if container_format(path) != "safetensors":
        return {}
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            text = file.read(length) if length <= min(size - 8, safetensors_file.HEADER_LIMIT) else b""
        ends = [int(end) for end in _LAST.findall(text[-4096:])]
        if text.startswith(_FRONT) and ends and max(ends) == size - 8 - length and not _HALF.search(text):
            value, _ = json.JSONDecoder().raw_decode(text.decode("utf-8"), len(_FRONT))
            if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
                return value
    except OSError as error:
        raise FileError(f"{path} cannot be read: {why_unreadable(path, error)}") from error
    except (ValueError, RecursionError):
        pass  # the strict reader below says what is wrong
    return safetensors_file.load_safetensors_header(path).metadata

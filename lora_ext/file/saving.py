"""Saves a `LoraFile` as a safetensors file, completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..errors import FileError
from . import peft_metadata, safetensors_file
from .hashes import with_kohya_hashes
from .key_formats import format_keys, is_described_by_metadata
from .lora_file import LoraFile
from .peft_config import ADAPTER_CONFIG_NAME, find_adapter_config


def save_lora_file(
    file: LoraFile,
    path: str | Path,
    *,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    key_format: str = "file",
    rehash: bool = False,
) -> Path:
    """Writes a LoRA file in one step: a file that is there stays until the new one is complete.

    A file that was loaded and not changed gets the same tensors, keys and metadata.

    Args:
        file: what to write.
        path: where, with the suffix `.safetensors`.
        overwrite: whether a file that exists may be replaced.
        metadata: replaces the file's own; None keeps it.
        key_format: one of `key_formats.KEY_FORMATS`: "file" keeps the file's own keys.
        rehash: whether to compute kohya's `sshs_*` hashes again.

    Returns:
        `path`.

    Raises:
        FileError: `path` exists and `overwrite` is not set, has another suffix, or cannot be written; or the key format
            cannot hold the file.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from lora_ext.file.loading import assemble_lora_file
        >>> key = "lora_unet_mid_block_attentions_0_proj_in.lora_{}.weight".format
        >>> file = assemble_lora_file({key("up"): torch.ones(8, 2), key("down"): torch.ones(2, 8)}, {})
        >>> save_lora_file(file, Path(tempfile.mkdtemp()) / "new.safetensors").name
        'new.safetensors'
    """
    meta = dict(file.metadata if metadata is None else metadata)
    kept = key_format == "file" and peft_metadata.PEFT_METADATA_KEY in meta and is_described_by_metadata(file)
    tensors = format_keys(file, key_format, include_alphas=not kept)
    if not kept:
        meta.pop(peft_metadata.PEFT_METADATA_KEY, None)
        if find_adapter_config(Path(path)) and not all(
            key.startswith("lora_") for key in tensors
        ):  # kohya's hold their alpha
            raise FileError(f"{path} would be scaled by the {ADAPTER_CONFIG_NAME} beside it; choose another folder")
    return save_safetensors(
        tensors, path, metadata=with_kohya_hashes(tensors, meta) if rehash else meta, overwrite=overwrite
    )


def save_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, *, metadata: Mapping[str, str], overwrite: bool = False
) -> Path:
    """Writes a safetensors file in one step, with the layout of the safetensors library.

    Args:
        tensors: name → tensor, on any device.
        path: where, with the suffix `.safetensors`.
        metadata: name → text.
        overwrite: whether a file that exists may be replaced.

    Returns:
        `path`.

    Raises:
        FileError: `path` exists and `overwrite` is not set, has another suffix, or cannot be written; or a tensor has a
            dtype that the format lacks.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise FileError(f"{path} cannot be written: its suffix must be .safetensors")
    head, order = safetensors_file.serialize_header(tensors, metadata)
    with replacing_file(path, overwrite=overwrite) as part, part.open("wb") as out:
        out.write(head)
        for chunk in safetensors_file.iterate_tensor_bytes(tensors, order):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return path


class FileInUseError(FileError):
    """A file or folder that cannot be replaced while another program has it open, or that is write-protected."""


_PAUSES = (0.05, 0.1, 0.2, 0.4)
"""Seconds between tries: virus scanners and indexers of Windows hold a new file for a moment."""
_PART_NAME = re.compile(r"\..{0,40}-[a-z0-9_]{8}\.part", re.DOTALL)
"""Names of `replacing_file`'s temporary files."""
_LEFTOVER_AGE = 24 * 3600
"""Seconds since the last change of a temporary file after which nobody writes it any more."""
_IN_USE_ERRORS = (errno.EACCES, errno.EPERM, errno.EBUSY)


def _in_use(path: Path) -> FileInUseError:
    return FileInUseError(
        f"{path} cannot be written: another program has it open (a spreadsheet, a viewer, a web UI?) or it is "
        "write-protected; close it there and try again, nothing was changed"
    )


def replace_file(source: Path, target: Path, named_path: Path | None = None) -> None:
    """Renames a file or folder, in place of one that is there. On an error nothing has moved.

    Args:
        source: its present path.
        target: its new path.
        named_path: the path that the error names; None for `target`.

    Raises:
        FileInUseError: another program has one of them open, or it is write-protected.
        OSError: any other reason.
    """
    for pause in (*_PAUSES, None):
        try:
            source.replace(target)
            return
        except OSError as error:
            if error.errno not in _IN_USE_ERRORS:
                raise
            if pause is None:
                raise _in_use(named_path or target) from error
            time.sleep(pause)


def unused_path_beside(path: Path) -> Path:
    """Finds a free name beside a path.

    Args:
        path: a file that exists.

    Returns:
        `NAME-2.suffix`, or `NAME-3.suffix` and so on.
    """
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(name for name in names if not (name.exists() or name.is_symlink()))


def save_here_or_beside(path: Path, write: Callable[[Path], object], notify: Callable[[str], object]) -> Path:
    """Saves a result that must not be lost: beside `path` where another program has `path` open.

    Args:
        path: the file to write; one that exists is replaced.
        write: writes the file at the path that it gets.
        notify: gets a sentence where the file was saved under another name.

    Returns:
        Where the file is.

    Raises:
        FileError: it cannot be written in either place.
    """
    try:
        with replacing_file(path, overwrite=True) as part:
            write(part)
        return path
    except FileInUseError:
        other = unused_path_beside(path)
        with replacing_file(other, overwrite=False) as part:
            write(part)
        notify(f"{path.name} is open in another program or write-protected: saved as {other.name} beside it")
        return other


def check_not_protected(path: Path) -> None:
    """Checks that a path is no link and no write-protected file, which a new one could take the place of all the same.

    Args:
        path: the file to write.

    Raises:
        FileError: it is a link.
        FileInUseError: nobody may write it.
    """
    if path.is_symlink():
        raise FileError(f"{path} is a link, and nothing is written through links; remove it, or choose another name")
    if path.is_file() and not path.stat().st_mode & 0o222:
        raise _in_use(path)


@contextlib.contextmanager
def replacing_file(path: Path, *, overwrite: bool, durable: bool = True) -> Iterator[Path]:
    """Writes a file whole or not at all: yields a temporary file beside `path` and moves it onto `path` afterwards.

    When the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to write; its folder exists.
        overwrite: whether a file that exists may be replaced.
        durable: whether the new name is synced to the disk at once. False saves time for many small files that can be
            made again.

    Yields:
        The temporary file, empty, to be written by its path.

    Raises:
        FileError: `path` is a folder or a link, exists and `overwrite` is not set, or cannot be written.
        FileInUseError: another program has `path` open.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with replacing_file(path, overwrite=False) as part:
        ...     _ = part.write_text("whole")
        >>> path.read_text()
        'whole'
    """
    check_not_protected(path)
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a file")
    if not overwrite and path.exists():
        raise FileError(f"{path} exists; choose another name or allow overwriting")
    part: Path | None = None
    _remove_leftovers(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=".part")
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(0o666 & ~_umask())
        if not overwrite and path.exists():
            raise FileError(f"{path} appeared while it was written; choose another name or allow overwriting")
        replace_file(part, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1024)
def _remove_leftovers(folder: Path) -> None:
    """Removes temporary files that killed programs of this user left in a folder; once for each folder and process."""
    with contextlib.suppress(OSError):
        for path in folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                stat = path.lstat()
                own = not hasattr(os, "getuid") or stat.st_uid == os.getuid()
                if _PART_NAME.fullmatch(path.name) and own and time.time() - stat.st_mtime > _LEFTOVER_AGE:
                    path.unlink()


def check_not_linked(folder: Path, root: Path) -> None:
    """Checks that no link below `root` leads to `folder`. Links are followed for reading, but not for writing.

    `root` is a folder that the user named and may be a link itself. A dataset or an archive may contain links.

    Args:
        folder: a folder at or below `root`.
        root: the folder that the user named.

    Raises:
        FileError: a part of the path is a link, or `folder` is outside `root`.
    """
    try:
        inside = folder.relative_to(root).parts
    except ValueError:
        raise FileError(f"{folder} is outside {root}") from None
    paths = [root.joinpath(*inside[:count]) for count in range(1, len(inside) + 1)]
    link = next((path for path in paths if path.is_symlink()), None)
    # junctions of Windows are no symlinks for Python 3.11 and before, but they lead out all the same
    if link is None and not folder.resolve().is_relative_to(root.resolve()):
        link = folder
    if link is not None:
        raise FileError(
            f"{link} is a link, and nothing is written through links (they may lead outside your folders); "
            "to write there, name the folder that it leads to among your folders"
        )


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system lets folders be synced (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

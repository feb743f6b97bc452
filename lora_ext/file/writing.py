"""`LoraFile` → a safetensors file, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..address import TE2, Site, kohya_key, peft_key
from ..errors import FileError, did_you_mean
from . import safetensors_file
from .hashes import stamped
from .lorafile import LoraFile

DIALECTS = ("file", "kohya", "diffusers")
"""Spellings to write: as the file had it (kohya's for new adapters), kohya's, PEFT's as diffusers reads it."""

_PEFT = {"lora_up.weight": "lora_B.weight", "lora_down.weight": "lora_A.weight", "dora_scale": "lora_magnitude_vector"}


def write(
    file: LoraFile,
    path: str | Path,
    *,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    dialect: str = "file",
    rehash: bool = False,
) -> Path:
    """Write `file` to `path` (.safetensors) in one step: the old file stays until the new one is complete.

    A file that was read and not changed comes out with the same tensors, keys and metadata. `metadata` replaces the
    file's own; `rehash` recomputes kohya's `sshs_*` hashes. Returns the path.
    Raises FileError when the path exists and `overwrite` is not set, for another suffix, or when it cannot be written.
    """
    tensors = spell(file, dialect)
    meta = dict(file.metadata if metadata is None else metadata)
    return write_tensors(tensors, path, metadata=stamped(tensors, meta) if rehash else meta, overwrite=overwrite)


def spell(file: LoraFile, dialect: str = "file") -> dict[str, Tensor]:
    """Key → tensor as the file is to be written. Raises FileError when two layers get one key."""
    if dialect not in DIALECTS:
        raise FileError(f"unknown key dialect {dialect!r}{did_you_mean(dialect, DIALECTS)}")
    sdxl = file.family == "SDXL" or any(site.part == TE2 for site in file.adapters)
    tensors: dict[str, Tensor] = {}

    def put(key: str, tensor: Tensor) -> None:
        if key in tensors:
            raise FileError(f"two tensors of {file.name} would be written as {key!r}")
        tensors[key] = tensor

    for site, adapter in file.adapters.items():
        for suffix, tensor in adapter.tensors.items():
            own = file.keys.get((site, suffix)) if dialect == "file" else None
            if own is None and dialect == "file" and file.dialect == "kohya":
                own = _beside(file, site, adapter.tensors, suffix)
            put(own or _new_key(site, suffix, dialect, sdxl=sdxl), tensor)
    for name, vectors in file.embeddings.items():
        for vector, tensor in vectors.items():
            put(file.embedding_key(name, vector) if dialect == "file" else f"bundle_emb.{name}.{vector}", tensor)
    for key, tensor in file.unread.items():
        put(key, tensor)
    return tensors


def _beside(file: LoraFile, site: Site, suffixes: Iterable[str], suffix: str) -> str | None:
    """The key of a new tensor (such as an alpha) at a layer whose other tensors the file spells in kohya's way."""
    for other in suffixes:
        own = file.keys.get((site, other))
        if own and own.endswith("." + other):
            return own.removesuffix(other) + suffix
    return None


def _new_key(site: Site, suffix: str, dialect: str, *, sdxl: bool) -> str:
    if dialect == "diffusers":
        return f"{peft_key(site)}.{_PEFT.get(suffix, suffix)}"
    return f"{kohya_key(site, sdxl=sdxl)}.{suffix}"


def write_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, *, metadata: Mapping[str, str], overwrite: bool = False
) -> Path:
    """A safetensors file of `tensors`, laid out as the safetensors library does. See `write` for the errors."""
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise FileError(f"{path} cannot be written: files are written as .safetensors")
    head, order = safetensors_file.layout(tensors, metadata)
    with replacing(path, overwrite=overwrite) as part, part.open("wb") as out:
        out.write(head)
        for chunk in safetensors_file.chunks(tensors, order):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return path


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary file beside `path`, moved onto it when the block ends well and removed when it does not.

    Raises FileError when `path` is a folder, exists and `overwrite` is not set, or cannot be written.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a file")
    if not overwrite and path.exists():
        raise FileError(f"{path} exists; choose another name or allow overwriting")
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=".part")
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(0o666 & ~_umask())
        if not overwrite and path.exists():
            raise FileError(f"{path} appeared while it was written; choose another name or allow overwriting")
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


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

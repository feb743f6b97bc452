"""`LoraFile` → a safetensors file, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ..address import Site, kohya_key, peft_key
from ..errors import FileError, did_you_mean
from . import safetensors_file
from .hashes import stamped
from .lorafile import LoraFile

DIALECTS = ("file", "kohya", "diffusers")
"""Spellings to write: as the file had it (kohya's for new adapters), kohya's, PEFT's as diffusers reads it."""


_DIFFUSERS = frozenset({"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "scale", "dora_scale"})
"""What a LoRA layer may hold to be written in diffusers' spelling."""


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
    """Key → tensor as the file is to be written. Raises FileError when two tensors get one key.

    "diffusers" has no alpha: alpha/rank goes into `lora_B`. It holds LoRA layers only; anything else raises FileError.
    """
    if dialect not in DIALECTS:
        raise FileError(f"unknown key dialect {dialect!r}{did_you_mean(dialect, DIALECTS)}")
    rows = _diffusers_rows(file) if dialect == "diffusers" else _rows(file, own=dialect == "file")
    tensors: dict[str, Tensor] = {}
    for key, tensor in rows:
        if key in tensors:
            raise FileError(f"two tensors of {file.name} would be written as {key!r}")
        tensors[key] = tensor
    return tensors


def _rows(file: LoraFile, *, own: bool) -> Iterator[tuple[str, Tensor]]:
    """Keys in the file's `own` spelling where it has one, else in kohya's."""
    sdxl = file.family == "SDXL"
    for site, adapter in file.adapters.items():
        for suffix, tensor in adapter.tensors.items():
            key = _own_key(file, site, adapter.tensors, suffix) if own else None
            yield key or f"{kohya_key(site, sdxl=sdxl)}.{suffix}", tensor
    for name, vectors in file.embeddings.items():
        for vector, tensor in vectors.items():
            yield file.embedding_key(name, vector) if own else f"bundle_emb.{name}.{vector}", tensor
    yield from file.unread.items()


def _own_key(file: LoraFile, site: Site, suffixes: Iterable[str], suffix: str) -> str | None:
    """The file's key, or for a new tensor (such as an alpha) one beside the layer's others in kohya's spelling."""
    if (site, suffix) in file.keys or file.dialect != "kohya":
        return file.keys.get((site, suffix))
    others = (file.keys.get((site, other), "") for other in suffixes)
    head = next((key.partition(".")[0] for key in others if key), None)
    return head and f"{head}.{suffix}"


def _diffusers_rows(file: LoraFile) -> Iterator[tuple[str, Tensor]]:
    """`unet.….lora_A.weight` and so on (format: what diffusers' `load_lora_weights` takes without conversion)."""
    if file.embeddings or file.unread:
        extra = next(iter(file.embeddings or file.unread))
        raise FileError(f"diffusers' spelling cannot hold {extra!r} of {file.name}; leave it out or write kohya's")
    if len({"dora_scale" in adapter.tensors for adapter in file.adapters.values()}) > 1:
        raise FileError(f"diffusers' spelling cannot hold {file.name}: DoRA in some of its layers and not in others")
    for site, adapter in file.adapters.items():
        tensors, name = adapter.tensors, peft_key(site)
        low = adapter.low_rank()
        if adapter.kind != "LoRA" or tensors.keys() - _DIFFUSERS or (low is None and "lora_mid.weight" in tensors):
            raise FileError(f"diffusers' spelling cannot hold the {adapter.kind} at {site}; write kohya's")
        up, down, scale = tensors["lora_up.weight"], tensors["lora_down.weight"], adapter.scaling()
        if "lora_mid.weight" in tensors and low is not None:
            down = low.down.to(down.dtype)
        if down.dim() > up.dim():
            up = up.reshape(*up.shape, *[1] * (down.dim() - up.dim()))
        yield f"{name}.lora_A.weight", down
        yield f"{name}.lora_B.weight", up if scale == 1 else (up.float() * scale).to(up.dtype)
        if "dora_scale" in tensors:
            magnitude = tensors["dora_scale"].flatten()
            if magnitude.numel() != up.shape[0]:
                raise FileError(f"diffusers' spelling cannot hold the DoRA per input at {site}; write kohya's")
            shaped = magnitude.reshape(1, -1, *[1] * (down.dim() - 2)) if down.dim() > 2 else magnitude
            yield f"{name}.lora_magnitude_vector", shaped


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

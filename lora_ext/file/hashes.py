"""Hashes by which kohya's tools, the web UI and model sites identify a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import FileError
from . import safetensors_file
from .containers import container_format

_LEGACY = (0x100000, 0x110000)
_BLOCK = 1 << 17
"""Bytes that are hashed at a time: they stay in the processor's own cache."""
_SAMPLE = 1 << 16
_IMPOSSIBLE = frozenset({hashlib.sha256(b"").hexdigest()[:12], "0" * 12})
"""Hashes of no bytes, which some trainers store (ostris/ai-toolkit#130)."""


def stored_hash(metadata: Mapping[str, str]) -> str:
    """Reads `sshs_model_hash` from metadata. It may be another file's: tools copy metadata and change tensors.

    Args:
        metadata: the file's metadata.

    Returns:
        64 or 12 hex digits in small letters; "" where there is none, or where it is the hash of no bytes.
    """
    stored = str(metadata.get("sshs_model_hash", "")).strip().lower()
    sound = re.fullmatch(r"[0-9a-f]{12}([0-9a-f]{52})?", stored) and stored[:12] not in _IMPOSSIBLE
    return stored if sound else ""


def model_hash(path: str | Path) -> str:
    """Computes the hash by which the web UI and model sites identify a file; the web UI shows the first 12 digits.

    Args:
        path: a safetensors or torch file.

    Returns:
        64 hex digits: sha256 of the bytes after a safetensors header, so that editing the metadata keeps it; or of the
        whole of a torch file.

    Raises:
        FileError: the file cannot be read or is damaged.
    """
    path = Path(path)
    return _hash_from(path, _start(path))


def data_hash(data: Tensor) -> str:
    """Computes what `model_hash` computes, from the bytes behind a safetensors header in memory (uint8)."""
    return hashlib.sha256(data.numpy().data).hexdigest()


def whole_file_hash(path: str | Path) -> str:
    """Computes the sha256 of a file, by which model sites identify checkpoints.

    Args:
        path: the file.

    Returns:
        64 hex digits.

    Raises:
        FileError: the file cannot be read.
    """
    return _hash_from(Path(path), 0)


def _hash_from(path: Path, start: int) -> str:
    """The sha256 of a file's bytes from `start` on. Raises FileError."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while count := file.readinto(block):
                digest.update(block[:count])
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def quick_key(path: str | Path) -> tuple[int, str]:
    """Computes a key that differs only for files of different content. Equal keys still need `model_hash`.

    Args:
        path: a safetensors or torch file.

    Returns:
        (bytes of content, hash of three short samples of it).

    Raises:
        FileError: the file cannot be read or is damaged.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        start = _start(path)
        with path.open("rb") as file:
            size = path.stat().st_size - start
            for at in (0, size // 2, max(0, size - _SAMPLE)):
                file.seek(start + at)
                digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    return size, digest.hexdigest()


def _start(path: Path) -> int:
    """The byte at which a file's content begins. Raises FileError."""
    return safetensors_file.load_safetensors_header(path).data_start if container_format(path) == "safetensors" else 0


def legacy_hash(path: str | Path) -> str:
    """Computes the web UI's old hash.

    Args:
        path: the file.

    Returns:
        8 hex digits: sha256 of the file's bytes 0x100000 to 0x110000.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            file.seek(_LEGACY[0])
            return hashlib.sha256(file.read(_LEGACY[1] - _LEGACY[0])).hexdigest()[:8]
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error


def kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, str]:
    """Computes the hashes that kohya's scripts write, from the file as it would be with only its `ss_*` metadata.

    Args:
        tensors: key → tensor.
        metadata: the file's metadata.

    Returns:
        (`sshs_model_hash`, `sshs_legacy_hash`).

    Raises:
        FileError: a tensor has a dtype that a safetensors file cannot hold.
    """
    kept = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    head, order = safetensors_file.serialize_header(tensors, kept)
    whole = hashlib.sha256()
    slices = []
    at = len(head)
    if at > _LEGACY[0]:
        slices.append(head[_LEGACY[0] : _LEGACY[1]])
    for chunk in safetensors_file.iterate_tensor_bytes(tensors, order):
        whole.update(chunk)
        low, high = (min(max(edge - at, 0), len(chunk)) for edge in _LEGACY)
        slices.append(bytes(chunk[low:high]))
        at += len(chunk)
    return whole.hexdigest(), hashlib.sha256(b"".join(slices)).hexdigest()[:8]


def with_kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Adds both of kohya's hashes to the metadata.

    Args:
        tensors: key → tensor.
        metadata: the file's metadata.

    Returns:
        The metadata with `sshs_model_hash` and `sshs_legacy_hash` of these tensors.

    Raises:
        FileError: a tensor has a dtype that a safetensors file cannot hold.
    """
    model, legacy = kohya_hashes(tensors, metadata)
    return {**metadata, "sshs_model_hash": model, "sshs_legacy_hash": legacy}

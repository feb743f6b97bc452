"""The safetensors format: a strict check of the header, and tensors straight from one read of the file.

Format: 8 bytes little-endian length n, n bytes of JSON, then the data. JSON: name -> {dtype, shape, data_offsets},
and `__metadata__` with text values (github.com/huggingface/safetensors, "Format"). Nothing is mapped into memory, so
that a file that is loaded can still be replaced on Windows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ..console import replace_lone_surrogates
from ..counted_words import counted
from ..errors import FileError
from ..json_text import parse_json

HEADER_LIMIT = 100_000_000
"""Longest header in bytes that the safetensors library reads."""

_BITS = (
    ("BOOL", "bool", 1),
    ("U8", "uint8", 1),
    ("I8", "int8", 1),
    ("F8_E5M2", "float8_e5m2", 1),
    ("F8_E4M3", "float8_e4m3fn", 1),
    ("I16", "int16", 2),
    ("U16", "uint16", 2),
    ("F16", "float16", 2),
    ("BF16", "bfloat16", 2),
    ("I32", "int32", 4),
    ("U32", "uint32", 4),
    ("F32", "float32", 4),
    ("F64", "float64", 8),
    ("I64", "int64", 8),
    ("U64", "uint64", 8),
)
"""Format's name, torch's name, bytes an element; in the order by which the library sorts (largest last)."""

DTYPE_SIZES = {name: size for name, _, size in _BITS}
TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, own) for name, own, _ in _BITS if hasattr(torch, own)}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_ORDER = {name: index for index, (name, _, _) in enumerate(_BITS)}


class TensorEntry(NamedTuple):
    """Where one tensor is in a safetensors file.

    Attributes:
        dtype: the format's name, such as "F16".
        shape: its shape.
        start: first byte, from the beginning of the data.
        end: last byte (exclusive).
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """The checked header of a safetensors file.

    Attributes:
        entries: name → where the tensor is.
        metadata: name → text.
        data_start: the byte of the file at which the data begins.
    """

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_start: int


def load_safetensors_header(path: Path) -> SafetensorsHeader:
    """Loads and checks the header of a safetensors file.

    Args:
        path: the file.

    Returns:
        The header.

    Raises:
        FileError: the file cannot be read or is not a valid safetensors file; the message says why.
    """
    try:
        with path.open("rb") as file:
            return parse_safetensors_header(file, path, path.stat().st_size)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_safetensors_header(file: BinaryIO, path: Path, size: int) -> SafetensorsHeader:
    """Parses and checks the header of an open safetensors file.

    Args:
        file: opened for reading at byte 0; it is left at the data.
        path: the file, for messages.
        size: its size in bytes.

    Returns:
        The header.

    Raises:
        FileError: the file is not a valid safetensors file; the message says why.
    """

    def wrong(what: str) -> FileError:
        return FileError(f"{path} is not a valid safetensors file: {what}")

    if not size:
        raise FileError(f"{path} is empty (0 bytes); download it again")
    if size < 10:
        raise wrong(f"{counted(size, 'byte is', 'bytes are')} too few for a header")
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER_LIMIT:
        raise wrong(f"its header claims {length} bytes, more than the format's limit of {HEADER_LIMIT}")
    if length > size - 8:
        raise wrong(f"its header claims {length} bytes, the file has {size} (cut off while downloading?)")
    try:
        root = _parse(file.read(length))
        found, metadata = _entries(root), _metadata(root.get("__metadata__"))
        _check_layout(found, size - 8 - length)
    except ValueError as error:
        raise wrong(str(error)) from None
    except RecursionError:
        raise wrong("its header is nested too deeply") from None
    return SafetensorsHeader(found, metadata, 8 + length)


def _parse(text: bytes) -> dict[str, Any]:
    """The header's JSON object; ValueError for bad UTF-8 or JSON, for a name given twice, and for NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice!r} is in its header twice")
        return table

    def constant(name: str) -> Any:
        raise ValueError(f"{name} in its header")

    if not text.strip():
        raise ValueError("its header is empty")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("its header is not UTF-8 text") from None
    try:
        root = parse_json(decoded, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"its header is not JSON ({error.msg} at character {error.pos})") from None
    if not isinstance(root, dict):
        raise ValueError("its header is not a JSON object")
    return root


def _entries(root: Mapping[str, Any]) -> dict[str, TensorEntry]:
    """Every tensor's entry, its own numbers checked. Raises ValueError."""
    found: dict[str, TensorEntry] = {}
    for name, row in root.items():
        if name == "__metadata__":
            continue
        if not name.isprintable():
            _check_text(name)
        try:
            dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
        except (KeyError, TypeError, IndexError):
            raise ValueError(f"{name!r} lacks dtype, shape or data_offsets") from None
        if not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
            raise ValueError(f"{name!r} has the unknown dtype {str(dtype)[:40]!r}")
        if dtype not in TORCH_DTYPES:
            raise ValueError(f"{name!r} is stored as {dtype}, which torch {torch.__version__} cannot hold")
        if not (_naturals(shape) and _naturals(offsets)) or len(offsets) != 2:
            raise ValueError(f"{name!r} has no valid shape or data_offsets")
        start, end = offsets
        if end - start != math.prod(shape) * DTYPE_SIZES[dtype]:
            span = math.prod(shape) * DTYPE_SIZES[dtype]
            raise ValueError(
                f"{name!r}: {dtype} {shape} takes {counted(span, 'byte')}, its data_offsets span {end - start:,}"
            )
        found[name] = TensorEntry(dtype, tuple(shape), start, end)
    return found


def _check_text(name: str) -> None:
    """ValueError when a name cannot be written back (half of a surrogate pair)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name {name!a} is not valid text") from None


_WHOLE = frozenset({int})  # no bool


def _naturals(value: object) -> bool:
    """Whether `value` is a short list of integers from 0 below 2**63."""
    if not isinstance(value, list) or len(value) > 64 or not _WHOLE.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) < 2**63)


def _check_layout(entries: Mapping[str, TensorEntry], size: int) -> None:
    """ValueError unless the entries cover `size` bytes of data without gap or overlap."""
    end, last = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start < end:
            raise ValueError(f"{name!r} and {last!r} overlap")
        if entry.start > end:
            raise ValueError(
                counted(
                    entry.start - end,
                    f"byte before {name!r} belongs to no tensor",
                    f"bytes before {name!r} belong to no tensor",
                )
            )
        if entry.end > size:
            raise ValueError(
                f"{name!r} ends at byte {entry.end:,} of {counted(size, 'byte')} of data (cut off while downloading?)"
            )
        end, last = entry.end, name
    if end != size:
        raise ValueError(f"the last {counted(size - end, 'byte belongs', 'bytes belong')} to no tensor")


def _metadata(value: object) -> dict[str, str]:
    """`__metadata__` as text: a value that is not text (some trainers write such) becomes its JSON."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        return {"__metadata__": metadata_as_text(value)}
    return {metadata_as_text(name): metadata_as_text(item) for name, item in value.items()}


def metadata_as_text(value: object) -> str:
    """Text as it is (half surrogate pairs replaced), anything else as JSON or, failing that, as Python shows it."""
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            value = repr(value)
    return replace_lone_surrogates(value)


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`load_safetensors_data` without the bytes."""
    return load_safetensors_data(path)[:2]


def load_safetensors_data(path: Path) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """Loads all tensors of a safetensors file in one read; they share one buffer.

    Args:
        path: the file.

    Returns:
        (name → tensor on the CPU, metadata, the buffer: all bytes behind the header).

    Raises:
        FileError: the file cannot be read or is not a valid safetensors file; the message says why.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            header = parse_safetensors_header(file, path, size)
            buffer = torch.empty(size - header.data_start, dtype=torch.uint8)
            if buffer.numel() and _fill(file, buffer) != buffer.numel():
                raise FileError(f"{path} became shorter while it was read")
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
    return _views(buffer, header.entries), dict(header.metadata), buffer


def iterate_safetensors(path: Path, header: SafetensorsHeader, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Loads tensors one after the other, each into memory of its own: for files larger than memory.

    Args:
        path: the file.
        header: its header.
        names: the tensors to load.

    Yields:
        (name, tensor on the CPU).

    Raises:
        FileError: the file cannot be read, or became shorter meanwhile.
    """
    try:
        with path.open("rb") as file:
            for name in names:
                entry = header.entries[name]
                buffer = torch.empty(entry.end - entry.start, dtype=torch.uint8)
                file.seek(header.data_start + entry.start)
                if buffer.numel() and _fill(file, buffer) != buffer.numel():
                    raise FileError(f"{path} became shorter while it was read")
                yield name, buffer.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from error


def _fill(file: BinaryIO, buffer: Tensor) -> int:
    """Bytes read into `buffer` (uint8) until it is full or the file ends."""
    view, done = memoryview(buffer.numpy().data), 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def _views(buffer: Tensor, entries: Mapping[str, TensorEntry]) -> dict[str, Tensor]:
    """The tensors inside the buffer; copied only where one is not aligned to its dtype."""
    typed: dict[str, Tensor] = {}
    found = {}
    for name, (dtype, shape, start, end) in entries.items():
        size = DTYPE_SIZES[dtype]
        if start % size:
            found[name] = buffer[start:end].clone().view(TORCH_DTYPES[dtype]).reshape(shape)
            continue
        if dtype not in typed:
            typed[dtype] = buffer[: len(buffer) // size * size].view(TORCH_DTYPES[dtype])
        # one call where a slice and a reshape would be two: files have thousands of tensors
        found[name] = typed[dtype].as_strided(shape, _strides(shape), start // size)
    return found


@lru_cache(maxsize=4096)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


# --- writing ---------------------------------------------------------------------------------------------------------


def serialize_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Makes the header of a safetensors file, with the layout of the safetensors library.

    Wider dtypes come first, then names in order.

    Args:
        tensors: name → tensor.
        metadata: name → text.

    Returns:
        (the bytes before the data, the names in the order of the data).

    Raises:
        FileError: a tensor has a dtype that the format lacks.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise FileError(f"{name!r} is {tensor.dtype}, which a safetensors file cannot hold")
    order = sorted(tensors, key=lambda name: (-_ORDER[DTYPE_NAMES[tensors[name].dtype]], name))
    entries: dict[str, TensorEntry] = {}
    start = 0
    for name in order:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = TensorEntry(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), start, end)
        start = end
    return encode_header(entries, metadata), order


def encode_header(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Encodes a header: its length in 8 bytes, then JSON, padded with blanks to a multiple of 8 bytes.

    Args:
        entries: name → where the tensor is, in the order of the data.
        metadata: name → text.

    Returns:
        The bytes before the data.
    """
    root: dict[str, Mapping[str, object]] = {"__metadata__": metadata} if metadata else {}
    for name, (dtype, shape, start, end) in entries.items():
        root[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = replace_lone_surrogates(json.dumps(root, ensure_ascii=False, separators=(",", ":"))).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def iterate_tensor_bytes(tensors: Mapping[str, Tensor], order: Iterable[str]) -> Iterator[memoryview]:
    """Returns the bytes of tensors as the format stores them.

    Args:
        tensors: name → tensor, on any device.
        order: the names in the order of the data, from `serialize_header`.

    Yields:
        The bytes of one tensor after the other.
    """
    for name in order:
        tensor = tensors[name].detach().to("cpu").contiguous()
        if tensor.numel():
            yield tensor.flatten().view(torch.uint8).numpy().data

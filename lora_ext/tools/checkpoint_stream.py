"""Checkpoints are read and written tensor by tensor, so that memory holds one tensor and not the model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..command_line import cast_tensor
from ..errors import FileError
from ..file.containers import container_format, load_tensors
from ..file.safetensors_file import (
    DTYPE_NAMES,
    TORCH_DTYPES,
    SafetensorsHeader,
    TensorEntry,
    encode_header,
    iterate_safetensors,
    iterate_tensor_bytes,
    load_safetensors_header,
    serialize_header,
)
from ..file.torch_file import write_torch_file
from ..progress import Track

TensorChange = Callable[[Tensor], Tensor]
"""The tensor as the file holds it → the tensor that is written in its place, of the same shape.

It may overwrite the memory of a tensor that was read from the disk.
"""

_BLOCK = 1 << 18
"""Bytes that are read or written at a time. Measured on Linux: blocks of 1 MB and more cost two to five times the CPU
time."""


@dataclass(frozen=True)
class TensorFile:
    """One file of tensors, opened for reading.

    Attributes:
        path: the file.
        header: the header of a safetensors file, whose tensors stay on the disk; None for a torch file.
        content: the whole object that a torch file held.
        tensors: tensor name → tensor of a torch file, in memory.
    """

    path: Path
    header: SafetensorsHeader | None = None
    content: object = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name → shape, in the order of the file."""
        if self.header is not None:
            return {name: entry.shape for name, entry in self.header.entries.items()}
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def load_tensor(self, name: str) -> Tensor:
        """Loads one tensor; one that comes from the disk has memory of its own.

        Raises:
            FileError: the file cannot be read.
        """
        if self.header is None:
            return self.tensors[name]
        return next(iterate_safetensors(self.path, self.header, (name,)))[1]

    def dtype(self, name: str) -> torch.dtype:
        """The stored dtype of a tensor."""
        return self.tensors[name].dtype if self.header is None else TORCH_DTYPES[self.header.entries[name].dtype]


def open_tensor_file(path: Path) -> TensorFile:
    """Opens a file of tensors. Of a safetensors file only the header is read, a torch file is loaded whole.

    Torch files are loaded with `weights_only=True`, so that they cannot run code.

    Raises:
        FileError: the file cannot be read.
    """
    if container_format(path) == "safetensors":
        return TensorFile(path, header=load_safetensors_header(path))
    contents = load_tensors(path)
    return TensorFile(path, content=contents.raw, tensors=contents.tensors)


# --- safetensors -----------------------------------------------------------------------------------------------------


def file_size_as(header: SafetensorsHeader, dtype: torch.dtype | None) -> int:
    """Bytes of the file if its floating-point tensors are stored as `dtype` (None: as they are)."""
    return header.data_start + sum(e.end - e.start if d is None else _size(e, d) for _, e, d in _targets(header, dtype))


def write_changed_safetensors(
    tensor_file: TensorFile,
    out: BinaryIO,
    changes: Mapping[str, TensorChange],
    dtype: torch.dtype | None,
    on_tensor: Callable[[str], object] = lambda name: None,
) -> None:
    """Writes a copy of a safetensors file with some tensors changed; order, layout and metadata stay.

    Bytes of unchanged tensors are copied as they are.

    Args:
        tensor_file: the safetensors file to copy.
        out: the open file to write to.
        changes: tensor name → the function that computes the new tensor.
        dtype: every floating-point tensor is rounded to it once; None keeps each tensor's own.
        on_tensor: called with the name of each changed tensor before it is computed.

    Raises:
        FileError: the source became shorter while it was read.
        OSError: `out` cannot be written.
        ToolError: a number is too large for `dtype`.
    """
    header = tensor_file.header
    assert header is not None
    rows = _targets(header, dtype)
    sizes = [entry.end - entry.start for name, entry, target in rows if name in changes or target is not None]
    buffer = torch.empty(max(sizes, default=0), dtype=torch.uint8)
    with tensor_file.path.open("rb", buffering=0) as source:
        if any(target is not None for _, _, target in rows):
            out.write(_head(header, rows))
        else:
            _copy(source, out, 0, header.data_start, tensor_file.path)
        for unchanged, group in itertools.groupby(rows, key=lambda row: row[0] not in changes and row[2] is None):
            run = list(group)
            if unchanged:
                _copy(
                    source, out, header.data_start + run[0][1].start, run[-1][1].end - run[0][1].start, tensor_file.path
                )
                continue
            for name, entry, target in run:
                if name in changes:
                    on_tensor(name)
                tensor = changes.get(name, _itself)(_load(source, header, entry, buffer, tensor_file.path))
                _write(out, tensor if target is None or tensor.dtype == target else cast_tensor(tensor, target, name))
    out.flush()
    os.fsync(out.fileno())


def _itself(tensor: Tensor) -> Tensor:
    """The change of a tensor that nothing changes."""
    return tensor


def _targets(header: SafetensorsHeader, dtype: torch.dtype | None) -> list[tuple[str, TensorEntry, torch.dtype | None]]:
    """(name, entry, the new dtype or None) of every tensor, in the order of the data."""
    order = sorted(header.entries.items(), key=lambda item: (item[1].start, item[1].end))
    return [(name, entry, dtype if _changes(entry, dtype) else None) for name, entry in order]


def _changes(entry: TensorEntry, dtype: torch.dtype | None) -> bool:
    return dtype is not None and TORCH_DTYPES[entry.dtype].is_floating_point and TORCH_DTYPES[entry.dtype] != dtype


def _size(entry: TensorEntry, dtype: torch.dtype) -> int:
    return torch.Size(entry.shape).numel() * torch.empty(0, dtype=dtype).element_size()


def _head(header: SafetensorsHeader, rows: list[tuple[str, TensorEntry, torch.dtype | None]]) -> bytes:
    """The header for the same tensors in the same order, some with a new dtype."""
    entries: dict[str, TensorEntry] = {}
    start = 0
    for name, entry, target in rows:
        end = start + (entry.end - entry.start if target is None else _size(entry, target))
        entries[name] = TensorEntry(entry.dtype if target is None else DTYPE_NAMES[target], entry.shape, start, end)
        start = end
    return encode_header(entries, header.metadata)


def _copy(source: BinaryIO, out: BinaryIO, start: int, count: int, path: Path) -> None:
    """Copies `count` bytes from `start` on, a block at a time."""
    source.seek(start)
    block = memoryview(bytearray(min(_BLOCK, count)))
    while count:
        got = source.readinto(block[: min(len(block), count)])  # type: ignore[attr-defined]
        if not got:
            raise FileError(f"{path} became shorter while it was read")
        out.write(block[:got])
        count -= got


def _load(source: BinaryIO, header: SafetensorsHeader, entry: TensorEntry, buffer: Tensor, path: Path) -> Tensor:
    """Reads one tensor into the memory of `buffer`; it is valid until the next call."""
    raw = buffer[: entry.end - entry.start]
    source.seek(header.data_start + entry.start)
    view = memoryview(raw.numpy().data)
    while view:
        got = source.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise FileError(f"{path} became shorter while it was read")
        view = view[got:]
    return raw.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)


def _write(out: BinaryIO, tensor: Tensor) -> None:
    data = tensor.detach().to("cpu").contiguous()
    if data.numel():
        raw = memoryview(data.flatten().view(torch.uint8).numpy().data)
        for first in range(0, len(raw), _BLOCK):
            out.write(raw[first : first + _BLOCK])


def write_made_tensors(
    path: Path, shapes: Mapping[str, Tensor], make: Callable[[str], Tensor], track: Track, file_name: str
) -> None:
    """Writes a safetensors file whose tensors are made one by one.

    Args:
        path: where to write.
        shapes: tensor name → a tensor on the meta device with its shape and dtype.
        make: makes the tensor of a name.
        track: shows progress.
        file_name: what the progress calls the file.

    Raises:
        OSError: `path` cannot be written.
    """
    head, order = serialize_header(shapes, {"format": "pt"})
    with path.open("wb") as out:
        out.write(head)
        for name in track(list(order), f"write {file_name}"):
            for block in iterate_tensor_bytes({name: make(name)}, [name]):
                out.write(block)
        out.flush()
        os.fsync(out.fileno())


# --- torch files -----------------------------------------------------------------------------------------------------


def changed_tensors(
    tensor_file: TensorFile,
    changes: Mapping[str, TensorChange],
    dtype: torch.dtype | None,
    on_tensor: Callable[[str], object] = lambda name: None,
) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for every tensor of a file with `changes` made, for files that are written whole.

    Args, errors: as of `write_changed_safetensors`.
    """
    for name in tensor_file.shapes:
        if name in changes:
            on_tensor(name)
        result = changes.get(name, _itself)(tensor_file.load_tensor(name))
        differs = dtype is not None and result.is_floating_point() and result.dtype != dtype
        yield name, cast_tensor(result, dtype, name) if differs and dtype is not None else result


def save_torch_file(tensor_file: TensorFile, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as a torch file.

    Args:
        tensor_file: the source. The structure of a torch file is kept, with its other entries; the tensors of a
            safetensors file are written as `{"state_dict": …}`.
        tensors: tensor name → tensor.
        path: where to write.

    Raises:
        FileError: float8 tensors, which torch 2.1 cannot write into such a file.
        OSError: `path` cannot be written.
    """
    whole = tensor_file.content
    content: dict[str, object] = dict(whole) if isinstance(whole, Mapping) and whole else {"state_dict": {}}
    inner = content.get("state_dict")
    fresh = {name: tensor for name, tensor in tensors.items() if tensor is not tensor_file.tensors.get(name)}
    if isinstance(inner, Mapping):
        content["state_dict"] = {**inner, **fresh}
    else:
        content.update(fresh)
    write_torch_file(content, path)


__all__ = [
    "TensorChange",
    "TensorFile",
    "changed_tensors",
    "file_size_as",
    "open_tensor_file",
    "save_torch_file",
    "write_changed_safetensors",
    "write_made_tensors",
]

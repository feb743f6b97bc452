"""Loads the tensors and metadata of any file of tensors; the content decides the format, not the name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FileError, did_you_mean_path
from . import safetensors_file, torch_file
from .unreadable_files import why_unreadable

LORA_FILE_SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")
"""Suffixes of files that are indexed."""


class FileContents(NamedTuple):
    """What a file of tensors holds.

    Attributes:
        tensors: name → tensor. Empty for a bare list of tensors, which have no names.
        metadata: name → text.
        raw: the object that a torch file held; None for safetensors.
        data: the bytes behind a safetensors header, which the tensors are views of; None for a torch file.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    raw: object = None
    data: Tensor | None = None


_FOREIGN_FILE_HEADS = (
    (b"version https://git-lfs", "a git-lfs pointer; the file itself was not downloaded (`git lfs pull`)"),
    (b"<", "a web page (HTML), probably an error page saved by the download"),
    (b'{"', "a JSON text"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"RIFF", "a WebP image or a sound"),
    (b"GGUF", "a GGUF file (a quantised model)"),
)
"""First bytes of files that are something else."""


def similar_file_hint(path: Path) -> str:
    """Formats a hint for a file that is not there: the one beside it with the nearest name; "" for none."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = [one.name for one in path.parent.iterdir() if one.suffix.lower() in LORA_FILE_SUFFIXES]
    return did_you_mean_path(path, (name for name in names if name != path.name))


def container_format(path: Path) -> str:
    """Detects the container by a file's first bytes; its suffix only decides where these say nothing.

    Args:
        path: the file.

    Returns:
        "safetensors" or "torch".

    Raises:
        FileError: the file cannot be read, is empty, or is of another kind; the message names the kind.
    """
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder, not a file")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError) and not path.is_symlink()
        hint = similar_file_hint(path) if is_missing else ""
        raise FileError(f"{path} cannot be read: {why_unreadable(path, error)}{hint}") from error
    if not head:
        raise FileError(f"{path} is empty (0 bytes); download it again")
    if head[8:9] == b"{" and head[5:8] == b"\0\0\0":  # first: the length before it may begin with any byte
        return "safetensors"
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return "torch"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, what in _FOREIGN_FILE_HEADS:
        if text.startswith(start):
            raise FileError(f"{path} cannot be loaded: it is {what}")
    return "safetensors" if path.suffix.lower() == ".safetensors" else "torch"


def load_tensors(path: str | Path) -> FileContents:
    """Loads every tensor of a safetensors or torch file onto the CPU. No code from the file is run.

    A torch file may hold a dict of tensors, such a dict under "state_dict", or a list of tensors. Numbers beside
    tensors become tensors, text becomes metadata.

    Args:
        path: the file.

    Returns:
        Its tensors and metadata.

    Raises:
        FileError: the file cannot be read, is damaged, or holds something else; the message says what.
    """
    path = Path(path)
    if container_format(path) == "safetensors":
        tensors, metadata, data = safetensors_file.load_safetensors_data(path)
        return FileContents(tensors, metadata, data=data)
    content = torch_file.load_torch_file(path)
    if isinstance(content, list | tuple):
        if not content:
            raise FileError(f"{path} holds an empty list, no LoRA")
        if not all(isinstance(item, Tensor) for item in content):
            raise FileError(f"{path} holds a list with something other than tensors")
        return FileContents({}, {}, [_plain(item) for item in content])
    if isinstance(content, Tensor):
        raise FileError(f"{path} holds a single tensor of shape {tuple(content.shape)}, not a LoRA")
    if not isinstance(content, Mapping):
        raise FileError(f"{path} holds a {type(content).__name__}, not tensors by name")
    if "string_to_param" in content:
        raise FileError(f"{path} is a textual-inversion embedding, not a LoRA; put it into the embeddings folder")
    if "layer_structure" in content or any(
        isinstance(key, int) and isinstance(value, list | tuple) for key, value in content.items()
    ):
        raise FileError(f"{path} is a hypernetwork, not a LoRA; put it into the hypernetworks folder")
    inner = content.get("state_dict")
    tensors, metadata = _named(inner if isinstance(inner, Mapping) else content)
    if not tensors:  # upscalers and IP-Adapters, which are then named as what they are
        nested = ((str(key), value) for key, value in content.items() if isinstance(value, Mapping))
        tensors, _ = _named({f"{key}.{name}": one for key, value in nested for name, one in value.items()})
    if not tensors:
        shown = ", ".join(str(key) for key in list(content)[:5])
        raise FileError(f"{path} holds no tensors by name (its keys: {shown or 'none'})")
    return FileContents(tensors, metadata, content)


def _named(content: Mapping[object, object]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, text) of a dict; numbers count as tensors, anything else is left out."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            tensors[key] = _plain(value)
        elif isinstance(value, float | int) and "." in key:
            tensors[key] = _number(key, value)
        elif isinstance(value, str | float | int):
            metadata[key] = str(value)
    return tensors, metadata


def _number(key: str, value: float) -> Tensor:
    try:
        return torch.tensor(value)
    except (ValueError, RuntimeError, OverflowError):
        raise FileError(f"{key!r} is an integer that no tensor can hold") from None


def _plain(tensor: Tensor) -> Tensor:
    """A dense, contiguous tensor without gradient."""
    tensor = tensor.detach()
    if tensor.is_complex():
        raise FileError(f"it holds a tensor of complex numbers ({tensor.dtype}); no LoRA has these")
    return (tensor.to_dense() if tensor.is_sparse else tensor).contiguous()

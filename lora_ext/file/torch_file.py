"""Loads `.pt`, `.ckpt` and `.bin` files without running any code from them."""

from __future__ import annotations

import contextlib
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import FileError

_HARMLESS = re.compile(
    r"(torch(\._utils|\.storage|\._tensor|\.serialization|\.nn\.parameter)?|collections|_codecs)\.\w+"
)
"""Classes and functions that the pickle of plain tensors needs."""

_EXPAND = 16
"""How many times larger than its file the tensors of a file may be."""

_LONGEST_NAME = 2000
"""A name of a class that is longer is refused: torch's search for it in its own message takes quadratic time."""


def load_torch_file(path: Path) -> object:
    """Loads a torch file without running any code from it.

    Args:
        path: a `.pt`, `.ckpt` or `.bin` file.

    Returns:
        What it holds: tensors, dicts, lists, numbers and text.

    Raises:
        FileError: the file is damaged, or wants to run code; the message names the first function that it wants.
    """
    size = path.stat().st_size
    _check_archive(path, size)
    if any(map(_has_long_name, _pickles(path))):
        raise FileError(f"{path} is damaged or not a torch file (a name of more than {_LONGEST_NAME} letters)")
    try:
        with path.open("rb") as file, warnings.catch_warnings():  # not by its name: newer torch would go by that
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        wanted = unsafe_pickle_names(path, str(error))
        if wanted:
            raise FileError(
                f"{path} was not loaded: it wants to run {wanted[0]!r}, and only tensors are read; "
                "a .safetensors file of it is safe"
            ) from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(f"{path} is damaged or not a torch file ({reason[:200]})") from None
    if any(tensor.is_meta or tensor.is_quantized for tensor in _tensors(content)):
        raise FileError(f"{path} holds quantized tensors, or tensors without their numbers (meta); save plain ones")
    total = sum(t.numel() * t.element_size() for t in _tensors(content))
    if total > _EXPAND * size + 1_000_000:
        raise FileError(f"{path} has {size} bytes and claims tensors of {total} bytes")
    return content


def _check_archive(path: Path, size: int) -> None:
    """FileError for a zip archive that is not torch's, or whose members claim far more bytes than the file has."""
    try:
        if not zipfile.is_zipfile(path):  # raises for some damaged archives
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise FileError(f"{path} is a damaged archive ({error})") from None
    if not any(member.filename.endswith("data.pkl") for member in members):
        shown = ", ".join(member.filename for member in members[:3])
        raise FileError(f"{path} is a zip archive (holding {shown or 'nothing'}), not a LoRA file; unpack it first")
    claimed = sum(member.file_size for member in members)
    if claimed > _EXPAND * size + 1_000_000:
        raise FileError(f"{path} has {size} bytes and claims to unpack to {claimed}")


def _tensors(value: object, depth: int = 0) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple) and depth < 8:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth + 1)


def unsafe_pickle_names(path: Path, message: str = "") -> list[str]:
    """Lists the functions and classes, such as `os.system`, that a file's pickle would call. Nothing is run.

    Args:
        path: the file.
        message: the message with which torch refused the file. It names one too, for pickles that cannot be parsed.

    Returns:
        The dotted names, without those that files of plain tensors need.
    """
    found = [name for name in _globals(path) if not _HARMLESS.fullmatch(name)]
    match = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", message)
    if match and not found and not _HARMLESS.fullmatch(match[1]):
        found.append(match[1])
    return found


def _globals(path: Path) -> Iterator[str]:
    """`module.name` of every global in the file's pickles."""
    for data in _pickles(path):
        yield from _walk(data)


def _pickles(path: Path) -> list[bytes]:
    """A file's pickles: a zip's `data.pkl`, or one pickle after another; none where it cannot be read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [archive.read(n) for n in archive.namelist() if n.endswith(".pkl")]
        with path.open("rb") as file:
            return [file.read(64_000_000)]
    except Exception:  # torch itself says why the file cannot be read
        return []


def _has_long_name(data: bytes) -> bool:
    """Whether the name of a class is too long; also one that never ends, which torch reads to the end of the file."""
    end = 0
    try:
        for name, place in _walk_names(data):
            end = place
            if len(name) > _LONGEST_NAME:
                return True
    except ValueError as error:
        return "newline" in str(error) and len(data) - end > _LONGEST_NAME
    except Exception:  # the end of what can be walked
        return False
    return False


def _walk(data: bytes) -> Iterator[str]:
    with contextlib.suppress(Exception):  # the end of what can be walked
        for name, _ in _walk_names(data):
            if name:
                yield name


def _walk_names(data: bytes) -> Iterator[tuple[str, int]]:
    """Yields ("module.name" or "", where it stands) of each operation of one pickle after another.

    Raises:
        Exception: whatever a damaged pickle leads to; ValueError for a name without an end.
    """
    texts: list[str] = []
    at = 0
    while at < len(data):
        for opcode, argument, position in pickletools.genops(data[at:] if at else data):
            name = ""
            if opcode.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".", 1)
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                name = ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
            yield name, at + (position or 0)
            if opcode.name == "STOP":
                at += (position or 0) + 1


def write_torch_file(content: object, path: Path) -> None:
    """Writes a torch file, and waits until it is on the disk.

    Args:
        content: what `torch.save` takes.
        path: the file; one that exists is overwritten.

    Raises:
        FileError: a dtype that this torch cannot write, such as float8 with torch 2.1.
        OSError: `path` cannot be written, with the system's reason.
    """
    with path.open("wb") as file:
        out = _ErrorKeepingFile(file)
        try:
            torch.save(content, out)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise out.error or OSError(str(error).splitlines()[0]) from error
        except KeyError as error:  # "dtype torch.float8_e4m3fn is not recognized"
            raise FileError(
                f"torch {torch.__version__} cannot write this dtype into a .ckpt or .pt file ({error.args[0]}): "
                "save as .safetensors, or with --save_precision fp16"
            ) from error
        file.flush()
        os.fsync(file.fileno())


class _ErrorKeepingFile:
    """A file that remembers its first error, because torch's writer reports another one in its place."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes as a file does, and remembers an error."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Flushes as a file does."""
        self._file.flush()

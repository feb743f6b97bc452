"""`TensorCache`: latents and text-encoder outputs, in memory or on disk, under a key made of their inputs."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...errors import FileError, TrainError
from ...file import safetensors_file
from ...file.saving import replacing_file
from ..config.recipe import Recipe

CACHE_FORMAT = 1
"""Part of every key; raised when the stored tensors change their meaning."""
CACHE_FOLDER_NAME = ".lora_ext_cache"
"""Name of the cache folder in the folder of images; a leading dot keeps it from being read as images."""


def cache_folder(recipe: Recipe) -> Path:
    """A recipe's cache folder: beside the images, or else beside the results.

    Args:
        recipe: The settings.

    Returns:
        The folder, which may not exist yet.
    """
    return Path(recipe.train_data_dir or recipe.output_dir or ".") / CACHE_FOLDER_NAME


def content_key(*parts: object) -> str:
    """A key that depends only on the texts of some values.

    Args:
        *parts: The values.

    Returns:
        32 hex digits.
    """
    text = "\x1f".join(str(part) for part in (CACHE_FORMAT, *parts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


class TensorCache:
    """Named tensors by key. On disk each key is a small safetensors file, written whole or not at all.

    A file carries a checksum instead of being synced to disk: one that a power failure damages is computed again.

    Args:
        folder: The folder on disk; None keeps all in memory.

    Raises:
        TrainError: The folder is a link, or cannot be created.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.tensors_by_key: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            if folder.is_symlink():  # a data set from elsewhere may contain one
                raise TrainError(
                    f"the cache folder {folder} is a link, and caches are not written through links; remove it"
                )
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TrainError(f"the cache folder {folder} cannot be created: {error.strerror or error}") from None

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key.

        Args:
            key: The key.

        Returns:
            Name → tensor, on the CPU; None for a missing or damaged entry.
        """
        if self.folder is None:
            return self.tensors_by_key.get(key)
        try:
            tensors, metadata = safetensors_file.load_safetensors(self._path(key))
        except FileError:
            return None
        return tensors if metadata.get("crc") == _crc(tensors) else None

    def add(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Stores CPU copies of tensors.

        Args:
            key: The key.
            tensors: Name → tensor.

        Raises:
            TrainError: The disk is full, or the folder is missing.
        """
        kept = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in sorted(tensors.items())}
        if self.folder is None:
            self.tensors_by_key[key] = kept
            return
        head, order = safetensors_file.serialize_header(kept, {"crc": _crc(kept)})
        path = self._path(key)
        try:
            with replacing_file(path, overwrite=True, durable=False) as part, part.open("wb") as out:
                out.write(head)
                for chunk in safetensors_file.iterate_tensor_bytes(kept, order):
                    out.write(chunk)
        except FileError as error:
            if isinstance(error.__cause__, PermissionError) and path.is_file():
                return  # on Windows, while another run reads it: the file of this key is the same
            reason = getattr(error.__cause__, "strerror", None) or error.__cause__ or error
            raise TrainError(
                f"{self.folder} cannot be written to ({reason}); free some space, or train without the cache on disk"
            ) from None

    def __contains__(self, key: str) -> bool:
        return key in self.tensors_by_key if self.folder is None else self._path(key).is_file()

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"


def _crc(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(name.encode(), total)
        if tensor.numel():
            total = zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes(), total)
    return f"{total:08x}"


def tensor_fingerprint(tensor: Tensor) -> str:
    """A short text that differs for different tensors, but not for rounding errors.

    It tells two autoencoders or text encoders apart by what they compute, whatever their files are called.

    Args:
        tensor: What one of them computes, of any shape.

    Returns:
        16 hex digits.
    """
    rounded = (tensor.detach().float().cpu() * 64).round().clamp(-(2**31), 2**31 - 1).to(torch.int64)
    return hashlib.blake2b(rounded.numpy().tobytes(), digest_size=8).hexdigest()

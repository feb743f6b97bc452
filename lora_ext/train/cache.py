"""Keeps what is computed once: latents and text-encoder outputs, in memory or on disk, under a key of their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError, TrainError
from ..file import safetensors_file
from ..ports import Context

FORMAT = 1
"""Part of every key: raised when what is kept under a key changes its meaning."""
FOLDER = ".lora_ext_cache"
"""Where caches on disk are, in the folder of the pictures; never read as a folder of pictures."""


def key_of(*parts: object) -> str:
    """A name for what depends on `parts` (their texts) alone: 32 hex digits."""
    text = "\x1f".join(str(part) for part in (FORMAT, *parts)).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


class Store:
    """Tensors by key. With a folder one small safetensors file a key, written whole or not at all, checked on reading.

    Files carry a checksum instead of being synced one by one: a file that a power cut spoils is made again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.held: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TrainError(f"the cache folder {folder} cannot be made: {error.strerror or error}") from None

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What is kept under a key, None for nothing or for a file that is damaged."""
        if self.folder is None:
            return self.held.get(key)
        try:
            tensors, metadata = safetensors_file.read(self._path(key))
        except FileError:
            return None
        return tensors if metadata.get("crc") == _crc(tensors) else None

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep CPU copies. Raises TrainError when the disk is full or the folder gone."""
        kept = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in sorted(tensors.items())}
        if self.folder is None:
            self.held[key] = kept
            return
        head, order = safetensors_file.layout(kept, {"crc": _crc(kept)})
        part = ""
        try:
            handle, part = tempfile.mkstemp(dir=self.folder, suffix=".part")
            with os.fdopen(handle, "wb") as out:
                out.write(head)
                for chunk in safetensors_file.chunks(kept, order):
                    out.write(chunk)
            Path(part).replace(self._path(key))
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(part).unlink(missing_ok=True)
            raise TrainError(
                f"{self.folder} cannot be written to ({error.strerror or error}); free some space, or train without "
                "the cache on disk"
            ) from None

    def __contains__(self, key: str) -> bool:
        return key in self.held if self.folder is None else self._path(key).is_file()

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


class TextOutputs:
    """Captions → `Context`, each caption read by the text encoder once.

    read: captions → Context, as `Trainee.text` with its settings. about: whatever the outputs depend on besides the
    caption (the model's hash, clip skip, token length …).
    """

    def __init__(self, read: Callable[[Sequence[str]], Context], store: Store, *about: object) -> None:
        self.read, self.store, self.about = read, store, about

    def _key(self, caption: str) -> str:
        return key_of("text", *self.about, caption)

    def fill(self, captions: Sequence[str], together: int = 16) -> None:
        """Read all captions that are not kept yet, `together` at once."""
        missing = [caption for caption in dict.fromkeys(captions) if self.store.get(self._key(caption)) is None]
        for at in range(0, len(missing), together):
            part = missing[at : at + together]
            with torch.no_grad():
                read = self.read(part)
            for row, caption in enumerate(part):
                tensors = {"states": read.states[row]}
                if read.pooled is not None:
                    tensors["pooled"] = read.pooled[row]
                self.store.put(self._key(caption), tensors)

    def __call__(self, captions: Sequence[str]) -> Context:
        """The kept outputs of a batch, on the CPU; captions that were never read are read now."""
        self.fill(captions)
        rows = [self.store.get(self._key(caption)) for caption in captions]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            raise TrainError(f"the cache in {self.store.folder} was damaged while training; start again without it")
        longest = max(row["states"].shape[0] for row in found)
        if any(row["states"].shape[0] != longest for row in found):
            raise TrainError("captions of one batch were read at different lengths; give one max_token_length")
        pooled = torch.stack([row["pooled"] for row in found]) if "pooled" in found[0] else None
        return Context(torch.stack([row["states"] for row in found]), pooled)

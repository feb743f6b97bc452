"""Words of a prompt that stand for learned vectors (textual inversion, Gal et al. 2022, arXiv:2208.01618).

They come from a folder of embedding files, or travel inside a LoRA file (`bundle_emb.*`, cloneofsimo's token tensors).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FileError
from ...file import safetensors_file, torch_file
from ...file.containers import container_format
from ...file.displayed_names import displayed_name, files_below
from ...file.lora_file import LoraFile

EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin")
EMBEDDING_VECTOR_NAMES = ("clip_l", "clip_g")
"""What a file calls the vectors for the first and the second text encoder, where it holds both (SDXL)."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A name and its vectors, read when they are first needed.

    load: vector name → (n, width), as a file holds them. hash: what the infotext says about it.
    """

    name: str
    load: Callable[[], Mapping[str, Tensor]]
    hash: Callable[[], str] = field(default=lambda: "")

    @cached_property
    def content(self) -> Mapping[str, Tensor]:
        """What `load` gives. Raises FileError."""
        return self.load()

    def vectors_for(self, widths: Sequence[int]) -> tuple[Tensor, ...] | None:
        """One (n, width) for each text encoder, in their order; None where the vectors are not of this model's widths.

        Raises FileError for a file that cannot be read.
        """
        tensors = {name: t.reshape(-1, t.shape[-1]) for name, t in self.content.items() if t.dim()}
        found = []
        for name, width in zip(EMBEDDING_VECTOR_NAMES, widths, strict=False):
            named = [tensors[name]] if name in tensors and len(widths) > 1 else list(tensors.values())
            fits = [t for t in named if t.shape[-1] == width]
            if not fits:
                return None
            found.append(fits[0])
        same = found and len({len(t) for t in found}) == 1 and len(found[0])
        return tuple(found) if same else None


class EmbeddingTable:
    """Embeddings by the token ids of their names, as the web UI finds them: the longest name wins.

    encode: a text's token ids. widths: of the model's text encoders. Of two with one name the first is used.
    skipped: names that were met and do not fit, with the reason.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], widths: Sequence[int], embeddings: Iterable[Embedding] = ()
    ) -> None:
        self.widths = tuple(widths)
        self.names: list[str] = []
        self.skipped: dict[str, str] = {}
        self._known: dict[int, list[tuple[list[int], Embedding]]] = {}
        taken: set[tuple[int, ...]] = set()
        for embedding in embeddings:
            ids = encode(embedding.name)
            if ids and tuple(ids) not in taken:
                taken.add(tuple(ids))
                self.names.append(embedding.name)
                self._known.setdefault(ids[0], []).append((ids, embedding))
        for rows in self._known.values():
            rows.sort(key=lambda row: len(row[0]), reverse=True)

    def find_at(self, tokens: Sequence[int], position: int) -> tuple[Embedding, int] | None:
        """The embedding whose name stands at `position`, and how many tokens its name takes."""
        for ids, embedding in self._known.get(tokens[position], ()):
            if list(tokens[position : position + len(ids)]) == ids and self._fits(embedding):
                return embedding, len(ids)
        return None

    def _fits(self, embedding: Embedding) -> bool:
        try:
            rows = embedding.vectors_for(self.widths)
        except FileError as error:
            self.skipped[embedding.name] = str(error)
            return False
        if rows is None:
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in embedding.content.items())
            self.skipped[embedding.name] = f"{shapes} is not for text encoders of width {self.widths}"
        return rows is not None


def bundled_embeddings(files: Iterable[LoraFile]) -> list[Embedding]:
    """The embeddings inside LoRA files."""
    return [
        Embedding(name, lambda vectors=vectors: vectors, lambda file=file: file.name)  # type: ignore[misc]
        for file in files
        for name, vectors in file.embeddings.items()
    ]


def embeddings_in_folders(folders: Iterable[Path]) -> list[Embedding]:
    """The embedding files in these folders and theirs, by file name; nothing is read yet. Raises FileError."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder of embeddings")
        for path in files_below(folder, EMBEDDING_SUFFIXES):
            found.append(
                Embedding(
                    displayed_name(path.stem),
                    lambda path=path: load_embedding(path),  # type: ignore[misc]
                    lambda path=path: _digest(path),  # type: ignore[misc]
                )
            )
    return found


def load_embedding(path: Path) -> dict[str, Tensor]:
    """Vector name → (n, width) of an embedding's file: the web UI's `.pt`, a diffusers concept, or safetensors.

    Nothing that the file carries is run. Raises FileError.
    """
    if container_format(path) == "safetensors":
        tensors = safetensors_file.load_safetensors(path)[0]
    else:
        content = torch_file.load_torch_file(path)
        inner = content.get("string_to_param", content) if isinstance(content, Mapping) else {}
        tensors = {str(k): v.detach() for k, v in inner.items() if isinstance(v, Tensor)} if inner else {}
    vectors = {name: t for name, t in tensors.items() if t.dim() in (1, 2) and t.is_floating_point()}
    if not vectors:
        raise FileError(f"{path} is not a textual-inversion embedding")
    return vectors


def _digest(path: Path) -> str:
    """The first 12 hex digits of the file's sha256, as the web UI shows it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@contextmanager
def replaced_token_embeddings(
    module: Any, vectors: Mapping[int, Tensor] | Mapping[tuple[int, int], Tensor]
) -> Iterator[None]:
    """While inside, the text model reads these vectors (width,) at these places of its 77, in the place of its own.

    A place is one of the 77, in all texts of a batch, or (text, one of the 77). Gradients reach the vectors.
    """
    if not vectors:
        yield
        return

    def replaced(_: object, args: object, out: Tensor) -> Tensor:
        out = out.clone()
        for place, vector in vectors.items():
            where = place if isinstance(place, tuple) else (slice(None), place)
            out[where] = vector.to(out.device, out.dtype)
        return out

    layer: torch.nn.Module = module.get_input_embeddings()
    handle = layer.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()

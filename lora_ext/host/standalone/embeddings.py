"""Textual-inversion embeddings: names in a prompt that stand for learned vectors (Gal et al. 2022, arXiv:2208.01618).

They come from a folder of embedding files, or from inside a LoRA file (`bundle_emb.*`, cloneofsimo's token tensors).
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
"""Names in an SDXL file of the vectors for the first and the second text encoder."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A textual-inversion embedding, loaded when it is first needed.

    Attributes:
        name: the text in prompts that the vectors replace.
        load: loads vector name → (n, width), as in the file.
        hash: returns what the infotext says about it.
    """

    name: str
    load: Callable[[], Mapping[str, Tensor]]
    hash: Callable[[], str] = field(default=lambda: "")

    @cached_property
    def content(self) -> Mapping[str, Tensor]:
        """The vectors, as in the file.

        Raises:
            FileError: the file cannot be read.
        """
        return self.load()

    def vectors_for(self, widths: Sequence[int]) -> tuple[Tensor, ...] | None:
        """Returns vectors for a model's text encoders.

        Args:
            widths: the text encoders' widths.

        Returns:
            (n, width) for each text encoder, in their order; None where the vectors have other widths.

        Raises:
            FileError: the file cannot be read.
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
    """Embeddings by the token ids of their names. As in the web UI, the longest name wins.

    Args:
        encode: returns a text's token ids.
        widths: the widths of the model's text encoders.
        embeddings: the embeddings; of two with one name the first is used.

    Attributes:
        names: the embeddings' names.
        skipped: names found in a prompt whose vectors do not fit the model → the reason.
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
        """Returns the embedding whose name begins at `position`, and the length of its name in tokens; else None."""
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
    """Returns the embeddings inside LoRA files."""
    return [
        Embedding(name, lambda vectors=vectors: vectors, lambda file=file: file.name)  # type: ignore[misc]
        for file in files
        for name, vectors in file.embeddings.items()
    ]


def embeddings_in_folders(folders: Iterable[Path]) -> list[Embedding]:
    """Finds the embedding files in folders and their subfolders; files are loaded when they are needed.

    Raises:
        FileError: a folder does not exist.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder; give one that holds embeddings")
        links: list[Path] = []  # those with an embedding's name are told when a prompt has the name
        files = [*files_below(folder, EMBEDDING_SUFFIXES, broken_links=links)]
        for path in sorted([*files, *(link for link in links if link.suffix.lower() in EMBEDDING_SUFFIXES)]):
            found.append(
                Embedding(
                    displayed_name(path.stem),
                    lambda path=path: load_embedding(path),  # type: ignore[misc]
                    lambda path=path: _digest(path),  # type: ignore[misc]
                )
            )
    return found


def load_embedding(path: Path) -> dict[str, Tensor]:
    """Loads an embedding's file: the web UI's `.pt`, a diffusers concept (`.bin`), or safetensors.

    Code inside the file is never executed.

    Returns:
        Vector name → (n, width) or (width,).

    Raises:
        FileError: the file cannot be read or holds no embedding.
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
    """Returns the first 12 hex digits of the file's SHA-256, as the web UI shows it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@contextmanager
def replaced_token_embeddings(
    module: Any, vectors: Mapping[int, Tensor] | Mapping[tuple[int, int], Tensor]
) -> Iterator[None]:
    """Replaces token embeddings of a text encoder while the context is open. Gradients reach the vectors.

    Args:
        module: transformers' CLIP text model.
        vectors: position among the 77 tokens (in all texts of a batch), or (text, position) → vector (width,).
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

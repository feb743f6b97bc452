"""Textual-inversion embeddings inside LoRA files, registered in the web UI while their file is in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modules import sd_hijack, shared
from modules.textual_inversion import textual_inversion
from torch import Tensor

from ...file import LoraFile


class BundledEmbeddingHash(str):
    """The file's name, which the infotext shows in the place of the embedding's hash; empty if the setting says so."""

    def __str__(self) -> str:
        return str.__str__(self) if getattr(shared.opts, "lora_bundled_ti_to_infotext", True) else ""

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(str(self))


class BundledEmbeddings:
    """Registers the embeddings of the files in use. A user's embedding of the same name has priority."""

    def __init__(self) -> None:
        self._registered: dict[str, tuple[LoraFile, Any]] = {}

    def set_files(self, sd_model: Any, files: Iterable[LoraFile]) -> list[str]:
        """Registers the embeddings of these files and removes those of other files.

        Returns:
            Sentences about embeddings that cannot be used.
        """
        database = getattr(sd_hijack.model_hijack, "embedding_db", None)
        wanted = {name: (file, vectors) for file in files for name, vectors in file.embeddings.items()}
        messages: list[str] = []
        if database is None:  # Forge keeps its embeddings with its text engines
            return [
                f"embedding {name!r} of {file.name} cannot be used in this web UI" for name, (file, _) in wanted.items()
            ]
        for name in [n for n, (file, _) in self._registered.items() if wanted.get(n, (None,))[0] is not file]:
            self._remove(sd_model, name)
        for name, (file, vectors) in wanted.items():
            _, embedding = self._registered.get(name, (None, None))
            present = database.word_embeddings.get(name)
            if present is not None and present is not embedding:
                messages.append(
                    f"embedding {name!r} of {file.name} is skipped: one of that name is in the embeddings folder"
                )
                continue
            try:
                embedding = embedding or _create_embedding(name, file, vectors)
            except Exception as error:
                messages.append(f"embedding {name!r} of {file.name} cannot be read: {error}")
                continue
            if database.expected_shape not in (-1, embedding.shape):
                database.skipped_embeddings[name] = embedding
                continue
            if present is None:
                database.register_embedding(embedding, sd_model)
            self._registered[name] = file, embedding
        return messages

    def _remove(self, sd_model: Any, name: str) -> None:
        _, embedding = self._registered.pop(name)
        database = sd_hijack.model_hijack.embedding_db
        if database.word_embeddings.get(name) is embedding:
            database.register_embedding_by_name(None, sd_model, name)


def _create_embedding(name: str, file: LoraFile, vectors: Mapping[str, Tensor]) -> Any:
    """Creates an embedding as the web UI does from a file."""
    data: dict[str, Any] = {}
    for key, tensor in vectors.items():
        group, _, inner = key.partition(".")
        if group == "string_to_param":
            data.setdefault(group, {})[inner] = tensor
        else:
            data[key] = tensor
    embedding = textual_inversion.create_embedding_from_data(data, name, filename=f"{file.path}/{name}")
    embedding.loaded = True
    embedding.shorthash = BundledEmbeddingHash(file.name)
    return embedding

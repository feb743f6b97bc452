"""Textual-inversion embeddings inside LoRA files, registered in the web UI while their file is in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modules import shared
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
        databases = embedding_databases(sd_model)
        wanted = {name: (file, vectors) for file in files for name, vectors in file.embeddings.items()}
        messages: list[str] = []
        for name in [n for n, (file, _) in self._registered.items() if wanted.get(n, (None,))[0] is not file]:
            _, embedding = self._registered.pop(name)
            for database in databases:
                database.remove(embedding, name)
        for name, (file, vectors) in wanted.items():
            if not databases:
                messages.append(f"embedding {name!r} of {file.name} cannot be used in this web UI")
                continue
            _, embedding = self._registered.get(name, (None, None))
            if any(database.embedding(name) not in (None, embedding) for database in databases):
                messages.append(
                    f"embedding {name!r} of {file.name} is skipped: one of that name is in the embeddings folder"
                )
                continue
            try:
                embedding = embedding or _create_embedding(name, file, vectors)
            except Exception as error:
                messages.append(f"embedding {name!r} of {file.name} cannot be read: {error}")
                continue
            fits = [database.add(embedding, name) for database in databases]
            if all(fits):
                self._registered[name] = file, embedding
        return messages


@dataclass(frozen=True)
class EmbeddingDatabase:
    """Where the web UI looks up embeddings.

    Attributes:
        database: the web UI's object.
        model_arguments: what its functions take after the embedding: the model, or nothing in Forge.
    """

    database: Any
    model_arguments: tuple[Any, ...]

    def embedding(self, name: str) -> Any:
        """Returns the registered embedding of this name, None where there is none."""
        return self.database.word_embeddings.get(name)

    def add(self, embedding: Any, name: str) -> bool:
        """Registers an embedding and returns whether it fits the model."""
        if self.database.expected_shape not in (-1, embedding.shape):
            self.database.skipped_embeddings[name] = embedding
            return False
        if self.embedding(name) is None:
            self.database.register_embedding(embedding, *self.model_arguments)
        return True

    def remove(self, embedding: Any, name: str) -> None:
        """Removes an embedding, unless another one has its name by now."""
        if self.embedding(name) is embedding:
            self.database.register_embedding_by_name(None, *self.model_arguments, name)


def embedding_databases(sd_model: Any) -> list[EmbeddingDatabase]:
    """Returns the web UI's database, or in Forge and Neo those of the model's text encoders: SDXL has two."""
    try:
        from modules import sd_hijack  # missing in Neo
    except ImportError:
        own = None
    else:
        own = getattr(sd_hijack.model_hijack, "embedding_db", None)
    if own is not None:
        return [EmbeddingDatabase(own, (sd_model,))]
    engines: list[Any] = [getattr(sd_model, f"text_processing_engine{part}", None) for part in ("", "_l", "_g")]
    return [EmbeddingDatabase(engine.embeddings, ()) for engine in engines if hasattr(engine, "embeddings")]


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

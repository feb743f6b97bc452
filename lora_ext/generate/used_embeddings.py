"""Which embeddings the texts of a picture use."""

from __future__ import annotations

from collections.abc import Sequence

from ..host.standalone.embeddings import EmbeddingTable
from ..host.standalone.loader import StandaloneModel
from ..host.standalone.prompt_encoding import tokenize_prompt
from ..lora_tags import surround_with_spaces


def used_embeddings(model: StandaloneModel, texts: Sequence[str], embeddings: EmbeddingTable) -> dict[str, str]:
    """Returns name → hash of the embeddings that these texts use."""
    parts = [part for text in texts for part in tokenize_prompt(text, model.tokenizer, embeddings)]
    return {embedding.name: embedding.hash() for part in parts for _, embedding, _ in part.embedding_rows}


def warn_beside_punctuation(model: StandaloneModel, texts: Sequence[str], embeddings: EmbeddingTable) -> list[str]:
    """Returns a warning for each embedding whose name touches punctuation, as in `<s1>,`, and is not recognised."""
    used, hint = (
        used_embeddings(model, texts, embeddings),
        "beside punctuation, where it is not found; put spaces around it",
    )
    apart = {
        name: [surround_with_spaces(text, name) for text in texts] for name in embeddings.names if name not in used
    }
    return [
        f"embedding {name!r} stands {hint}"
        for name, changed in apart.items()
        if changed != list(texts) and name in used_embeddings(model, changed, embeddings)
    ]

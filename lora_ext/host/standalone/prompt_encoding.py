"""Encodes prompts as the web UI does: tokens, chunks, emphasis and the text encoder's states.

Chunks of 75 tokens between a start and an end token, `(emphasis:1.2)`, `BREAK`, clip skip, embeddings by name.
Prompt editing (`[from:to:0.5]`) and `AND` are parsed before, by `prompt_editing`.
Nothing of this file needs a host library; an encoder is any module with a CLIP text model's outputs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .embeddings import Embedding, EmbeddingTable, replaced_token_embeddings

CHUNK_TOKENS = 75
"""Tokens of text in a chunk; start and end make 77 (CLIP, Radford et al. 2021: 77 positions)."""
COMMA_BACKTRACK = 20
"""A chunk that fills up is cut after a comma that lies at most this many tokens back."""
ROUND_BRACKET_FACTOR, SQUARE_BRACKET_FACTOR = 1.1, 1 / 1.1
NEGLIGIBLE_MEAN = 1e-3
"""Share of their standard deviation below which the states' mean is rounding noise and nothing is rescaled to it."""

_TOKEN = re.compile(r"\\(?P<escaped>[\\()\[\]])|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|[()\[\]]|[^\\()\[\]:]+|[\\:]")
# blanks are matched from their first one only: a try from each of them would take quadratic time
_BREAK = re.compile(r"(?:(?<!\s)\s+)?\bBREAK\b\s*")
_MARK = re.compile(r"[\\()\[\]]|BREAK")
"""Without these a prompt is one segment."""

EmbeddingVectors = Callable[[Embedding], Tensor]
"""Returns an embedding's vectors (rows, width) for one text encoder."""


class PromptTokenizer(Protocol):
    """What encoding a prompt needs of a tokenizer."""

    @property
    def start_id(self) -> int:
        """Id of the start token."""
        ...

    @property
    def end_id(self) -> int:
        """Id of the end token."""
        ...

    @property
    def comma_id(self) -> int | None:
        """Id of the comma, None where the tokenizer has none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`, without start and end."""
        ...


@dataclass(frozen=True)
class PromptSegment:
    """A part of a prompt with one weight; `text` is None for a BREAK."""

    text: str | None
    weight: float = 1.0


def parse_emphasis(prompt: str) -> list[PromptSegment]:
    r"""Parses emphasis: `(x)` is x·1.1, `[x]` is x/1.1, `(x:1.3)` is x·1.3, nested ones multiply, `\(` is a bracket.

    An open bracket that is never closed reaches to the end, and a stray closing one is text, as in the web UI.
    A BREAK inside brackets is a BREAK (the web UI takes it as a word there).

    Example:
        >>> parse_emphasis("a (cat:1.5)")
        [PromptSegment(text='a ', weight=1.0), PromptSegment(text='cat', weight=1.5)]
    """
    if not _MARK.search(prompt):
        return [PromptSegment(prompt)]
    texts: list[str | None] = []
    weights = np.ones(2 * len(prompt) + 1)  # of the texts; more than there can be
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        weights[opened[kind].pop() : len(texts)] *= factor

    with np.errstate(over="ignore", invalid="ignore"):
        for match in _TOKEN.finditer(prompt):
            text, weight = match[0], _parse_number(match["weight"])
            if text.startswith("\\"):
                texts.append(match["escaped"] or "")
            elif text in opened:
                opened[text].append(len(texts))
            elif weight is not None and opened["("]:
                close("(", weight)
            elif text == ")" and opened["("]:
                close("(", ROUND_BRACKET_FACTOR)
            elif text == "]" and opened["["]:
                close("[", SQUARE_BRACKET_FACTOR)
            elif "BREAK" in text:
                for place, part in enumerate(_BREAK.split(text)):
                    texts.extend([None, part] if place else [part])
            else:
                texts.append(text)
        for kind, factor in (("(", ROUND_BRACKET_FACTOR), ("[", SQUARE_BRACKET_FACTOR)):
            while opened[kind]:
                close(kind, factor)
    return _merge_segments(texts, weights[: len(texts)].tolist())


def _parse_number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # such as 1.2.3: stays text
        return None


def _merge_segments(texts: Sequence[str | None], weights: Sequence[float]) -> list[PromptSegment]:
    """Joins neighbours of the same weight, so that words are not cut before they are tokenised. None is a BREAK."""
    joined: list[PromptSegment] = []
    for (is_break, weight), run in itertools.groupby(
        zip(texts, weights, strict=True), key=lambda pair: (pair[0] is None, pair[0] is None or pair[1])
    ):
        if is_break:
            joined += [PromptSegment(None) for _ in run]
        else:
            joined.append(PromptSegment("".join(text or "" for text, _ in run), float(weight)))
    return joined or [PromptSegment("")]


@dataclass(frozen=True)
class PromptToken:
    """A token id with its weight, or row `row` of an embedding in place of a token."""

    id: int
    weight: float
    embedding: Embedding | None = None
    row: int = 0


@dataclass(frozen=True)
class PromptChunk:
    """The 77 tokens that a text encoder takes at once.

    Attributes:
        tokens: 77 ids: start, 75 of the prompt, end.
        weights: one for each token.
        embedding_rows: (position among the 77, embedding, row) of each vector that replaces a token's.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    embedding_rows: tuple[tuple[int, Embedding, int], ...] = ()

    @classmethod
    def from_tokens(cls, prompt_tokens: Sequence[PromptToken], tokenizer: PromptTokenizer) -> PromptChunk:
        """Makes a chunk of up to 75 tokens and fills it with the end token at weight 1."""
        spare = CHUNK_TOKENS - len(prompt_tokens)
        return cls(
            (tokenizer.start_id, *(token.id for token in prompt_tokens), *[tokenizer.end_id] * spare, tokenizer.end_id),
            (1.0, *(token.weight for token in prompt_tokens), *[1.0] * spare, 1.0),
            tuple((at, t.embedding, t.row) for at, t in enumerate(prompt_tokens, start=1) if t.embedding is not None),
        )


def tokenize_prompt(
    prompt: str, tokenizer: PromptTokenizer, embeddings: EmbeddingTable | None = None
) -> list[PromptChunk]:
    """Splits a prompt into chunks of 75 tokens, as the web UI does.

    A full chunk ends after its last comma where that lies at most `COMMA_BACKTRACK` tokens back.

    Args:
        prompt: the prompt, with emphasis and BREAK.
        tokenizer: gives token ids.
        embeddings: embeddings whose names in the prompt become their vectors; none is cut by the end of a chunk.

    Returns:
        The chunks, at least one.
    """
    done: list[PromptChunk] = []
    now: list[PromptToken] = []
    comma = -1  # place of the last comma in `now`

    def flush(keep: int) -> None:
        nonlocal now, comma
        done.append(PromptChunk.from_tokens(now[:keep], tokenizer))
        now, comma = now[keep:], -1

    for segment in parse_emphasis(prompt):
        if segment.text is None:
            flush(len(now))
            continue
        for unit in _token_groups(tokenizer.encode(segment.text), segment.weight, embeddings):
            if unit[0].id == tokenizer.comma_id and unit[0].embedding is None:
                comma = len(now)
            elif len(now) == CHUNK_TOKENS and comma != -1 and CHUNK_TOKENS - comma <= COMMA_BACKTRACK:
                flush(comma + 1)
            if len(now) + len(unit) > CHUNK_TOKENS:
                flush(len(now))
            now.extend(unit)
    if now or not done:
        flush(len(now))
    return done


def _token_groups(tokens: list[int], weight: float, embeddings: EmbeddingTable | None) -> Iterator[list[PromptToken]]:
    """Yields tokens one by one, and an embedding's rows (75 at most) together in place of its name."""
    place = 0
    while place < len(tokens):
        found = embeddings.find_at(tokens, place) if embeddings else None
        if found is None:
            yield [PromptToken(tokens[place], weight)]
            place += 1
            continue
        embedding, length = found
        rows = embedding.vectors_for(embeddings.widths) if embeddings else None
        yield [PromptToken(0, weight, embedding, row) for row in range(min(len(rows[0]) if rows else 0, CHUNK_TOKENS))]
        place += length


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text model, and which of its states conditions the U-Net.

    Attributes:
        module: transformers' CLIPTextModel, or CLIPTextModelWithProjection where `pooled` is set.
        layer: "final": the last layer's states after the final norm; clip skip takes an earlier layer (SD1).
            "normed": the same without clip skip (SD2, whose encoder is loaded without the layer that it does not use).
            "penultimate": the last layer but one, without the final norm (SDXL).
        pad_id: the id that fills a chunk after the end token: 0 for OpenCLIP, None for the end token again (CLIP-L).
        pooled: whether the end token's projected state is needed (SDXL's second encoder).
    """

    module: Any
    layer: str = "final"
    pad_id: int | None = None
    pooled: bool = False

    def hidden_states(self, tokens: Tensor, clip_skip: int = 1) -> tuple[Tensor, Tensor | None]:
        """Encodes token ids (n, 77).

        Returns:
            States (n, 77, width), and the end tokens' projected states (n, projection) where `pooled` is set.
        """
        model = self.module
        out = model(input_ids=tokens, output_hidden_states=True)
        final = out.last_hidden_state
        state = final
        if self.layer == "penultimate":
            state = out.hidden_states[-2]
        elif self.layer == "final" and clip_skip > 1:
            state = _text_model(model).final_layer_norm(out.hidden_states[-clip_skip])
        if not self.pooled:
            return state, None
        last = final[torch.arange(len(tokens), device=final.device), tokens.argmax(dim=-1).to(final.device)]
        return state, model.text_projection(last)

    def encode_each_prompt(
        self,
        prompts: Sequence[Sequence[PromptChunk]],
        end_id: int,
        clip_skip: int = 1,
        vectors_of: EmbeddingVectors | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encodes prompts of equally many chunks, one chunk of each at a time.

        Each chunk keeps its mean under emphasis (the web UI's "Original" emphasis).

        Args:
            prompts: the chunks of each prompt.
            end_id: the end token's id.
            clip_skip: text-encoder layer, counted from the end; 1 is the last.
            vectors_of: gives an embedding's vectors (rows, width) for this encoder.

        Returns:
            States (prompts, 77·chunks, width), and the first chunks' pooled states (prompts, projection) or None.
        """
        states, pooled = [], None
        for chunks in zip(*prompts, strict=True):
            state, pool = self.encode_chunk_batch(chunks, end_id, clip_skip, vectors_of)
            states.append(state)
            pooled = pool if pooled is None else pooled
        return torch.cat(states, dim=1), pooled

    def encode_chunk_batch(
        self,
        chunks: Sequence[PromptChunk],
        end_id: int,
        clip_skip: int = 1,
        vectors_of: EmbeddingVectors | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encodes chunks as one batch, each with the mean that it has without emphasis.

        Args:
            chunks: n chunks of 77 tokens.
            end_id: the end token's id, after which this encoder's own padding begins.
            clip_skip: 1 for the last layer's states, 2 for the layer before it, and so on.
            vectors_of: gives an embedding's vectors (rows, width) for this encoder.

        Returns:
            States (n, 77, width), and the pooled states (n, projection) where the encoder has them.
        """
        device = next(self.module.parameters()).device
        tokens = torch.tensor([self._padded(chunk, end_id) for chunk in chunks], device=device)
        vectors = (
            {(i, at): vectors_of(e)[row] for i, chunk in enumerate(chunks) for at, e, row in chunk.embedding_rows}
            if vectors_of
            else {}
        )
        with replaced_token_embeddings(self.module, vectors):
            states, pooled = self.hidden_states(tokens, clip_skip)
        weights = torch.tensor([chunk.weights for chunk in chunks])
        if bool((weights != 1).any()):  # asked on the CPU: on a GPU it would wait for the encoder
            states = torch.cat(list(map(apply_emphasis, states.split(1), weights.to(device).split(1))))
        return states, pooled

    def _padded(self, chunk: PromptChunk, end_id: int) -> list[int]:
        """Returns a chunk's token ids, filled after the end as this encoder was trained."""
        tokens = list(chunk.tokens)
        if self.pad_id is not None:
            after = tokens.index(end_id) + 1
            tokens[after:] = [self.pad_id] * (len(tokens) - after)
        return tokens


def encoder_vectors(embeddings: EmbeddingTable | None, encoder: int, embedding: Embedding) -> Tensor:
    """Returns an embedding's vectors (rows, width) for text encoder number `encoder` of the table's model."""
    rows = embedding.vectors_for(embeddings.widths) if embeddings else None
    assert rows is not None, "chunks take only embeddings that fit"
    return rows[encoder]


def _text_model(model: Any) -> Any:
    """Returns the transformer inside the model; newer versions of transformers have no wrapper around it."""
    return getattr(model, "text_model", model)


def apply_emphasis(states: Tensor, weights: Tensor) -> Tensor:
    """Multiplies states (n, 77, width) by weights (n, 77) and rescales them to the mean that they had before.

    Where that mean is almost zero (an encoder with an untrained last norm) they are not rescaled.
    """
    if bool((weights == 1).all()):
        return states
    weighted = states * weights.unsqueeze(-1).to(states.dtype)
    mean, new = states.mean(), weighted.mean()
    if min(mean.abs(), new.abs()) < NEGLIGIBLE_MEAN * states.std():
        return weighted
    return weighted * (mean / new)

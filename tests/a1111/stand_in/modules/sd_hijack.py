"""The text encoder as the web UI wraps it: chunks of 75 tokens, emphasis, and embeddings in the place of words."""

import re
import zlib
from collections import namedtuple
from types import SimpleNamespace

import torch
from tiny_ldm import CLIP, END
from torch import nn

from modules import shared
from modules.textual_inversion import textual_inversion

Fix = namedtuple("Fix", ["offset", "embedding"])
_CHUNK = 75

model_hijack = SimpleNamespace(embedding_db=textual_inversion.EmbeddingDatabase())


class TextEncoder(nn.Module):
    """wrapped: the encoder itself."""

    def __init__(self):
        super().__init__()
        self.wrapped = CLIP()
        self.fixes = []
        self._tokens.register_forward_hook(self._fixed)

    @property
    def _tokens(self):
        return self.wrapped.transformer.text_model.embeddings.token_embedding

    def tokenize(self, texts):
        """A token a word."""
        words = [re.findall(r"[^\s,]+", text.lower()) for text in texts]
        return [[zlib.crc32(word.encode()) % (END - 2) + 1 for word in line] for line in words]

    def tokenize_line(self, line):
        """Chunks of 77 tokens, and how many tokens there are."""
        chunks, count = [_chunk()], 0
        for text, weight in _emphasis(line):
            tokens, place = self.tokenize([text])[0], 0
            while place < len(tokens):
                embedding, length = model_hijack.embedding_db.find(tokens, place)
                added = [0] * embedding.vectors if embedding else tokens[place : place + 1]
                if len(chunks[-1].tokens) + len(added) > _CHUNK:
                    count += _CHUNK - len(chunks[-1].tokens)
                    chunks.append(_chunk())
                if embedding:
                    chunks[-1].fixes.append(Fix(len(chunks[-1].tokens), embedding))
                chunks[-1].tokens += added
                chunks[-1].multipliers += [weight] * len(added)
                place, count = place + length, count + len(added)
        for chunk in chunks:
            chunk.tokens = [END - 1, *chunk.tokens, *[END] * (_CHUNK + 1 - len(chunk.tokens))]
            chunk.multipliers = [1.0, *chunk.multipliers, *[1.0] * (_CHUNK + 1 - len(chunk.multipliers))]
        return chunks, count

    def process_texts(self, texts):
        lines = [self.tokenize_line(text) for text in texts]
        return [chunks for chunks, _ in lines], max(count for _, count in lines)

    def encode_embedding_init_text(self, init_text, nvpt):
        return self._tokens.weight[self.tokenize([init_text])[0][:nvpt]]

    def forward(self, texts):
        """(n, 77 × chunks, width)."""
        lines, _ = self.process_texts(texts)
        most = max(map(len, lines))
        lines = [line + [_filled() for _ in range(most - len(line))] for line in lines]
        return torch.hstack([self._encoded([line[place] for line in lines]) for place in range(most)])

    def _encoded(self, chunks):
        self.fixes = [chunk.fixes for chunk in chunks]
        skip, text_model = shared.opts.CLIP_stop_at_last_layers, self.wrapped.transformer.text_model
        out = text_model(torch.tensor([chunk.tokens for chunk in chunks]), output_hidden_states=True)
        states = out.last_hidden_state if skip == 1 else text_model.final_layer_norm(out.hidden_states[-skip])
        return states * torch.tensor([chunk.multipliers for chunk in chunks])[..., None].to(states)

    def _fixed(self, module, given, rows):
        """The vectors of embeddings in the place of their words."""
        made = []
        for row, fixes in zip(rows, self.fixes, strict=True):
            for offset, embedding in fixes:
                vectors = embedding.vec.to(row)
                row = torch.cat([row[: offset + 1], vectors, row[offset + 1 + len(vectors) :]])
            made.append(row)
        return torch.stack(made) if made else rows


def _chunk():
    return SimpleNamespace(tokens=[], multipliers=[], fixes=[])


def _filled():
    return SimpleNamespace(tokens=[END - 1] + [END] * (_CHUNK + 1), multipliers=[1.0] * (_CHUNK + 2), fixes=[])


def _emphasis(line):
    """`a (red:1.2) cat` → its parts and their weights; the line itself where that is off."""
    if shared.opts.emphasis == "None":
        return [(line, 1.0)]
    parts = re.split(r"\(([^()]*):([\d.]+)\)", line)
    return [(parts[0], 1.0)] + [
        pair for i in range(1, len(parts), 3) for pair in ((parts[i], float(parts[i + 1])), (parts[i + 2], 1.0))
    ]

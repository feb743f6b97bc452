"""`CaptionEncoder`: captions → text-encoder outputs, kept in memory and on disk where no gradient is needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ...protocols import TextConditioning, TrainableModel
from ..config.recipe import Recipe
from ..data.content_cache import TensorCache, content_key

CAPTION_CACHE_BYTES = 2**29
"""Bytes of text-encoder outputs kept in memory: about 2,200 captions of SD1 (77·768 float32 each)."""


class CaptionEncoder:
    """Encodes captions as a recipe asks for it.

    Without gradients each caption is encoded once and kept; the least recently used ones are dropped first.

    Args:
        model: The model whose text encoders are used.
        recipe: Its `clip_skip`, `max_token_length` and `weighted_captions` are used.
        with_gradients: Whether gradients flow to the text encoders; nothing is kept then.
    """

    def __init__(self, model: TrainableModel, recipe: Recipe, *, with_gradients: bool) -> None:
        self.model, self.recipe, self.with_gradients = model, recipe, with_gradients
        self._outputs: OrderedDict[str, TextConditioning] = OrderedDict()
        self._bytes = 0
        self._disk_cache: TensorCache | None = None
        self._key_parts: tuple[object, ...] = ()

    def cache_on_disk(self, store: TensorCache, *key_parts: object) -> None:
        """Keeps outputs in `store` too; `key_parts` are all that they depend on besides the caption."""
        self._disk_cache, self._key_parts = store, key_parts

    def __call__(self, captions: Sequence[str]) -> TextConditioning:
        """Encodes n captions: states (n, 77·chunks, width), padded to the longest caption's chunks."""
        if self.with_gradients:
            return self._encode(captions)
        with torch.no_grad():
            for caption in dict.fromkeys(captions):
                if caption not in self._outputs:
                    self._keep(caption, self._load_or_encode(caption))
        found = [self._outputs[caption] for caption in captions]
        for caption in captions:
            self._outputs.move_to_end(caption)
        longest = max(output.states.shape[1] for output in found)
        states = torch.cat([self._padded(output.states, longest) for output in found])
        pooled = [output.pooled for output in found if output.pooled is not None]
        while self._bytes > CAPTION_CACHE_BYTES and len(self._outputs) > len(found):
            self._bytes -= self._outputs.popitem(last=False)[1].states.nbytes
        return TextConditioning(states, torch.cat(pooled) if pooled else None)

    def _encode(self, captions: Sequence[str]) -> TextConditioning:
        recipe = self.recipe
        return self.model.encode_text(
            captions,
            clip_skip=recipe.clip_skip or 1,
            max_token_length=recipe.max_token_length,
            weighted=recipe.weighted_captions,
        )

    def _load_or_encode(self, caption: str) -> TextConditioning:
        """A caption's output, from disk where it is there."""
        key = content_key("caption", *self._key_parts, caption)
        stored = self._disk_cache.get(key) if self._disk_cache is not None else None
        if stored is not None:
            device = self.model.device
            pooled = stored.get("pooled")
            return TextConditioning(stored["states"].to(device), None if pooled is None else pooled.to(device))
        output = self._encode([caption])
        if self._disk_cache is not None:
            found = {"states": output.states, "pooled": output.pooled}
            self._disk_cache.add(key, {name: tensor for name, tensor in found.items() if tensor is not None})
        return output

    def _keep(self, caption: str, output: TextConditioning) -> None:
        self._outputs[caption] = output
        self._bytes += output.states.nbytes

    def _padded(self, states: Tensor, length: int) -> Tensor:
        """States followed by empty chunks, as the text encoder returns them for a shorter caption in a batch."""
        missing = length - states.shape[1]
        if not missing:
            return states
        if "" not in self._outputs:
            with torch.no_grad():
                self._keep("", self._encode([""]))
        blank = self._outputs[""].states
        return torch.cat([states, *[blank] * (missing // blank.shape[1])], dim=1)

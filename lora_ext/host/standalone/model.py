"""A model in memory, and any diffusers pipeline, as a `ports.Model`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import FileError
from ...layer_names import TE, TE2, UNET
from ...protocols import Model
from ..native_size import native_side
from .embeddings import Embedding, Embeddings
from .noise_schedule import Levels
from .prompt_encoding import Encoder, Vocabulary


@dataclass(frozen=True, eq=False)
class Standalone:
    """A Stable Diffusion model in memory: made once, used for many pictures. It is a `ports.Model`.

    unet, vae: diffusers' UNet2DConditionModel and AutoencoderKL. texts: the text encoders, te then te2.
    levels: the noise levels. prediction: what the U-Net gives, "epsilon" or "v". scale: latents = scale · encoded.
    """

    family: str
    unet: Any
    vae: Any
    texts: tuple[Encoder, ...]
    words: Vocabulary
    levels: Levels
    prediction: str
    scale: float
    path: Path | None = None

    def parts(self) -> Mapping[str, nn.Module]:
        """Part → network, for injection."""
        names = (TE, TE2)[: len(self.texts)]
        return {UNET: self.unet, **{name: encoder.module for name, encoder in zip(names, self.texts, strict=True)}}

    def embeddings(self, found: Iterable[Embedding]) -> Embeddings:
        """Embeddings by the token ids that their names have here; of two with one name the first is used."""
        return Embeddings(self.words.encode, [encoder.module.config.hidden_size for encoder in self.texts], found)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(iter(self.unet.parameters())).device

    @property
    def native_side(self) -> int:
        """Pixels a side that the model was made for."""
        latent = getattr(self.unet.config, "sample_size", None)
        latent = max(latent) if isinstance(latent, (list, tuple)) else latent
        return native_side(self.family, self.prediction, latent)

    @property
    def inpainting(self) -> bool:
        """Whether the U-Net also takes a mask and the masked picture (9 channels)."""
        return bool(self.unet.config.in_channels == 9)

    @property
    def name(self) -> str:
        """The checkpoint's name as the infotext gives it."""
        return self.path.stem if self.path else ""

    @cached_property
    def sha256(self) -> str | None:
        """64 hex digits of the checkpoint file, None for a folder; computed when first asked for."""
        if self.path is None or not self.path.is_file():
            return None
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()


class PipelineModel:
    """A diffusers pipeline as a `ports.Model`."""

    def __init__(self, pipe: Any) -> None:
        found = {UNET: "unet", TE: "text_encoder", TE2: "text_encoder_2"}
        networks = ((part, getattr(pipe, name, None)) for part, name in found.items())
        self._parts: dict[str, nn.Module] = {part: net for part, net in networks if isinstance(net, nn.Module)}
        if UNET not in self._parts:
            raise FileError(f"a {type(pipe).__name__} has no `unet` to put a LoRA on")

    def parts(self) -> Mapping[str, nn.Module]:
        """Part → network, for injection."""
        return self._parts


def model_of(pipe: Any) -> Model:
    """The networks of a diffusers pipeline, or of anything that names them so; a Model as it is."""
    return pipe if hasattr(pipe, "parts") else PipelineModel(pipe)


def check_words(words: Vocabulary, texts: tuple[Encoder, ...]) -> None:
    """Raises FileError if the tokenizer has ids that a text encoder has no embedding for."""
    for encoder in texts:
        rows = encoder.module.config.vocab_size
        largest = getattr(words, "size", words.end + 1)
        if largest > rows:
            raise FileError(f"the tokenizer has {largest} tokens, the text encoder {rows}: they do not belong together")

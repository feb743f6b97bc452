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
from ...protocols import HookableModel
from ..native_size import native_size_for
from .embeddings import Embedding, EmbeddingTable
from .noise_schedule import NoiseSchedule
from .prompt_encoding import PromptTokenizer, TextEncoder


@dataclass(frozen=True, eq=False)
class StandaloneModel:
    """A Stable Diffusion model in memory: made once, used for many pictures. It is a `ports.Model`.

    unet, vae: diffusers' UNet2DConditionModel and AutoencoderKL. texts: the text encoders, te then te2.
    noise_schedule: the noise levels. prediction: what the U-Net gives, "epsilon" or "v".
    scale: latents = scale · encoded.
    """

    family: str
    unet: Any
    vae: Any
    text_encoders: tuple[TextEncoder, ...]
    tokenizer: PromptTokenizer
    noise_schedule: NoiseSchedule
    prediction: str
    scaling_factor: float
    path: Path | None = None

    def parts(self) -> Mapping[str, nn.Module]:
        """Part → network, for injection."""
        names = (TE, TE2)[: len(self.text_encoders)]
        return {
            UNET: self.unet,
            **{name: encoder.module for name, encoder in zip(names, self.text_encoders, strict=True)},
        }

    def embedding_table(self, found: Iterable[Embedding]) -> EmbeddingTable:
        """Embeddings by the token ids that their names have here; of two with one name the first is used."""
        return EmbeddingTable(
            self.tokenizer.encode, [encoder.module.config.hidden_size for encoder in self.text_encoders], found
        )

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(iter(self.unet.parameters())).device

    @property
    def native_size(self) -> int:
        """Pixels a side that the model was made for."""
        latent = getattr(self.unet.config, "sample_size", None)
        latent = max(latent) if isinstance(latent, (list, tuple)) else latent
        return native_size_for(self.family, self.prediction, latent)

    @property
    def is_inpainting(self) -> bool:
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


def hookable_model_of(pipe: Any) -> HookableModel:
    """The networks of a diffusers pipeline, or of anything that names them so; a Model as it is."""
    return pipe if hasattr(pipe, "parts") else PipelineModel(pipe)


def check_tokenizer(tokenizer: PromptTokenizer, text_encoders: tuple[TextEncoder, ...]) -> None:
    """Raises FileError if the tokenizer has ids that a text encoder has no embedding for."""
    for encoder in text_encoders:
        rows = encoder.module.config.vocab_size
        largest = getattr(tokenizer, "size", tokenizer.end_id + 1)
        if largest > rows:
            raise FileError(f"the tokenizer has {largest} tokens, the text encoder {rows}: they do not belong together")

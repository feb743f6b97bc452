"""A model in memory, and any diffusers pipeline, as a `protocols.HookableModel`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import FileError
from ...file.hashes import whole_file_hash
from ...layer_names import TE, TE2, UNET
from ...protocols import HookableModel
from ..native_size import native_size_for
from .embeddings import Embedding, EmbeddingTable
from .noise_schedule import NoiseSchedule
from .prompt_encoding import PromptTokenizer, TextEncoder


@dataclass(frozen=True, eq=False)
class StandaloneModel:
    """A Stable Diffusion model in memory, which `loader.load_model` loads; a `protocols.HookableModel`.

    Attributes:
        family: "SD1", "SD2" or "SDXL".
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL.
        text_encoders: one for SD1 and SD2; CLIP-L and OpenCLIP bigG, in this order, for SDXL.
        tokenizer: CLIP's tokenizer, which all text encoders share.
        noise_schedule: the 1000 noise levels that the model was trained with.
        prediction: what the U-Net predicts, "epsilon" or "v".
        scaling_factor: what encoded images are multiplied by to give latents.
        path: the file or folder that the model was loaded from.
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
        """Returns "unet", "te" and "te2" → network."""
        names = (TE, TE2)[: len(self.text_encoders)]
        return {
            UNET: self.unet,
            **{name: encoder.module for name, encoder in zip(names, self.text_encoders, strict=True)},
        }

    def embedding_table(self, found: Iterable[Embedding]) -> EmbeddingTable:
        """Returns embeddings by the token ids of their names; of two with one name the first is used."""
        return EmbeddingTable(
            self.tokenizer.encode, [encoder.module.config.hidden_size for encoder in self.text_encoders], found
        )

    @property
    def device(self) -> torch.device:
        """The device that holds the networks."""
        return next(iter(self.unet.parameters())).device

    @property
    def native_size(self) -> int:
        """Width and height in pixels that the model was trained for."""
        latent = getattr(self.unet.config, "sample_size", None)
        latent = max(latent) if isinstance(latent, (list, tuple)) else latent
        return native_size_for(self.family, self.prediction, latent)

    @property
    def is_inpainting(self) -> bool:
        """Whether the U-Net also takes a mask and the masked image (9 input channels)."""
        return bool(self.unet.config.in_channels == 9)

    @property
    def name(self) -> str:
        """The checkpoint's name as the infotext gives it."""
        return self.path.stem if self.path else ""

    @cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the checkpoint file as 64 hex digits, None for a folder. Computed when it is first needed."""
        if self.path is None or not self.path.is_file():
            return None
        return whole_file_hash(self.path)


class PipelineModel:
    """A diffusers pipeline as a `protocols.HookableModel`.

    Raises:
        FileError: the pipeline has no `unet`.
    """

    def __init__(self, pipe: Any) -> None:
        found = {UNET: "unet", TE: "text_encoder", TE2: "text_encoder_2"}
        networks = ((part, getattr(pipe, name, None)) for part, name in found.items())
        self._parts: dict[str, nn.Module] = {part: net for part, net in networks if isinstance(net, nn.Module)}
        if UNET not in self._parts:
            raise FileError(f"a {type(pipe).__name__} has no `unet` to apply a LoRA to")

    def parts(self) -> Mapping[str, nn.Module]:
        """Returns "unet", "te" and "te2" → network."""
        return self._parts


def hookable_model_of(pipe: Any) -> HookableModel:
    """Returns a diffusers pipeline, or an object with the same attributes, as a `protocols.HookableModel`.

    An object that has `parts()` already is returned as it is.

    Raises:
        FileError: the object has neither `parts()` nor a `unet`.
    """
    return pipe if hasattr(pipe, "parts") else PipelineModel(pipe)


def check_tokenizer(tokenizer: PromptTokenizer, text_encoders: tuple[TextEncoder, ...]) -> None:
    """Raises FileError if the tokenizer has ids that a text encoder has no embedding for."""
    for encoder in text_encoders:
        rows = encoder.module.config.vocab_size
        largest = getattr(tokenizer, "size", tokenizer.end_id + 1)
        if largest > rows:
            raise FileError(
                f"the tokenizer has {largest} tokens, the text encoder {rows}; give the tokenizer of this model"
            )

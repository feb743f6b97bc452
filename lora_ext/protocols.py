"""What the lower floors ask of a host, as Protocols: a model to hook, one to train, and a shell to talk through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

VAE_SCALE_FACTOR = 8
"""Pixels per side of one latent cell in the autoencoders of SD1, SD2 and SDXL (diffusers' `vae_scale_factor`)."""


class HookableModel(Protocol):
    """A network to hook and train."""

    def parts(self) -> Mapping[str, nn.Module]:
        """Part ("unet", "te", "te2") → the module whose dotted names `layer_names.find_layer_id` understands."""
        ...


class HostInterface(Protocol):
    """Paths, options, progress and cancelling, as the face in charge offers them."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """Folders that hold LoRA files, searched recursively, first match wins."""
        ...

    def option(self, name: str) -> object:
        """The user's value of a setting of ours."""
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """Show how far the work is."""
        ...

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        ...

    def notify(self, text: str) -> None:
        """Tell the user something (a warning, a Fit report)."""
        ...


@dataclass(frozen=True)
class UserFolders:
    """The folders that a user has set up. save: where new LoRA files go; the others may be several, first match wins.

    data: what is kept between starts (presets, indexes, history). fixed: folders whose files are never changed.
    optional: those of `loras` that nobody named, and that need not exist.
    """

    loras: tuple[Path, ...]
    save: Path
    checkpoints: tuple[Path, ...]
    datasets: tuple[Path, ...]
    outputs: Path
    data: Path
    read_only: tuple[Path, ...] = ()
    optional: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TextConditioning:
    """What captions tell the U-Net: states (n, 77·chunks, width); SDXL: pooled (n, width) too."""

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class TrainingModelOptions:
    """How a training run wants to use a model.

    precision: "no" (float32), "fp16" or "bf16". unet, text: which parts learn. attention: "", "sdpa" or "xformers".
    compile_unet: `predict` by a compiled U-Net. word: a new word is learned. full_vae: the autoencoder in float32.
    """

    precision: str = "no"
    train_unet: bool = True
    train_text_encoders: bool = True
    gradient_checkpointing: bool = False
    attention: str = ""
    compile_unet: bool = False
    train_token_embedding: bool = False
    float32_vae: bool = False


@dataclass(frozen=True)
class SampleSpec:
    """A picture to draw during training; names in kohya's prompt files: --n --w --h --d --s --l. seed None: drawn."""

    prompt: str
    negative: str = ""
    width: int = 512
    height: int = 512
    seed: int | None = None
    steps: int = 20
    cfg: float = 7.5
    sampler: str = "ddim"


class TrainableModel(HookableModel, Protocol):
    """A model that a training run uses for a while.

    Between runs it is as it was; `prepared_for_training` is the only way to begin one.
    """

    @property
    def family(self) -> str:
        """Base model: "SD1", "SD2" or "SDXL"."""
        ...

    @property
    def prediction(self) -> str:
        """What the U-Net gives: "epsilon" or "v"."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ of the model's noise levels, (1000,) float32 on the CPU."""
        ...

    @property
    def native_size(self) -> int:
        """Pixels a side that the model was made for."""
        ...

    def prepared_for_training(self, options: TrainingModelOptions) -> AbstractContextManager[None]:
        """Inside: frozen, ready for gradients and in the precision wished for. Afterwards, also after an exception,
        everything is as it was: Parameter objects, values, dtypes, devices, hooks, flags. Raises TrainError.
        """
        ...

    def is_stop_requested(self) -> bool:
        """Whether the host was asked to stop what it does, by a button of its own."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in −1..1 → scaled latents (n, 4, h/8, w/8), float32 on `device`; without gradients."""
        ...

    def encode_text(
        self, captions: Sequence[str], *, clip_skip: int = 1, max_token_length: int = 75, weighted: bool = False
    ) -> TextConditioning:
        """Captions → states. Gradients flow where they are enabled. What is longer than `max_token_length` tokens is
        cut off; weighted: `(word:1.2)` is emphasis, else brackets are letters.
        """
        ...

    def token_count(self, caption: str) -> int:
        """Places that a caption takes, without start and end; a chunk of 75 that another follows counts as full, also
        where it was cut after a comma. What is above `max_token_length` is cut off.
        """
        ...

    def predict(
        self, noisy: Tensor, timesteps: Tensor, context: TextConditioning, sizes: Tensor | None = None
    ) -> Tensor:
        """The U-Net's output for noisy latents (n, 4, h, w) at timesteps (n,), float32.

        sizes (n, 6), for SDXL: original height and width, crop's top and left, target height and width.
        """
        ...

    def generate_image(self, spec: SampleSpec) -> Image.Image:
        """A picture of the model as it is now, with whatever hooks are on it."""
        ...

    def check_sample(self, spec: SampleSpec) -> None:
        """Raises LoraError for a picture that `sample` could not draw: a sampler that is not there."""
        ...

    def token_embeddings(self, text: str, count: int) -> tuple[Tensor, ...]:
        """The text encoders' own vectors of a text's first `count` tokens (the last one repeated where there are
        fewer): one (count, width) float32 for each text encoder. Raises TrainError for a text without a token.
        """
        ...

    def count_token_uses(self, token: str, caption: str, max_token_length: int) -> int:
        """How often a word of `new_word` is read in a caption, which is cut off after `max_token_length` tokens."""
        ...

    def with_token_embedding(self, token: str, vectors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Inside, `token` in captions and sample prompts stands for these vectors, (count, width) for each text
        encoder; gradients reach them.
        """
        ...

    def metadata(self) -> Mapping[str, str]:
        """The base model in kohya's words: ss_sd_model_name, ss_sd_model_hash, ss_new_sd_model_hash, ss_v2 …"""
        ...

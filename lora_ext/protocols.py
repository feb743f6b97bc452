"""Protocols for what the lower layers need of a host: a model to hook, a model to train, and messages to the user."""

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
    """What a program around the tools offers: folders, options, progress, cancelling and messages."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """Returns the folders of LoRA files, which are searched recursively."""
        ...

    def option(self, name: str) -> object:
        """Returns the user's value of a setting of this extension.

        Args:
            name: the setting's name.

        Returns:
            The value, of the type that the setting has.
        """
        ...

    def progress(self, done: int, total: int, text: str) -> None:
        """Shows how far the work is.

        Args:
            done: how much is done.
            total: how much there is to do.
            text: what is done now.
        """
        ...

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        ...

    def notify(self, text: str) -> None:
        """Shows a message to the user, such as a warning or a fit report.

        Args:
            text: the message.
        """
        ...


@dataclass(frozen=True)
class UserFolders:
    """The folders that a user has set up.

    Attributes:
        loras: folders of LoRA files.
        save: where new LoRA files are saved.
        checkpoints: folders of checkpoints.
        datasets: folders of training images.
        outputs: where images and sheets are saved.
        data: what is kept between starts (presets, indexes, history).
        read_only: folders whose files are never changed.
        optional: those of `loras` that need not exist, such as a program's own default.
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
class TagInsertion:
    """How a tag is put into a prompt, by the user's settings.

    Attributes:
        separator: what stands before a tag at the end of a prompt.
        weight: the weight of a file that has no preferred one.
        prefers_alias: whether a file is called by the name in its metadata rather than by its file name.
    """

    separator: str = " "
    weight: float = 1.0
    prefers_alias: bool = False


@dataclass(frozen=True)
class TextConditioning:
    """The output of the text encoders, which conditions the U-Net.

    Attributes:
        states (Tensor): (n, 77·chunks, width).
        pooled (Tensor | None): (n, width) for SDXL.
    """

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True)
class TrainingModelOptions:
    """How a training run uses a model.

    Attributes:
        precision: "no" (float32), "fp16" or "bf16".
        train_unet: whether the U-Net is trained.
        train_text_encoders: whether the text encoders are trained.
        gradient_checkpointing: whether activations are computed again in the backward pass, to save memory.
        attention: "" (the model's own), "sdpa" or "xformers".
        compile_unet: whether `predict` uses a compiled U-Net.
        train_token_embedding: whether a token embedding is trained (textual inversion).
        float32_vae: whether the autoencoder computes in float32.
        fp8_unet: whether the frozen U-Net is stored in 8 bits.
        fp8_text_encoders: whether the frozen text encoders are, too.
        vae: file or folder of an autoencoder that takes the place of the model's own; None for its own.
        blocks_to_swap: how many of the U-Net's blocks wait in main memory while they do not compute.
    """

    precision: str = "no"
    train_unet: bool = True
    train_text_encoders: bool = True
    gradient_checkpointing: bool = False
    attention: str = ""
    compile_unet: bool = False
    train_token_embedding: bool = False
    float32_vae: bool = False
    fp8_unet: bool = False
    fp8_text_encoders: bool = False
    vae: Path | None = None
    blocks_to_swap: int = 0


@dataclass(frozen=True)
class SampleSpec:
    """An image to generate during training. kohya's prompt lines name the fields --n --w --h --d --s --l --ss.

    Attributes:
        prompt: the prompt.
        negative: the negative prompt.
        width: pixels.
        height: pixels.
        seed: seed of the noise; None draws one.
        steps: sampling steps.
        cfg: guidance scale.
        sampler: name of the sampler.
    """

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
        """Prepares the model inside a `with` block: parameters frozen, gradients possible, in the requested precision.

        Afterwards, also after an exception, everything is restored: Parameter objects, values, dtypes, devices, hooks
        and flags.

        Args:
            options: how the run uses the model.

        Returns:
            The context manager.

        Raises:
            TrainError: the model or this machine cannot do what the options ask for.
        """
        ...

    def is_stop_requested(self) -> bool:
        """Whether the user asked the host to stop, by a button of the host's own."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encodes images to latents, without gradients.

        Args:
            pixels (Tensor): (n, 3, h, w) in −1..1.

        Returns:
            Tensor (n, 4, h/8, w/8), scaled latents, float32 on `device`.
        """
        ...

    def encode_text(
        self, captions: Sequence[str], *, clip_skip: int = 1, max_token_length: int = 75, weighted: bool = False
    ) -> TextConditioning:
        """Encodes captions. Gradients flow where they are enabled.

        Args:
            captions: n captions.
            clip_skip: the text encoder's layer to use, counted from the end.
            max_token_length: tokens beyond this number are cut off.
            weighted: whether `(word:1.2)` is emphasis; otherwise brackets are text.

        Returns:
            The conditioning of the n captions.
        """
        ...

    def token_count(self, caption: str) -> int:
        """Counts the tokens of a caption, without start and end.

        A chunk of 75 tokens that another one follows counts as full, also where it was cut after a comma.

        Args:
            caption: one caption.

        Returns:
            The number; what is above `max_token_length` would be cut off.
        """
        ...

    def predict(
        self, noisy: Tensor, timesteps: Tensor, context: TextConditioning, sizes: Tensor | None = None
    ) -> Tensor:
        """Computes the U-Net's output for noisy latents.

        Args:
            noisy (Tensor): (n, 4, h, w).
            timesteps (Tensor): (n,).
            context: the conditioning.
            sizes (Tensor | None): (n, 6) for SDXL: original height and width, top and left of the crop, target height
                and width, in pixels.

        Returns:
            Tensor (n, 4, h, w), float32.
        """
        ...

    def generate_image(self, spec: SampleSpec) -> Image.Image:
        """Generates an image with the model as it is now, including its hooks.

        Args:
            spec: the image to generate.

        Returns:
            The image.
        """
        ...

    def check_sample(self, spec: SampleSpec) -> None:
        """Checks that an image can be generated.

        Args:
            spec: the image to generate.

        Raises:
            LoraError: the host cannot generate it, because it has no sampler of this name.
        """
        ...

    def token_embeddings(self, text: str, count: int) -> tuple[Tensor, ...]:
        """Returns the text encoders' embeddings of the first tokens of a text.

        Args:
            text: the text.
            count: number of tokens; the last one is repeated where there are fewer.

        Returns:
            One tensor (count, width), float32, for each text encoder.

        Raises:
            TrainError: the text has no token.
        """
        ...

    def count_token_uses(self, token: str, caption: str, max_token_length: int) -> int:
        """Counts how often a caption has the token of `with_token_embedding`.

        Args:
            token: the token.
            caption: one caption.
            max_token_length: tokens beyond this number are cut off.

        Returns:
            How often the token is in what remains.
        """
        ...

    def with_token_embedding(self, token: str, vectors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Gives a token an embedding in captions and sample prompts, inside a `with` block. Gradients reach it.

        Args:
            token: the token.
            vectors: one tensor (count, width) for each text encoder.

        Returns:
            The context manager.
        """
        ...

    def metadata(self) -> Mapping[str, str]:
        """The base model in kohya's metadata keys: ss_sd_model_name, ss_sd_model_hash, ss_new_sd_model_hash, ss_v2 …"""
        ...

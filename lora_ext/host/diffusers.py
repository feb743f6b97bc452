"""The standalone host: checkpoints and diffusers folders as networks in memory, and any pipeline as a `ports.Model`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..address import TE, TE2, UNET
from ..errors import FileError, did_you_mean
from ..file.containers import read_tensors
from . import tokens
from .checkpoint import EPS, SDXL, Architecture, Hints, TextShape, V, modern_key, read_yaml, recognise
from .schedule import Levels, scaled_linear, zero_terminal
from .text import Encoder, Vocabulary

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(iter(self.unet.parameters())).device

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


def model_of(pipe: Any) -> PipelineModel:
    """The networks of a diffusers pipeline, or of anything with `unet`, `text_encoder`, `text_encoder_2`."""
    return PipelineModel(pipe)


def best_device() -> str:
    """ "cuda", "mps" or "cpu", the first that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load(
    path: str | Path,
    *,
    tokenizer: str | Path | Vocabulary | None = None,
    device: str | None = None,
    precision: str = "fp32",
    prediction: str | None = None,
    config: str | Path | None = None,
    text_config: Mapping[str, Any] | None = None,
) -> Standalone:
    """A model from an LDM checkpoint (.safetensors, .ckpt) or a diffusers folder. Nothing is downloaded.

    tokenizer: a folder, or a ready vocabulary; without it the places that `tokens.find` knows. config: the LDM yaml,
    else the one beside the file. text_config: a CLIPTextConfig's entries (heads, activation) where shapes cannot tell.
    prediction: "epsilon" or "v", where the file does not say. Raises FileError.
    """
    path = Path(path)
    if precision not in PRECISIONS:
        raise FileError(f"unknown precision {precision!r}{did_you_mean(precision, PRECISIONS)}")
    if prediction not in (None, EPS, V):
        raise FileError(f"unknown prediction {prediction!r}{did_you_mean(prediction or '', (EPS, V))}")
    if not path.exists():
        raise FileError(f"{path} is not there")
    chosen = Path(tokenizer) if isinstance(tokenizer, str | Path) else None
    words = tokens.find(path, chosen) if chosen or tokenizer is None else tokenizer
    assert not isinstance(words, str | Path)
    target = torch.device(device or best_device())
    if path.is_dir():
        from .folder import read_folder

        return read_folder(path, words, target, PRECISIONS[precision], prediction)
    yaml = Path(config) if config else path.with_suffix(".yaml")
    told = tokens.text_configs(path, chosen)
    hints = Hints(
        yaml=read_yaml(yaml) if config or yaml.is_file() else {},
        texts=(text_config, *told[1:]) if text_config else told,
        prediction=prediction,
    )
    return _load_file(path, hints, words, target, PRECISIONS[precision])


def _load_file(path: Path, hints: Hints, words: Vocabulary, device: torch.device, dtype: torch.dtype) -> Standalone:
    state = read_tensors(path).tensors
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    state = {modern_key(key, shapes): tensor for key, tensor in state.items()}
    try:
        what = recognise({key: tuple(tensor.shape) for key, tensor in state.items()}, hints)
        return build(what, state, words, device, dtype, path)
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def build(
    what: Architecture,
    state: dict[str, Tensor],
    words: Vocabulary,
    device: torch.device,
    dtype: torch.dtype,
    path: Path | None = None,
) -> Standalone:
    """The networks of an architecture, filled from a checkpoint's tensors. Raises FileError naming missing ones."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet_config = {"class_embed_type": None, "addition_embed_type": None, **what.unet}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**what.unet)
        vae = AutoencoderKL(**what.vae)
    unet_state = convert_ldm_unet_checkpoint({k: v for k, v in state.items() if k.startswith("model.")}, unet_config)
    vae_state = {key: tensor for key, tensor in state.items() if key.startswith("first_stage_model.")}
    fill(unet, unet_state, "U-Net", device, dtype)
    fill(vae, convert_ldm_vae_checkpoint(vae_state, what.vae), "autoencoder", device, dtype)
    texts = tuple(_encoder(shape, state, device, dtype) for shape in what.texts)
    check_words(words, texts)
    alphas = state.get("alphas_cumprod")
    alphas = scaled_linear(*what.betas) if alphas is None else alphas.float().cpu()
    levels = Levels(zero_terminal(alphas) if what.zero_terminal else alphas)
    prediction = what.prediction or (V if predicts_v(unet) else EPS)
    return Standalone(what.family, unet, vae, texts, words, levels, prediction, what.scale, path)


def _encoder(shape: TextShape, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Encoder:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        kind = CLIPTextModelWithProjection if shape.pooled else CLIPTextModel
        module = kind(CLIPTextConfig(**shape.config))
    own = {key: tensor for key, tensor in state.items() if key.startswith(shape.prefix)}
    if shape.open_clip:
        converted = convert_open_clip_checkpoint(module, own, prefix=shape.prefix)
    else:
        converted = convert_ldm_clip_checkpoint(own)
    fill(module, converted, "text encoder", device, dtype)
    return Encoder(module, shape.layer, shape.pad, shape.pooled)


def fill(module: nn.Module, state: Mapping[str, Tensor], what: str, device: torch.device, dtype: torch.dtype) -> None:
    """Puts tensors into a network that was made without memory, and makes it ready: frozen, in evaluation.

    Raises FileError when tensors are missing or have another shape; surplus ones are left out.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    if missing:
        raise FileError(f"its {what} lacks {len(missing)} of {len(wanted)} tensors, such as {missing[0]}")
    wrong = [key for key, tensor in wanted.items() if state[key].shape != tensor.shape]
    if wrong:
        has, needs = tuple(state[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        raise FileError(f"its {what} has {wrong[0]} of shape {has} where {needs} belongs")
    ready = {key: state[key].detach().to(device=device, dtype=dtype) for key in wanted}
    module.load_state_dict(ready, assign=True)
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:  # CLIP's position_ids, the only buffer that no file needs to hold
                setattr(owner, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape).clone())
    module.requires_grad_(False).eval()


def check_words(words: Vocabulary, texts: tuple[Encoder, ...]) -> None:
    """Raises FileError if the tokenizer has ids that a text encoder has no embedding for."""
    for encoder in texts:
        rows = encoder.module.config.vocab_size
        largest = getattr(words, "size", words.end + 1)
        if largest > rows:
            raise FileError(f"the tokenizer has {largest} tokens, the text encoder {rows}: they do not belong together")


@torch.no_grad()
def predicts_v(unet: Any) -> bool:
    """Whether an SD2 U-Net gives v rather than noise, by the web UI's test: at the last step noise comes back nearly
    as it went in, v goes far below."""
    parameter = next(unet.parameters())
    x = torch.full((1, unet.config.in_channels, 8, 8), 0.5, device=parameter.device, dtype=parameter.dtype)
    context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, device=x.device, dtype=x.dtype)
    out = unet(x, torch.tensor([999], device=x.device), encoder_hidden_states=context).sample
    return bool((out - x).mean() < -1)


def scheduler_config(folder: Path) -> Mapping[str, Any]:
    """A diffusers folder's noise schedule, {} without one."""
    file = folder / "scheduler" / "scheduler_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise FileError(f"{file} cannot be read: {error}") from error
    return content if isinstance(content, Mapping) else {}


__all__ = ["SDXL", "PipelineModel", "Standalone", "best_device", "build", "load", "model_of"]

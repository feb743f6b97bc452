"""LDM checkpoints (`.safetensors`, `.ckpt`) as a `Standalone`, by diffusers' own converters of names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FileError
from ...file.containers import read_tensors
from ..checkpoint_layout import EPS, VAE, Architecture, Hints, TextShape, V, modern_key, recognise
from ..checkpoint_layout import UNET as UNET_PREFIX
from .model import Standalone, check_words
from .noise_schedule import Levels, scaled_linear, zero_terminal
from .prompt_encoding import Encoder, Vocabulary


def read_checkpoint(
    path: Path, hints: Hints, words: Vocabulary, device: torch.device, dtype: torch.dtype
) -> Standalone:
    """A checkpoint file's networks. Raises FileError that names the file."""
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
    unet_state = convert_ldm_unet_checkpoint({k: v for k, v in state.items() if k.startswith(UNET_PREFIX)}, unet_config)
    vae_state = {key: tensor for key, tensor in state.items() if key.startswith(VAE)}
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


def fill(module: Any, state: Mapping[str, Tensor], what: str, device: torch.device, dtype: torch.dtype) -> None:
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


@torch.no_grad()
def predicts_v(unet: Any) -> bool:
    """Whether an SD2 U-Net gives v rather than noise, by the web UI's test: at the last step noise comes back nearly
    as it went in, v goes far below."""
    parameter = next(unet.parameters())
    x = torch.full((1, unet.config.in_channels, 8, 8), 0.5, device=parameter.device, dtype=parameter.dtype)
    context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, device=x.device, dtype=x.dtype)
    out = unet(x, torch.tensor([999], device=x.device), encoder_hidden_states=context).sample
    return bool((out - x).mean() < -1)

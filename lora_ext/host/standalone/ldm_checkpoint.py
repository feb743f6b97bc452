"""Loads LDM checkpoints (`.safetensors`, `.ckpt`) as a `StandaloneModel`; diffusers' converters translate the names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import FileError
from ...file.containers import load_tensors
from ...ldm_keys import LDM_UNET_PREFIX, LDM_VAE_PREFIX
from ...zero_terminal_snr import rescale_zero_terminal_snr
from ..checkpoint_layout import (
    EPSILON_PREDICTION,
    V_PREDICTION,
    CheckpointLayout,
    TextEncoderLayout,
    detect_checkpoint_layout,
    modern_key,
)
from ..ldm_config import CheckpointHints
from .model import StandaloneModel, check_tokenizer
from .noise_schedule import NEARLY_ZERO_ALPHA, NoiseSchedule, scaled_linear_alphas
from .prompt_encoding import PromptTokenizer, TextEncoder


def load_ldm_checkpoint(
    path: Path, hints: CheckpointHints, tokenizer: PromptTokenizer, device: torch.device, dtype: torch.dtype
) -> StandaloneModel:
    """Loads a checkpoint file.

    Args:
        path: the file.
        hints: what is known beside its tensors.
        tokenizer: CLIP's tokenizer.
        device: where the networks go.
        dtype: of the weights.

    Raises:
        FileError: the file cannot be read, is of another architecture or lacks tensors; the message names it.
    """
    state = load_tensors(path).tensors
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    state = {modern_key(key, shapes): tensor for key, tensor in state.items()}
    try:
        what = detect_checkpoint_layout({key: tuple(tensor.shape) for key, tensor in state.items()}, hints)
        return build_model(what, state, tokenizer, device, dtype, path)
    except FileError as error:
        raise FileError(f"{path}: {error}") from error


def build_model(
    layout: CheckpointLayout,
    state: dict[str, Tensor],
    tokenizer: PromptTokenizer,
    device: torch.device,
    dtype: torch.dtype,
    path: Path | None = None,
) -> StandaloneModel:
    """Builds the networks of an architecture and fills them with a checkpoint's tensors.

    Raises:
        FileError: tensors are missing or have another shape, or the tokenizer belongs to another model.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet_config = {"class_embed_type": None, "addition_embed_type": None, **layout.unet}
    with torch.device("meta"):
        unet = UNet2DConditionModel(**layout.unet)
        vae = AutoencoderKL(**layout.vae)
    unet_state = convert_ldm_unet_checkpoint(
        {k: v for k, v in state.items() if k.startswith(LDM_UNET_PREFIX)}, unet_config
    )
    vae_state = {key: tensor for key, tensor in state.items() if key.startswith(LDM_VAE_PREFIX)}
    load_network_weights(unet, unet_state, "U-Net", device, dtype)
    load_network_weights(vae, convert_ldm_vae_checkpoint(vae_state, layout.vae), "autoencoder", device, dtype)
    texts = tuple(_build_text_encoder(shape, state, device, dtype) for shape in layout.text_encoders)
    check_tokenizer(tokenizer, texts)
    alphas = state.get("alphas_cumprod")
    alphas = scaled_linear_alphas(*layout.betas) if alphas is None else alphas.float().cpu()
    levels = NoiseSchedule(rescale_zero_terminal_snr(alphas, NEARLY_ZERO_ALPHA) if layout.zero_terminal_snr else alphas)
    prediction = layout.prediction or (V_PREDICTION if is_v_prediction(unet) else EPSILON_PREDICTION)
    return StandaloneModel(layout.family, unet, vae, texts, tokenizer, levels, prediction, layout.scaling_factor, path)


def _build_text_encoder(
    layout: TextEncoderLayout, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        kind = CLIPTextModelWithProjection if layout.pooled else CLIPTextModel
        module = kind(CLIPTextConfig(**layout.config))
    own = {key: tensor for key, tensor in state.items() if key.startswith(layout.prefix)}
    if layout.open_clip:
        converted = convert_open_clip_checkpoint(module, own, prefix=layout.prefix)
    else:
        converted = convert_ldm_clip_checkpoint(own)
    load_network_weights(module, converted, "text encoder", device, dtype)
    return TextEncoder(module, layout.layer, layout.pad_id, layout.pooled)


def load_network_weights(
    module: Any, state: Mapping[str, Tensor], network_name: str, device: torch.device, dtype: torch.dtype
) -> None:
    """Fills a network on the meta device with tensors, freezes it and sets evaluation mode.

    Args:
        module: the network.
        state: its tensors; others are ignored.
        network_name: what errors call it.
        device: where it goes.
        dtype: of the weights.

    Raises:
        FileError: tensors are missing or have another shape.
    """
    wanted = dict(module.named_parameters())
    missing = [key for key in wanted if key not in state]
    if missing:
        if len(missing) == 1:
            raise FileError(f"its {network_name} lacks 1 of {len(wanted)} tensors: {missing[0]}")
        raise FileError(f"its {network_name} lacks {len(missing)} of {len(wanted)} tensors, such as {missing[0]}")
    wrong = [key for key, tensor in wanted.items() if state[key].shape != tensor.shape]
    if wrong:
        has, needs = tuple(state[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        raise FileError(f"its {network_name} has {wrong[0]} of shape {has} where {needs} belongs")
    ready = {key: state[key].detach().to(device=device, dtype=dtype) for key in wanted}
    module.load_state_dict(ready, assign=True, strict=False)
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:  # CLIP's position_ids, the only buffer: no file needs to hold it (transformers < 4.31)
                setattr(owner, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape).clone())
    module.requires_grad_(False).eval()


@torch.no_grad()
def is_v_prediction(unet: Any) -> bool:
    """Whether an SD2 U-Net predicts v, by the web UI's test.

    At the last timestep the output of an epsilon model is close to its input; that of a v model is far below.
    """
    parameter = next(unet.parameters())
    x = torch.full((1, unet.config.in_channels, 8, 8), 0.5, device=parameter.device, dtype=parameter.dtype)
    context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, device=x.device, dtype=x.dtype)
    out = unet(x, torch.tensor([999], device=x.device), encoder_hidden_states=context).sample
    return bool((out - x).mean() < -1)

"""Arguments of diffusers' and transformers' networks, worked out from the shapes of an LDM checkpoint's tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from ..errors import FileError
from ..file.base_model import SD1, SDXL
from ..ldm_keys import LDM_UNET_PREFIX, LDM_VAE_PREFIX
from .ldm_config import CheckpointHints
from .native_size import latent_size_of

TensorShapes = Mapping[str, Sequence[int]]
"""Name of a tensor in a checkpoint → its shape."""
HEAD_WIDTH = 64
"""Channels of an attention head in every CLIP text model and in the U-Nets of SD2 and SDXL."""
SD1_HEADS = 8
"""Attention heads at every level of SD1's U-Net (`num_heads` in v1-inference.yaml)."""


_Build = TypeVar("_Build", bound=Callable[..., Any])


def _refusing_other_shapes(build: _Build) -> _Build:
    """Raises FileError where tensors are missing or have another number of sides than a network's."""

    @functools.wraps(build)
    def checked(*args: Any, **options: Any) -> Any:
        try:
            return build(*args, **options)
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise FileError(f"its tensors are not those of a model that is supported ({str(error)[:200]})") from None

    return cast(_Build, checked)


def required_shape(shapes: TensorShapes, key: str, what: str) -> Sequence[int]:
    """Returns a tensor's shape.

    Raises:
        FileError: there is no such tensor; the message says that the checkpoint has no `what`.
    """
    if key not in shapes:
        raise FileError(f"it has no {what} ({key} is missing)")
    return shapes[key]


def _count(shapes: TensorShapes, name: Callable[[int], str]) -> int:
    """Counts how many of name(0), name(1), … exist."""
    number = 0
    while name(number) in shapes:
        number += 1
    return number


# --- U-Net -----------------------------------------------------------------------------------------------------------


def _levels(shapes: TensorShapes) -> list[list[tuple[int, int]]]:
    """(Channels, transformer depth or 0) of each ResNet block in the encoder, by resolution from the highest."""
    levels: list[list[tuple[int, int]]] = [[]]
    index = 1
    while any(f"{LDM_UNET_PREFIX}input_blocks.{index}.0.{leaf}.weight" in shapes for leaf in ("op", "in_layers.2")):
        block = f"{LDM_UNET_PREFIX}input_blocks.{index}."
        if f"{block}0.op.weight" in shapes:
            levels.append([])
        else:
            depth = _count(shapes, lambda n, b=block: f"{b}1.transformer_blocks.{n}.norm1.weight")  # type: ignore[misc]
            levels[-1].append((shapes[f"{block}0.in_layers.2.weight"][0], depth))
        index += 1
    return levels


@_refusing_other_shapes
def unet_arguments(
    shapes: TensorShapes, hints: CheckpointHints, family: str, context: int, pooled: int | None
) -> dict[str, Any]:
    """Returns arguments of diffusers' UNet2DConditionModel.

    Its `attention_head_dim` is the number of heads, a naming error that diffusers keeps for old configurations.

    Args:
        shapes: names and shapes of the checkpoint's tensors.
        hints: the configuration, for the number of heads.
        family: "SD1", "SD2" or "SDXL".
        context: width of the text embeddings.
        pooled: width of SDXL's pooled text embedding.

    Raises:
        FileError: the U-Net has an unknown structure.
    """
    levels = _levels(shapes)
    if len({len(level) for level in levels}) != 1 or not levels[0]:
        raise FileError("its U-Net has resolutions with different numbers of blocks, which is not supported")
    channels = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    mid = _count(shapes, lambda n: f"{LDM_UNET_PREFIX}middle_block.1.transformer_blocks.{n}.norm1.weight")
    linear = len(shapes[f"{LDM_UNET_PREFIX}middle_block.1.proj_in.weight"]) == 2
    params = hints.params("unet_config") or hints.params("network_config")
    config: dict[str, Any] = {
        "sample_size": latent_size_of(hints.params().get("image_size")),
        "in_channels": shapes[f"{LDM_UNET_PREFIX}input_blocks.0.0.weight"][1],
        "out_channels": required_shape(shapes, f"{LDM_UNET_PREFIX}out.2.weight", "U-Net output")[0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": [*(max(depth, 1) for depth in depths[:-1]), depths[-1] or mid],
        "cross_attention_dim": context,
        "attention_head_dim": [_heads(c, params, family) for c in channels],
        "use_linear_projection": linear,
    }
    if family == SDXL:
        inputs = required_shape(shapes, f"{LDM_UNET_PREFIX}label_emb.0.0.weight", "size conditioning")[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (inputs - int(pooled or 0)) // 6,
            "projection_class_embeddings_input_dim": inputs,
        }
    elif f"{LDM_UNET_PREFIX}label_emb.0.0.weight" in shapes:
        raise FileError("its U-Net takes another condition (unCLIP), which is not supported")
    return config


def _heads(channels: int, params: Mapping[str, Any], family: str) -> int:
    """Returns the attention heads at a resolution: the configuration's, else SD1's 8, else one for each 64 channels."""
    heads, width = params.get("num_heads", -1), params.get("num_head_channels", -1)
    if isinstance(width, int) and width > 0:
        return max(channels // width, 1)
    if isinstance(heads, int) and heads > 0:
        return heads
    return SD1_HEADS if family == SD1 else max(channels // HEAD_WIDTH, 1)


# --- autoencoder -----------------------------------------------------------------------------------------------------


@_refusing_other_shapes
def vae_arguments(shapes: TensorShapes) -> dict[str, Any]:
    """Returns arguments of diffusers' AutoencoderKL.

    Raises:
        FileError: the checkpoint has no autoencoder, or one with tensors missing.
    """
    encoder, decoder = f"{LDM_VAE_PREFIX}encoder.", f"{LDM_VAE_PREFIX}decoder."
    levels = _count(shapes, lambda n: f"{encoder}down.{n}.block.0.conv1.weight")
    if not levels:
        raise FileError(f"it has no autoencoder ({LDM_VAE_PREFIX}…); it is only a part of a checkpoint")
    return {
        "in_channels": required_shape(shapes, f"{encoder}conv_in.weight", "autoencoder")[1],
        "out_channels": required_shape(shapes, f"{decoder}conv_out.weight", "autoencoder")[0],
        "latent_channels": required_shape(shapes, f"{decoder}conv_in.weight", "autoencoder")[1],
        "block_out_channels": [shapes[f"{encoder}down.{n}.block.0.conv1.weight"][0] for n in range(levels)],
        "layers_per_block": _count(shapes, lambda n: f"{encoder}down.0.block.{n}.conv1.weight"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


# --- text encoders ---------------------------------------------------------------------------------------------------


@_refusing_other_shapes
def clip_arguments(shapes: TensorShapes, prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of transformers' CLIPTextConfig for tensors with transformers' names.

    Args:
        shapes: names and shapes of the checkpoint's tensors.
        prefix: beginning of the text encoder's names.
        known: entries of its configuration that shapes cannot tell.
    """
    base = f"{prefix}text_model."
    vocabulary, width = required_shape(shapes, f"{base}embeddings.token_embedding.weight", "text encoder")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{base}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(shapes, lambda n: f"{base}encoder.layers.{n}.mlp.fc1.weight"),
        "max_position_embeddings": shapes[f"{base}embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        **_heads_and_activation(known, width),
    }


@_refusing_other_shapes
def open_clip_arguments(shapes: TensorShapes, prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of transformers' CLIPTextConfig for tensors with OpenCLIP's names; see `clip_arguments`."""
    vocabulary, width = required_shape(shapes, f"{prefix}token_embedding.weight", "text encoder")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(shapes, lambda n: f"{prefix}transformer.resblocks.{n}.mlp.c_fc.weight"),
        "max_position_embeddings": shapes[f"{prefix}positional_embedding"][0],
        "hidden_act": "gelu",
        "projection_dim": shapes.get(f"{prefix}text_projection", (width, width))[1],
        **_heads_and_activation(known, width),
    }


def _heads_and_activation(known: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Takes heads and activation from a configuration for this width; else heads have 64 channels."""
    about = known if known.get("hidden_size", width) == width else {}
    entries = {key: about[key] for key in ("num_attention_heads", "hidden_act", "layer_norm_eps") if key in about}
    return {"num_attention_heads": max(width // HEAD_WIDTH, 1), **entries}

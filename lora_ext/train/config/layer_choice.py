"""Which layers a recipe trains."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...layer_keys import format_kohya_key, format_peft_key
from ...layer_names import UNET, LayerId
from .recipe import Recipe

_OUTER_CONVOLUTIONS = ("conv_in", "conv_out")
_TIME_LAYERS = ("time_embedding.linear_1", "time_embedding.linear_2")
_ATTENTION_PARTS = {
    "attention": (".attn1.", ".attn2."),
    "cross_attention": (".attn2.",),
    "self_attention": (".attn1.",),
}


def has_conv3x3_modules(recipe: Recipe) -> bool:
    """Whether 3x3 layers get modules: C3Lier, or DyLoRA with `conv_dim`."""
    wide = recipe.conv_dim is not None or recipe.conv_block_dims is not None
    return recipe.network_module == "c3lier" or (recipe.is_dylora and wide)


def is_wider_than_1x1(shape: Sequence[int]) -> bool:
    """Whether a weight's kernel is larger than 1x1."""
    return len(shape) == 4 and max(shape[2:]) > 1


def is_trained_layer(layer_id: LayerId, shape: tuple[int, ...], recipe: Recipe) -> bool:
    """Whether a recipe trains a layer, chosen by module class as kohya's scripts do.

    Linear and 1x1 layers of Transformer2DModel, attention and MLP of CLIP; with 3x3 layers also all of ResnetBlock2D,
    Downsample2D and Upsample2D. `network_targets` takes a part of them or adds the outer layers, `train_norm` adds the
    norms of the U-Net's chosen classes, and `network_include` and `network_exclude` choose by name.

    Args:
        layer_id: The layer.
        shape: The shape of its weight.
        recipe: The settings.
    """
    if len(shape) < 2 and not (recipe.train_norm and layer_id.part == UNET):
        return False
    chosen = _is_text_target(layer_id, recipe) if layer_id.part != UNET else _is_unet_target(layer_id, shape, recipe)
    return chosen and _matches_patterns(layer_id, recipe)


def _is_text_target(layer_id: LayerId, recipe: Recipe) -> bool:
    if not recipe.trains_text or not layer_id.layer.startswith("layers."):
        return False
    targets = recipe.network_targets
    return not _is_attention_choice(targets) or targets.endswith("_ff") or ".self_attn." in layer_id.layer


def _is_unet_target(layer_id: LayerId, shape: tuple[int, ...], recipe: Recipe) -> bool:
    targets, layer = recipe.network_targets, layer_id.layer
    if not recipe.trains_unet or (is_wider_than_1x1(shape) and not has_conv3x3_modules(recipe)):
        return False
    if layer in _TIME_LAYERS:
        return targets == "all"
    if layer in _OUTER_CONVOLUTIONS:
        return targets in ("all", "resnet")
    if not layer_id.block:
        return False
    if layer.startswith("attention."):
        parts = _ATTENTION_PARTS.get(targets.removesuffix("_ff"))
        chosen = any(part in f"{layer}." for part in (*(parts or ()), *((".ff.",) if targets.endswith("_ff") else ())))
        return chosen if parts else targets != "resnet"
    return targets in ("all", "resnet") or (targets == "transformer" and has_conv3x3_modules(recipe))


def _is_attention_choice(targets: str) -> bool:
    return targets.removesuffix("_ff") in _ATTENTION_PARTS


def _matches_patterns(layer_id: LayerId, recipe: Recipe) -> bool:
    include, exclude = recipe.network_include, recipe.network_exclude
    included = not include or any(matches_pattern(layer_id, pattern) for pattern in include)
    return included and not any(matches_pattern(layer_id, pattern) for pattern in exclude)


def matches_pattern(layer_id: LayerId, pattern: str) -> bool:
    """Whether a layer's name matches a pattern with *, ? and [ ].

    Args:
        layer_id: The layer.
        pattern: For its name in kohya's files (`lora_unet_mid_block_…`) or PEFT's (`unet.mid_block.…`).
    """
    names = {format_kohya_key(layer_id, sdxl=sdxl) for sdxl in (False, True)} | {format_peft_key(layer_id)}
    return any(fnmatchcase(name, pattern) for name in names)

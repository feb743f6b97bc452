"""The layers of a model that a recipe trains, and their numbers by sort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn

from ...blocks import SD_BLOCKS, SDXL_BLOCKS, UNetBlocks
from ...inject import LayerTarget, find_layer_targets
from ...layer_names import TE2, UNET, LayerId
from ..config.block_settings import ModuleRanks
from ..config.layer_choice import matches_pattern
from ..config.recipe import Recipe

_SORTS = {
    ".attn1.": "self-attention", ".attn2.": "cross-attention", ".ff.": "feed-forward", ".norm": "norms",
    ".proj_": "projections", ".resnet.": "resnets", ".sampler.": "samplers",
}  # fmt: skip
"""Part of a U-Net layer's name → the word for its sort; others are input, output and time layers."""


def find_trainable_layers(parts: Mapping[str, nn.Module]) -> dict[LayerId, LayerTarget]:
    """Finds the layers on which modules can be trained.

    Args:
        parts: "unet", "te" and "te2" → the model's networks.

    Returns:
        Layer → where it is in the model.
    """
    return {
        layer_id: target
        for part, root in parts.items()
        for layer_id, target in find_layer_targets(part, root).items()
        if _is_supported(target.module)
    }


def trained_layers(parts: Mapping[str, nn.Module], recipe: Recipe) -> tuple[list[LayerId], list[str]]:
    """Chooses the layers that a recipe trains on a model.

    Args:
        parts: "unet", "te" and "te2" → the model's networks.
        recipe: The settings.

    Returns:
        (the layers, the recipe's patterns that match no layer of the model).
    """
    found = find_trainable_layers(parts)
    ranks = ModuleRanks(recipe, block_family_of_layers(found))
    patterns = (*recipe.network_include, *recipe.network_exclude)
    return (
        [layer_id for layer_id, target in found.items() if ranks.for_layer(layer_id, tuple(target.shape)) is not None],
        [pattern for pattern in patterns if not any(matches_pattern(layer_id, pattern) for layer_id in found)],
    )


def count_by_sort(layer_ids: Iterable[LayerId]) -> dict[str, int]:
    """Counts layers by sort.

    Args:
        layer_ids: The layers.

    Returns:
        Sort, such as "cross-attention" or "text encoder" → number of layers.
    """
    return dict(Counter(map(_sort, layer_ids)))


def _sort(layer_id: LayerId) -> str:
    if layer_id.part != UNET:
        return "text encoder 2" if layer_id.part == TE2 else "text encoder"
    name = f".{layer_id.layer}."
    return next((word for part, word in _SORTS.items() if part in name), "input, output and time layers")


def block_family_of_layers(layer_ids: Mapping[LayerId, LayerTarget]) -> UNetBlocks:
    """The U-Net's blocks: SDXL's end at OUT08; without a U-Net, a second text encoder means SDXL."""
    blocks = {layer_id.block for layer_id in layer_ids if layer_id.part == UNET}
    if blocks:
        return SD_BLOCKS if "OUT11" in blocks else SDXL_BLOCKS
    return SDXL_BLOCKS if any(layer_id.part == TE2 for layer_id in layer_ids) else SD_BLOCKS


def _is_supported(module: nn.Module) -> bool:
    """Whether modules can be trained on a layer of this class."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        return True
    return hasattr(module, "in_features") or isinstance(module, nn.MultiheadAttention)

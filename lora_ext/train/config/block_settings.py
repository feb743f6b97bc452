"""Settings of each U-Net block: a weight on its learning rate, a rank and an alpha.

The rules are kohya's (`networks/lora.py`): 12 numbers or a curve for the down and the up blocks, one number for the
middle; 25 ranks and alphas. SDXL has 9 blocks a side; there the same rules give 9/1/9 weights and 19 ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...block_weights import parse_finite_number
from ...blocks import SD_BLOCKS, UNetBlocks
from ...errors import BlockError, TrainError, did_you_mean
from ...layer_names import TE, UNET, LayerId
from .layer_choice import is_trained_layer, is_wider_than_1x1, number_for_layer
from .recipe import Recipe

BLOCK_WEIGHT_CURVES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "sine": lambda x: math.sin(math.pi / 2 * x),
        "cosine": lambda x: math.sin(math.pi / 2 * (1 - x)),
        "linear": lambda x: x,
        "reverse_linear": lambda x: 1 - x,
        "zeros": lambda x: 0.0,
    }
)
"""Curve → its value at x, which is 0 at a side's first block and 1 at its last."""


def parse_side_weights(text: str | None, count: int = 12) -> tuple[float, ...]:
    """Parses the learning-rate weights of one side (`down_lr_weight` or `up_lr_weight`).

    Args:
        text: Numbers separated by commas, or a curve's name with an optional `+offset`; None or "" means ones. An empty
            number is 0, missing numbers at the end are 1, surplus ones are ignored.
        count: Blocks of the side.

    Returns:
        `count` weights.

    Raises:
        BlockError: Neither numbers nor a curve, with the nearest curve.

    Example:
        >>> parse_side_weights("linear+0.5", 3), parse_side_weights("0,,2", 4)
        ((0.5, 1.0, 1.5), (0.0, 0.0, 2.0, 1.0))
    """
    if text is None or not text.strip():
        return (1.0,) * count
    if "," in text:
        values = [parse_finite_number(item, text) if item.strip() else 0.0 for item in text.split(",")]
        return tuple((values + [1.0] * count)[:count])
    name, plus, offset = text.strip().partition("+")
    curve = BLOCK_WEIGHT_CURVES.get(name.strip().lower())
    if curve is None:
        hint = did_you_mean(name.strip(), BLOCK_WEIGHT_CURVES)
        raise BlockError(f"{text!r} is neither {count} numbers separated by commas nor a curve{hint}")
    shift = parse_finite_number(offset, text) if plus else 0.0
    return tuple(curve(i / (count - 1)) + shift for i in range(count))


def block_rate_weights(recipe: Recipe, family: UNetBlocks = SD_BLOCKS) -> dict[str, float]:
    """Weights of the blocks' learning rates.

    Args:
        recipe: The settings.
        family: The U-Net's blocks.

    Returns:
        Block label → weight; 0 at or below `block_lr_zero_threshold`, where a block gets no modules.

    Raises:
        BlockError: A text that does not parse, or a negative weight.
    """
    half = len(family.blocks) // 2
    mid = (recipe.mid_lr_weight or "1").split(",")[0]
    vector = (
        *parse_side_weights(recipe.down_lr_weight, half),
        parse_finite_number(mid, recipe.mid_lr_weight or "1"),
        *parse_side_weights(recipe.up_lr_weight, half),
    )
    if min(vector) < 0:
        raise BlockError(f"the weight of a block's learning rate is {min(vector):g}; give 0 or more")
    limit = recipe.block_lr_zero_threshold
    return {name: w if w > limit else 0.0 for name, w in zip(family.blocks, vector, strict=True)}


@dataclass(frozen=True)
class RankAndAlpha:
    """A module's rank and alpha; its update is scaled by alpha / rank.

    Attributes:
        rank: The rank, 0 for no module.
        alpha: LoRA alpha.
    """

    rank: int
    alpha: float


class ModuleRanks:
    """Rank and alpha of every module, from the recipe's per-block lists and its single values.

    Args:
        recipe: The settings.
        family: The U-Net's blocks.

    Attributes:
        recipe: The settings.
        family: The U-Net's blocks.
        rate_weights: Block label → weight of its learning rate.
        text_encoder: Rank and alpha in text encoders.
        narrow_by_block: Block label → rank and alpha of Linear and 1x1 layers.
        wide_by_block: Block label → rank and alpha of 3x3 layers.

    Raises:
        BlockError: A weight of a block's learning rate does not parse, or is negative.
    """

    def __init__(self, recipe: Recipe, family: UNetBlocks = SD_BLOCKS) -> None:
        self.recipe, self.family = recipe, family
        self.rate_weights = block_rate_weights(recipe, family)
        narrow = RankAndAlpha(recipe.network_dim, recipe.network_alpha)
        self.text_encoder = narrow
        self.narrow_by_block = self._table(recipe.block_dims, recipe.block_alphas, narrow)
        self.wide_by_block = self._table(
            recipe.conv_block_dims, recipe.conv_block_alphas, conv3x3_rank_and_alpha(recipe)
        )

    def _table(
        self, dims: tuple[int, ...] | None, alphas: tuple[float, ...] | None, other: RankAndAlpha
    ) -> Mapping[str, RankAndAlpha]:
        """Block label → rank and alpha; "" outside of the blocks. Raises TrainError for a list of another length."""
        blocks = self.family.blocks
        for values in (dims, alphas):
            if values is not None and len(values) != len(blocks):
                ends = f"{blocks[0]} to {blocks[-1]}"
                raise TrainError(f"{len(values)} values where {self.family.name} has {len(blocks)} blocks, {ends}")
        ranks = dims or (other.rank,) * len(blocks)
        found = dict(zip(blocks, map(RankAndAlpha, ranks, alphas or (other.alpha,) * len(blocks)), strict=True))
        return {"": other, **found}

    def for_layer(self, layer_id: LayerId, shape: tuple[int, ...]) -> RankAndAlpha | None:
        """A layer's rank and alpha.

        Args:
            layer_id: The layer.
            shape: The shape of its weight: (out, in) or (out, in, kh, kw).

        Returns:
            Rank and alpha; None if the layer is not trained, or has weight 0 or rank 0.
        """
        if not is_trained_layer(layer_id, shape, self.recipe) or self.rate_weight(layer_id) == 0:
            return None
        size = self.text_encoder
        if layer_id.part == UNET:
            size = (self.wide_by_block if is_wider_than_1x1(shape) else self.narrow_by_block)[layer_id.block]
        own_rank = number_for_layer(layer_id, self.recipe.network_reg_dims)
        if own_rank is not None:
            size = RankAndAlpha(int(own_rank), size.alpha)
        if size.rank <= 0:
            return None
        if self.recipe.rs_lora:  # alpha·√r / r is alpha / √r (Kalajdzievski 2023, arXiv 2312.03732), in every file too
            return RankAndAlpha(size.rank, (size.alpha or size.rank) * math.sqrt(size.rank))
        return size

    def rate_weight(self, layer_id: LayerId) -> float:
        """The weight of a layer's learning rate.

        Args:
            layer_id: The layer.

        Returns:
            Its block's weight; 1 in a text encoder.
        """
        return self.rate_weights.get(layer_id.block, 1.0) if layer_id.part == UNET else 1.0


def conv3x3_rank_and_alpha(recipe: Recipe) -> RankAndAlpha:
    """Rank and alpha of 3x3 layers: the other layers' without `conv_dim`; with it, alpha is 1 by default."""
    if recipe.conv_dim is None and recipe.conv_block_dims is None:
        return RankAndAlpha(
            recipe.network_dim, recipe.network_alpha if recipe.conv_alpha is None else recipe.conv_alpha
        )
    alpha = 1.0 if recipe.conv_alpha is None else recipe.conv_alpha
    return RankAndAlpha(recipe.conv_dim or recipe.network_dim, alpha)


def parameter_group_name(layer_id: LayerId) -> str:
    """The name of a layer's parameter group.

    Args:
        layer_id: The layer.

    Returns:
        "unet", "text_encoder" or "text_encoder_2".
    """
    return {UNET: "unet", TE: "text_encoder"}.get(layer_id.part, "text_encoder_2")

"""Settings of each U-Net block: a weight on its learning rate, a rank and an alpha.

The rules are kohya's (`networks/lora.py`): 12 numbers or a curve for the down and the up blocks, one number for the
middle; 25 ranks and alphas. SDXL has 9 blocks a side; there the same rules give 9/1/9 weights and 19 ranks, or kohya's
9/3/9 and 23: the time layers, IN00 to IN08, the three parts of MID, OUT00 to OUT08, and the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...block_weights import parse_finite_number
from ...blocks import MID, SD_BLOCKS, SDXL_BLOCKS, UNetBlocks
from ...counted_words import counted, fill_counts
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


MID_PARTS = ("resnet.0", "attention", "resnet.1")
"""The parts of MID, for each of which SDXL's lists in kohya's scripts have a value."""
KOHYA_SDXL_COUNT = 23
"""Values in kohya's lists for SDXL."""


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
    vector = (
        *parse_side_weights(recipe.down_lr_weight, half),
        max(mid_rate_weights(recipe, family)),
        *parse_side_weights(recipe.up_lr_weight, half),
    )
    return dict(zip(family.blocks, _above_threshold(vector, recipe), strict=True))


def mid_rate_weights(recipe: Recipe, family: UNetBlocks = SD_BLOCKS) -> tuple[float, ...]:
    """Weights of the learning rates of `MID_PARTS`: one number is that of all, SDXL may have three.

    Args:
        recipe: The settings.
        family: The U-Net's blocks.

    Raises:
        BlockError: A text that does not parse, or a negative weight.
    """
    text = recipe.mid_lr_weight or "1"
    values = [parse_finite_number(item, text) if item.strip() else 0.0 for item in text.split(",")]
    parts = (values + [1.0] * 3)[:3] if family is SDXL_BLOCKS and len(values) > 1 else [values[0]] * 3
    return _above_threshold(parts, recipe)


def _above_threshold(weights: Sequence[float], recipe: Recipe) -> tuple[float, ...]:
    """The weights, with 0 at or below the recipe's threshold. Raises BlockError for a negative one."""
    if min(weights) < 0:
        raise BlockError(f"the weight of a block's learning rate is {min(weights):g}; give 0 or more")
    return tuple(w if w > recipe.block_lr_zero_threshold else 0.0 for w in weights)


def block_list_notes(recipe: Recipe, family: UNetBlocks = SD_BLOCKS) -> Iterator[str]:
    """Yields a sentence for each list of block weights that has more or fewer numbers than the model has blocks.

    Args:
        recipe: The settings.
        family: The U-Net's blocks.
    """
    half, is_sdxl = len(family.blocks) // 2, family is SDXL_BLOCKS
    for name, counts in (
        ("down_lr_weight", (half,)), ("mid_lr_weight", (1, 3) if is_sdxl else (1,)), ("up_lr_weight", (half,))
    ):  # fmt: skip
        numbers = (getattr(recipe, name) or "").split(",")
        if len(numbers) in counts or (len(numbers) == 1 and name != "mid_lr_weight"):
            continue  # one is a curve, or none is given
        wanted = " or ".join(map(str, counts))
        text = (
            "{0} has {1} numbers where {2} takes {3}; those that are missing are 1"
            if len(numbers) < counts[-1]
            else "{0} has {1} numbers where {2} takes {3}; the rest is not used"
        )
        yield fill_counts(text, name, len(numbers), family.name, wanted)


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
        narrow_by_block: Block label, "MID 0" to "MID 2", or "time" → rank and alpha of Linear and 1x1 layers.
        wide_by_block: The same of 3x3 layers.

    Raises:
        BlockError: A weight of a block's learning rate does not parse, or is negative.
    """

    def __init__(self, recipe: Recipe, family: UNetBlocks = SD_BLOCKS) -> None:
        self.recipe, self.family = recipe, family
        self.rate_weights = block_rate_weights(recipe, family)
        self._mid_weights = mid_rate_weights(recipe, family)
        narrow = RankAndAlpha(recipe.network_dim, recipe.network_alpha)
        self.text_encoder = narrow
        self.narrow_by_block = self._table(recipe.block_dims, recipe.block_alphas, narrow)
        self.wide_by_block = self._table(
            recipe.conv_block_dims, recipe.conv_block_alphas, conv3x3_rank_and_alpha(recipe)
        )

    def _table(
        self, dims: tuple[int, ...] | None, alphas: tuple[float, ...] | None, other: RankAndAlpha
    ) -> Mapping[str, RankAndAlpha]:
        """Block label, or MID with the place of its part → rank and alpha; "" outside of the blocks.

        Raises TrainError for a list of another length.
        """
        blocks = self.family.blocks
        half, mid = len(blocks) // 2, (*(f"{MID} {place}" for place in range(len(MID_PARTS))),)
        names = ("time", *blocks[:half], *mid, *blocks[half + 1 :], "")

        def spread(values: tuple[Any, ...] | None, plain: Any) -> tuple[Any, ...]:
            if values is None:
                return (plain,) * len(names)
            if self.family is SDXL_BLOCKS and len(values) == KOHYA_SDXL_COUNT:
                return values
            if len(values) != len(blocks):
                ends = f"{blocks[0]} to {blocks[-1]}"
                raise TrainError(
                    f"{counted(len(values), 'value')} where {self.family.name} has {len(blocks)} blocks, {ends}"
                )
            return (plain, *values[:half], *(values[half],) * len(mid), *values[half + 1 :], plain)

        pairs = zip(spread(dims, other.rank), spread(alphas, other.alpha), strict=True)
        return {name: RankAndAlpha(*pair) for name, pair in zip(names, pairs, strict=True)}

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
            table = self.wide_by_block if is_wider_than_1x1(shape) else self.narrow_by_block
            place = _mid_place(layer_id)
            is_time = layer_id.layer.startswith("time_embedding.")
            size = table["time" if is_time else layer_id.block if place is None else f"{MID} {place}"]
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
        if layer_id.part != UNET:
            return 1.0
        place = _mid_place(layer_id)
        return self.rate_weights.get(layer_id.block, 1.0) if place is None else self._mid_weights[place]

    def rate_label(self, layer_id: LayerId) -> str:
        """What has a weight of its own: a layer's block, or the part of MID."""
        place = _mid_place(layer_id)
        one = place is None or len(set(self._mid_weights)) == 1
        return layer_id.block if one or place is None else f"{MID} {MID_PARTS[place]}"


def _mid_place(layer_id: LayerId) -> int | None:
    """The place of a layer's part in `MID_PARTS`; None outside of MID."""
    if layer_id.block != MID or layer_id.part != UNET:
        return None
    return next((i for i, part in enumerate(MID_PARTS) if layer_id.layer.startswith(part)), 1)


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

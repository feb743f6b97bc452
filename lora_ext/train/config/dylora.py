"""DyLoRA (Valipour et al. 2022, arXiv:2210.07558): each step uses a prefix of the ranks and trains part of it.

The prefix is drawn once a step, before the forward pass, so that gradient checkpointing, which repeats parts of the
forward pass, sees the same one. Outside training all ranks are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .recipe import Recipe

DYLORA_SCALE_RULE_KEY = "lora_ext_dylora_scale"
"""Metadata key of the rule that scaled prefixes in training; `split-dylora` reads it."""


@dataclass(frozen=True)
class DyLoraVariant:
    """One rule of DyLoRA for b drawn of R ranks; the last `unit` ranks of b are the drawn unit.

    Attributes:
        rule: The rule's name in the metadata.
        scale: (b, R) → factor on alpha / R.
        active_ranks: (b, R) → how many ranks the forward pass uses.
        first_trained: (b, unit) → the first of the ranks, up to b, that are trained.
    """

    rule: str
    scale: Callable[[int, int], float]
    active_ranks: Callable[[int, int], int]
    first_trained: Callable[[int, int], int]


DYLORA_VARIANTS: Mapping[str, DyLoraVariant] = MappingProxyType(
    {
        "unit": DyLoraVariant(
            "prefix", lambda b, full: full / b, lambda b, full: b, lambda b, unit: (b - 1) // unit * unit
        ),
        "prefix": DyLoraVariant("prefix", lambda b, full: full / b, lambda b, full: b, lambda b, unit: 0),
        "kohya": DyLoraVariant(
            "sqrt", lambda b, full: math.sqrt(full / b), lambda b, full: full, lambda b, unit: (b - 1) // unit * unit
        ),
    }
)
"""unit: the paper's default (its FROZEN mode), h = W·x + α/b · U[:, :b]·D[:b]·x, gradients for the drawn unit only;
prefix: the same with gradients for all b ranks; kohya: his `networks/dylora.py`, where the forward pass uses all ranks
and α/R is scaled by √(R/b)."""


@dataclass(frozen=True)
class RankSelection:
    """Which ranks of a module are used and trained in a step.

    Attributes:
        active: How many ranks, from the first, the forward pass uses.
        scale: Factor on U·D.
        first: The first rank that is trained.
        last: One more than the last rank that is trained.
    """

    active: int
    scale: float
    first: int
    last: int


def select_all_ranks(rank: int, alpha: float) -> RankSelection:
    """All ranks are used and trained: a plain LoRA, and every DyLoRA outside training.

    Args:
        rank: The number of ranks.
        alpha: LoRA alpha.

    Returns:
        The whole range of ranks with the scale alpha / rank.
    """
    return RankSelection(rank, alpha / rank, 0, rank)


def select_drawn_ranks(recipe: Recipe, drawn: int, rank: int, alpha: float) -> RankSelection:
    """The selection of one module in a DyLoRA step.

    Args:
        recipe: Its `dylora_variant` and `unit` are used.
        drawn: The drawn prefix, in ranks.
        rank: The module's rank; a smaller one than `drawn` is used completely.
        alpha: The module's alpha.

    Returns:
        The selection.

    Example:
        >>> from lora_ext.train.config.recipe import Recipe
        >>> select_drawn_ranks(Recipe(unit=2), drawn=4, rank=8, alpha=8.0)
        RankSelection(active=4, scale=2.0, first=2, last=4)
    """
    b = min(drawn, rank)
    variant = DYLORA_VARIANTS[recipe.dylora_variant]
    scale = alpha / rank * variant.scale(b, rank)
    return RankSelection(variant.active_ranks(b, rank), scale, variant.first_trained(b, recipe.unit), b)

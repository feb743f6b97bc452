"""DyLoRA (arXiv 2210.07558): in each step a prefix of the ranks acts and part of it learns.

Which prefix is drawn by `Draw` once a step, before the forward pass, so that gradient checkpointing, which runs
parts of the forward pass again, sees the same one. Outside training nothing is drawn: all ranks act.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .recipe import Recipe

DYLORA_SCALE_RULE_KEY = "lora_ext_dylora_scale"
"""Metadata key of the rule by which prefixes were scaled in training; `split-dylora` reads it."""


@dataclass(frozen=True)
class DyLoraVariant:
    """One rule of DyLoRA, for b drawn of R ranks, the last `unit` of b drawn as a unit.

    rule: its name in the metadata. scale: (b, R) → what alpha/R is multiplied by. acting: how many ranks the forward
    pass uses. first: the first of the ranks (up to b) that learn.
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
"""unit: the paper's default (its FROZEN), h = W·x + α/b · U[:, :b]·D[:b]·x with gradients for the drawn unit alone;
prefix: the same with gradients for all b ranks; kohya: `networks/dylora.py`, where all ranks act."""


@dataclass(frozen=True)
class RankSelection:
    """What a module does in a step: `active` ranks act at `scale`, those from `first` to `last` learn."""

    active: int
    scale: float
    first: int
    last: int


def select_all_ranks(rank: int, alpha: float) -> RankSelection:
    """All ranks act and learn: a plain LoRA, and every DyLoRA outside training."""
    return RankSelection(rank, alpha / rank, 0, rank)


def select_drawn_ranks(recipe: Recipe, drawn: int, rank: int, alpha: float) -> RankSelection:
    """The share of a module of `rank` when a prefix of `drawn` ranks was drawn (a smaller module is used whole)."""
    b = min(drawn, rank)
    variant = DYLORA_VARIANTS[recipe.dylora_variant]
    scale = alpha / rank * variant.scale(b, rank)
    return RankSelection(variant.active_ranks(b, rank), scale, variant.first_trained(b, recipe.unit), b)

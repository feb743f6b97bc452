"""Kinds of adapter; `ADAPTERS` is the visible list, tried in order."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .base import COMMON, Adapter, decompose
from .full import Full
from .glora import GLoRA
from .ia3 import IA3
from .loha import LoHa
from .lokr import LoKr
from .lora import Lora
from .norm import Norm
from .oft import Oft

ADAPTERS: tuple[type[Adapter], ...] = (
    Lora,  # up · down, Tucker, DyLoRA
    LoHa,
    LoKr,
    IA3,
    Full,
    Norm,
    GLoRA,
    Oft,  # OFT, COFT, BOFT
)

SUFFIXES: frozenset[str] = COMMON.union(*(need for kind in ADAPTERS for need in (*kind.needs, kind.may)))
"""Every suffix that some kind stores."""


def adapter_of(tensors: Mapping[str, Tensor]) -> Adapter | None:
    """The adapter for one layer's tensors (suffix → tensor), or None when no kind accepts them."""
    suffixes = frozenset(tensors)
    return next((kind(dict(tensors)) for kind in ADAPTERS if kind.accepts(suffixes)), None)


__all__ = [
    "ADAPTERS",
    "COMMON",
    "IA3",
    "SUFFIXES",
    "Adapter",
    "Full",
    "GLoRA",
    "LoHa",
    "LoKr",
    "Lora",
    "Norm",
    "Oft",
    "adapter_of",
    "decompose",
]

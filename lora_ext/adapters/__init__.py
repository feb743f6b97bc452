"""Kinds of adapter; `ADAPTERS` is the visible list, tried in order."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .base import COMMON, Adapter, decompose
from .lora import Lora

ADAPTERS: tuple[type[Adapter], ...] = (Lora,)

SUFFIXES: frozenset[str] = COMMON.union(*(need for kind in ADAPTERS for need in (*kind.needs, kind.may)))
"""Every suffix that some kind stores."""


def adapter_of(tensors: Mapping[str, Tensor]) -> Adapter | None:
    """The adapter for one layer's tensors (suffix → tensor), or None when no kind accepts them."""
    suffixes = frozenset(tensors)
    return next((kind(dict(tensors)) for kind in ADAPTERS if kind.accepts(suffixes)), None)


__all__ = ["ADAPTERS", "COMMON", "SUFFIXES", "Adapter", "Lora", "adapter_of", "decompose"]

"""All kinds of adapters. `ADAPTERS` lists them in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from .base import COMMON_SUFFIXES, Adapter, dora_delta
from .full import Full
from .glora import GLoRA
from .ia3 import IA3
from .loha import LoHa
from .lokr import LoKr
from .lora import Lora
from .norm import Norm
from .oft import Oft
from .oft_v2 import OftV2

ADAPTERS: tuple[type[Adapter], ...] = (
    Lora,  # up · down, Tucker, DyLoRA
    LoHa,
    LoKr,
    IA3,
    Full,
    Norm,
    GLoRA,
    Oft,  # OFT, COFT, BOFT
    OftV2,
)

ADAPTER_SUFFIXES: frozenset[str] = COMMON_SUFFIXES.union(
    *(need for kind in ADAPTERS for need in (*kind.required_suffixes, kind.optional_suffixes))
)
"""Every suffix that any kind stores."""


def adapter_from_tensors(tensors: Mapping[str, Tensor]) -> Adapter | None:
    """Makes the adapter of one layer.

    Args:
        tensors: suffix → tensor, suffixes as in kohya's and LyCORIS' files.

    Returns:
        An adapter of the first kind that accepts these suffixes, or None.

    Example:
        >>> import torch
        >>> factors = {"lora_up.weight": torch.zeros(8, 2), "lora_down.weight": torch.zeros(2, 4)}
        >>> adapter = adapter_from_tensors(factors)
        >>> adapter.kind, adapter.rank, adapter.fits((8, 4))
        ('LoRA', 2, True)
    """
    suffixes = frozenset(tensors)
    return next((kind(dict(tensors)) for kind in ADAPTERS if kind.accepts(suffixes)), None)


def adapters_with_rank(adapters: Iterable[Adapter]) -> list[Adapter]:
    """The layers that tell the rank of a file.

    Args:
        adapters: the layers of a file.

    Returns:
        Those that have a rank, without those whose change is 0, which `resize` and kohya's script write at rank 1; with
        these where the change of every layer is 0.
    """
    found = [adapter for adapter in adapters if adapter.rank]
    return [adapter for adapter in found if not adapter.changes_nothing()] or found


__all__ = [
    "ADAPTERS",
    "ADAPTER_SUFFIXES",
    "COMMON_SUFFIXES",
    "IA3",
    "Adapter",
    "Full",
    "GLoRA",
    "LoHa",
    "LoKr",
    "Lora",
    "Norm",
    "Oft",
    "OftV2",
    "adapter_from_tensors",
    "adapters_with_rank",
    "dora_delta",
]

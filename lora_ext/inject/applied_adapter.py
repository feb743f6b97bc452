"""What acts where: `AppliedAdapter` (an adapter with its weight) and `LayerTarget` (a place in a live model)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..layer_names import LayerId, find_layer_id
from ..lowrank import LowRank


@dataclass(frozen=True)
class AppliedAdapter:
    """One adapter at one layer: its weight there, and how many of its ranks act.

    weight: a number, or a (batch,) tensor with one weight a picture (live only). rows: the part of a stacked
    parameter that it acts on (OpenCLIP's q, k, v in one matrix), None for all.
    """

    adapter: Adapter
    weight: float | Tensor
    dyn: int | None = None
    rows: tuple[int, int] | None = None
    is_scheduled: bool = False
    """Whether its weight will change from step to step; `auto` then prefers live."""

    def low_rank(self, shape: torch.Size) -> LowRank | None:
        """ΔW at weight 1 for a layer weight of `shape`, or None for kinds without that form."""
        low = self.acting_adapter.low_rank()
        return None if low is None else low.reshaped(shape)

    @property
    def acting_adapter(self) -> Adapter:
        """The adapter with as many ranks as act."""
        return self.adapter if self.dyn is None else self.adapter.truncated(self.dyn)

    def scale_by_weight(self, low: LowRank) -> LowRank:
        """The low-rank form with this piece's weight on it."""
        return low.times(self.weight.unsqueeze(-1) if isinstance(self.weight, Tensor) else self.weight)

    def is_acting(self) -> bool:
        """Whether its weight is other than 0."""
        return bool((self.weight != 0).any()) if isinstance(self.weight, Tensor) else self.weight != 0

    def is_same_adapter(self, other: AppliedAdapter) -> bool:
        """Whether the other piece is this one with, at most, another weight."""
        return (self.adapter, self.dyn, self.rows) == (other.adapter, other.dyn, other.rows)

    def is_equal(self, other: AppliedAdapter) -> bool:
        """Whether the other piece is this one at the same weight; `==` has no answer for (batch,) weights."""
        a, b = self.weight, other.weight
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            alike = isinstance(a, Tensor) and isinstance(b, Tensor) and (a is b or torch.equal(a, b))
        else:
            alike = a == b
        return alike and self.is_same_adapter(other) and self.is_scheduled == other.is_scheduled


@dataclass(frozen=True)
class LayerTarget:
    """Where a site is in a live model: a parameter slot of `module`, or `rows` of it; `shape` of ΔW there."""

    module: nn.Module
    slot: str
    shape: torch.Size
    rows: tuple[int, int] | None = None


def find_layer_targets(part: str, root: nn.Module) -> dict[LayerId, LayerTarget]:
    """Every site of `part` that the live network `root` has, with where it is."""
    found: dict[LayerId, LayerTarget] = {}
    for name, module in root.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found.update(_attention_targets(part, name, module))
            continue
        shape = weight_shape(module)
        site = find_layer_id(part, name) if shape is not None else None
        if site is not None and shape is not None:
            found.setdefault(site, LayerTarget(module, "weight", shape))
    return found


def _attention_targets(part: str, name: str, module: nn.MultiheadAttention) -> Iterator[tuple[LayerId, LayerTarget]]:
    """q, k, v are thirds of `in_proj_weight`; the inner out_proj's own forward never runs, so the attention owns it."""
    width = module.embed_dim
    square = torch.Size((width, width))
    for index, leaf in enumerate(("q_proj", "k_proj", "v_proj")):
        site = find_layer_id(part, f"{name}.{leaf}")
        if site is not None and module.in_proj_weight is not None:
            yield site, LayerTarget(module, "in_proj_weight", square, (index * width, (index + 1) * width))
    site = find_layer_id(part, f"{name}.out_proj")
    if site is not None:
        yield site, LayerTarget(module, "out_proj.weight", square)


def weight_shape(module: nn.Module) -> torch.Size | None:
    """The layer's weight shape from its own description (its storage may be packed), None for other modules."""
    if isinstance(module, nn.Conv2d):
        return torch.Size((module.out_channels, module.in_channels // module.groups, *module.kernel_size))
    if isinstance(module, nn.Linear) or hasattr(module, "in_features"):
        return torch.Size((int(module.out_features), int(module.in_features)))  # type: ignore[arg-type]
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
        return torch.Size(module.weight.shape)
    return None


def are_equal(some: Sequence[AppliedAdapter], others: Sequence[AppliedAdapter]) -> bool:
    """Whether both are the same pieces at the same weights, in order."""
    return len(some) == len(others) and all(map(AppliedAdapter.is_equal, some, others))


def split_low_rank_and_dense(
    applied: tuple[AppliedAdapter, ...], shape: torch.Size
) -> tuple[list[tuple[AppliedAdapter, LowRank]], list[AppliedAdapter]]:
    """The pieces with a low-rank form (and that form at weight 1), and the others."""
    forms = [(piece, piece.low_rank(shape)) for piece in applied]
    return [(piece, low) for piece, low in forms if low is not None], [piece for piece, low in forms if low is None]


def sum_bias_deltas(applied: Sequence[AppliedAdapter], size: int) -> Tensor | None:
    """Σ weight·Δbias in float32, each in its piece's rows, or None when no piece changes the bias.

    (size,), or (batch, size) where some piece has a weight for each picture.
    """
    shifts = [(piece, shift) for piece in applied if (shift := piece.adapter.bias_delta()) is not None]
    if not shifts:
        return None
    total = torch.zeros(size)
    for piece, shift in shifts:
        part = torch.zeros(size)
        part[slice(*piece.rows) if piece.rows else slice(None)] = shift.float().flatten().cpu()
        weight = piece.weight
        total = total + part * (weight.cpu().unsqueeze(-1) if isinstance(weight, Tensor) else weight)
    return total

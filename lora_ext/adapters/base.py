"""The contract of an adapter: one kind of file entry, at one layer.

A kind is one file in this folder and one row of `ADAPTERS`. It names the suffixes it stores, and computes
ΔW either as a `LowRank` (then everything about it is a gain) or from the layer's weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import FitError
from ..lowrank import LowRank

_SPARSE = frozenset({"bias_indices", "bias_values", "bias_size"})

COMMON_SUFFIXES = frozenset({"alpha", "scale", "bias", "dora_scale", "lora_magnitude_vector"}) | _SPARSE
"""Suffixes that any kind may carry beside its own."""

_SCALAR_SUFFIXES = frozenset({"alpha", "scale", "on_input", "bias_indices", "bias_size"})
"""Suffixes whose dtype says nothing about the factors'."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """`tensors`: suffix → tensor exactly as the file holds it (suffixes in kohya/LyCORIS words).

    A kind implements `unscaled_delta` and `is_shape`; it overrides `low_rank`, `rank`, `scaling` or `bias_delta`
    where it has them.
    Instances compare by identity: a file read again is other content.
    """

    tensors: Mapping[str, Tensor]

    kind: ClassVar[str]
    """The name shown to users: "LoRA", "LoHa", …"""
    required_suffixes: ClassVar[tuple[frozenset[str], ...]]
    """Alternative sets of suffixes; a layer is of this kind when it has all of one of them."""
    optional_suffixes: ClassVar[frozenset[str]] = frozenset()
    """Further suffixes of this kind."""

    @classmethod
    def accepts(cls, suffixes: frozenset[str]) -> bool:
        """Whether a layer with these suffixes is of this kind."""
        return any(need <= suffixes for need in cls.required_suffixes)

    @property
    def rank(self) -> int | None:
        """Rank of the factors, None for kinds without one."""
        return None

    @property
    def alpha(self) -> float | None:
        """The stored alpha, None when the file has none (then alpha = rank)."""
        alpha = self.tensors.get("alpha")
        return None if alpha is None else float(alpha)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the factors are stored in."""
        return next(t.dtype for name, t in self.tensors.items() if name not in _SCALAR_SUFFIXES)

    def scaling(self) -> float:
        """What ΔW is multiplied by: `scale` if stored, else alpha/rank, else 1."""
        if "scale" in self.tensors:
            return float(self.tensors["scale"])
        if self.rank and self.alpha is not None:
            return self.alpha / self.rank
        return 1.0

    def low_rank(self) -> LowRank | None:
        """ΔW at weight 1 as U·diag(g)·D, or None when it has no such form."""
        return None

    def truncated(self, rank: int) -> Adapter:
        """The same file with the first `rank` ranks (a prompt's `dyn`); only LoRA has such a prefix."""
        return self

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """ΔW before scaling and DoRA, float32; `weight` (float32) gives the shape and, for some kinds, the values."""
        raise NotImplementedError

    def has_consistent_factors(self) -> bool:
        """Whether the factors agree with each other, whatever layer they are for; arithmetic on shapes only."""
        return True

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether the stored shapes agree with each other and make a ΔW of `shape`; arithmetic on shapes only."""
        raise NotImplementedError

    def delta(self, weight: Tensor) -> Tensor:
        """ΔW at weight 1 in float32, in the shape of `weight`: (raw + bias) · scaling, then DoRA.

        Raises FitError when the stored shapes do not fit `weight`.
        """
        weight = weight.detach().float()
        if not self.fits(weight.shape):
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in self.tensors.items() if t.dim())
            raise FitError(f"{self.kind} with {shapes} does not fit a weight of {tuple(weight.shape)}")
        low = self.low_rank()
        if low is not None:
            low = LowRank(*(t.to(weight.device) for t in (low.up, low.gain, low.down)))
            return low.reshaped(weight.shape).delta()
        delta = self.unscaled_delta(weight).reshape(weight.shape)
        residual = self.full_residual(weight)
        if residual is not None:
            delta = delta + residual
        delta = delta * self.scaling()
        magnitude = self.magnitude()
        return delta if magnitude is None else dora_delta(weight, delta, magnitude)

    def full_residual(self, weight: Tensor) -> Tensor | None:
        """What the file adds to `raw` in full: `bias`, or its sparse form `bias_indices, bias_values, bias_size`.

        Both come from LyCORIS' extraction, which keeps the largest entries that a low rank misses.
        """
        if "bias" in self.tensors:
            return self.stored_tensor("bias", weight).to_dense().reshape(weight.shape)
        if "bias_values" not in self.tensors:
            return None
        dense = torch.zeros(self.tensors["bias_size"].tolist())
        places = tuple(self.tensors["bias_indices"].long().cpu())
        # index_put checks its bounds, which a sparse tensor made from a file's indices would not
        dense.index_put_(places, self.tensors["bias_values"].float().cpu(), accumulate=True)
        return dense.to(weight.device).reshape(weight.shape)

    def magnitude(self) -> Tensor | None:
        """DoRA's magnitude as `dora_delta` reads it, or None.

        PEFT's vector is (out,), for a Conv2d (1, out, 1, 1): flattened here, for that shape is a per-input magnitude
        in LyCORIS' words.
        """
        vector = self.tensors.get("lora_magnitude_vector")
        return self.tensors.get("dora_scale") if vector is None else vector.flatten()

    def bias_delta(self) -> Tensor | None:
        """What is added to the layer's bias at weight 1 (float32), or None."""
        return None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether ΔW can be laid out as a weight of `shape`; never computes ΔW."""
        shape = torch.Size(shape)
        try:
            return bool(shape) and self.is_shape(shape) and self._extras_fit(shape)
        except (IndexError, ValueError, RuntimeError):  # a tensor with fewer axes than its format has
            return False

    def _extras_fit(self, shape: torch.Size) -> bool:
        magnitude = self.magnitude()
        if magnitude is not None and magnitude_axis(magnitude.shape, shape) is None:
            return False
        if "bias" in self.tensors:
            return self.tensors["bias"].numel() == shape.numel()
        if not self.tensors.keys() & _SPARSE:
            return True
        if not self.tensors.keys() >= _SPARSE:
            return False
        places, values, size = (self.tensors[name] for name in ("bias_indices", "bias_values", "bias_size"))
        inside = (places >= 0) & (places < size.reshape(-1, 1))
        return prod(size.tolist()) == shape.numel() and places.shape[1:] == values.shape and bool(inside.all())

    def stored_tensor(self, name: str, like: Tensor) -> Tensor:
        """The stored tensor `name`, in float32 on the device of `like`."""
        return self.tensors[name].to(like.device, torch.float32)

    def stored_shape(self, name: str) -> torch.Size:
        """Shape of the stored tensor `name`."""
        return self.tensors[name].shape


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a tensor flattened after its first axis."""
    return shape[0], prod(shape[1:])


def product_shape(left: Sequence[int], right: Sequence[int]) -> tuple[int, int] | None:
    """(rows, columns) of left @ right, both flattened; None when their inner sizes differ."""
    (rows, inner), (outer, columns) = matrix_shape(left), matrix_shape(right)
    return (rows, columns) if inner == outer else None


def magnitude_axis(magnitude: Sequence[int], shape: Sequence[int]) -> int | None:
    """The axis of a weight of `shape` that DoRA's magnitude spans: 0 (outputs), 1 (inputs), None when it fits neither.

    (1, in, …) is per input, also where in = out; all else of `out` numbers is per output.
    """
    if len(shape) > 1 and len(magnitude) > 1 and tuple(magnitude[:2]) == (1, shape[1]) and prod(magnitude) == shape[1]:
        return 1
    return 0 if prod(magnitude) == shape[0] else None


def dora_delta(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """ΔW of a DoRA (arXiv 2402.09353): m · V/‖V‖ − W with V = W + ΔW.

    The norm runs over all axes but the one that `magnitude` spans: (out, 1, …) is one norm per output row
    (the paper, newer LyCORIS, PEFT's vector of length out), (1, in, …) one per input column (older LyCORIS).
    Raises FitError when it spans neither.
    """
    axis = magnitude_axis(magnitude.shape, weight.shape)
    if axis is None:
        raise FitError(f"dora_scale of shape {tuple(magnitude.shape)} does not fit a weight of {tuple(weight.shape)}")
    merged = weight + delta
    over = [d for d in range(merged.dim()) if d != axis]
    span = [1] * merged.dim()
    span[axis] = -1
    norm = torch.linalg.vector_norm(merged, dim=over, keepdim=True)
    # a pruned row has no direction: it stays zero, where a division by zero would spoil the picture
    norm = norm.clamp(min=torch.finfo(norm.dtype).eps)
    return merged * (magnitude.to(weight.device, torch.float32).reshape(span) / norm) - weight

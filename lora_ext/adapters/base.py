"""The contract of an adapter: one kind of file entry, at one layer.

A kind is one file in this folder and one row of `ADAPTERS`. It names the suffixes it stores, and computes
ΔW either as a `LowRank` (then everything about it is a gain) or from the layer's weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import FitError
from ..lowrank import LowRank

COMMON = frozenset({"alpha", "scale", "bias", "dora_scale"})
"""Suffixes that any kind may carry beside its own."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """`tensors`: suffix → tensor exactly as the file holds it (suffixes in kohya/LyCORIS words).

    Instances compare by identity: a file read again is other content.
    """

    tensors: Mapping[str, Tensor]

    kind: ClassVar[str]
    """The name shown to users: "LoRA", "LoHa", …"""
    needs: ClassVar[tuple[frozenset[str], ...]]
    """Alternative sets of suffixes; a layer is of this kind when it has all of one of them."""
    may: ClassVar[frozenset[str]] = frozenset()
    """Further suffixes of this kind."""

    @classmethod
    def accepts(cls, suffixes: frozenset[str]) -> bool:
        """Whether a layer with these suffixes is of this kind."""
        return any(need <= suffixes for need in cls.needs)

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
        return next(t.dtype for name, t in self.tensors.items() if name not in ("alpha", "scale"))

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

    def raw(self, weight: Tensor) -> Tensor:
        """ΔW before scaling and DoRA, float32; `weight` (float32) gives the shape and, for some kinds, the values."""
        raise NotImplementedError

    def delta(self, weight: Tensor) -> Tensor:
        """ΔW at weight 1 in float32, in the shape of `weight`: (raw + bias) · scaling, then DoRA.

        Raises FitError when the stored shapes do not fit `weight`.
        """
        weight = weight.detach().float()
        low = self.low_rank()
        if low is not None:
            return low.reshaped(weight.shape).delta()
        try:
            delta = self.raw(weight)
            if "bias" in self.tensors:
                bias = self.tensors["bias"].to(weight.device, torch.float32)
                delta = delta.reshape(weight.shape) + bias.to_dense().reshape(weight.shape)
            delta = delta.reshape(weight.shape) * self.scaling()
        except (RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in self.tensors.items())
            raise FitError(f"{self.kind} with {shapes} does not fit a weight of {tuple(weight.shape)}") from error
        if "dora_scale" in self.tensors:
            delta = decompose(weight, delta, self.tensors["dora_scale"])
        return delta

    def bias_delta(self) -> Tensor | None:
        """What is added to the layer's bias at weight 1 (float32), or None."""
        return None

    def fits(self, shape: torch.Size) -> bool:
        """Whether ΔW can be laid out as a weight of `shape` (checked without computing ΔW where possible)."""
        low = self.low_rank()
        try:
            if low is not None:
                low.reshaped(shape)
            else:
                self.delta(torch.zeros(shape))
        except FitError:
            return False
        return True

    def to(self, name: str, like: Tensor) -> Tensor:
        """The stored tensor `name`, in float32 on the device of `like`."""
        return self.tensors[name].to(like.device, torch.float32)


def decompose(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """ΔW of a DoRA (arXiv 2402.09353): m · V/‖V‖ − W with V = W + ΔW.

    The norm runs over all axes but the one that `magnitude` spans: (out, 1, …) is one norm per output row
    (the paper, newer LyCORIS, PEFT's vector of length out), (1, in, …) one per input column (older LyCORIS).
    """
    magnitude = magnitude.to(weight.device, torch.float32)
    out = weight.shape[0]
    per_input = magnitude.dim() > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] == weight.shape[1]
    if per_input and not (out == 1 and weight.shape[1] == 1):
        axis = 1
    elif magnitude.numel() == out:
        axis = 0
    else:
        raise FitError(f"dora_scale of shape {tuple(magnitude.shape)} does not fit a weight of {tuple(weight.shape)}")
    merged = weight + delta
    over = [d for d in range(merged.dim()) if d != axis]
    span = [1] * merged.dim()
    span[axis] = -1
    norm = merged.pow(2).sum(dim=over, keepdim=True).sqrt()
    return merged * (magnitude.reshape(span) / norm) - weight

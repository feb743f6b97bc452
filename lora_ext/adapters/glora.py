"""GLoRA (arXiv 2306.07967): ΔW = W·A + B with A and B of low rank."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..lowrank import LowRank
from .base import Adapter, matrix_shape, product_shape

_NAMES = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


class GLoRA(Adapter):
    """ΔW = W·A + B. Files have one of two orientations.

    Older LyCORIS (`is_older_format`): A = a2 · a1, B = b2 · b1. Tensors: a1, b1 (r, in), a2 (in, r), b2 (out, r);
    kernels of 1x1 only. These are applied at scale 1, as in the web UI.
    Newer: A = a1 · a2, B = b1 · b2. Tensors: a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in[, kh, kw]), and
    optionally bm (r, r, kh, kw), a Tucker core of B.
    """

    kind: ClassVar[str] = "GLoRA"
    required_suffixes: ClassVar = (frozenset(_NAMES),)
    optional_suffixes: ClassVar = frozenset({"bm.weight"})

    @property
    def is_older_format(self) -> bool:
        """Whether the rank is the first axis of a1. Square layers may fit both ways; then rank ≤ size decides."""
        a1, a2, b1, b2 = (matrix_shape(self.stored_shape(name)) for name in _NAMES)
        older = a1[0] == a2[1] == b1[0] == b2[1]
        newer = a1[1] == a2[0] == b1[1] == b2[0]
        return older and not (newer and a1[0] > a1[1])

    @property
    def rank(self) -> int:
        """The rank of A and B."""
        return self.stored_shape("a1.weight" if self.is_older_format else "a2.weight")[0]

    def scaling(self) -> float:
        """Returns 1 for the older format, as the web UI does; else as for every kind."""
        return 1.0 if self.is_older_format and "scale" not in self.tensors else super().scaling()

    def _times(self, factor: float) -> Adapter | None:
        if not self.is_older_format:
            return super()._times(factor)
        return replace(self, tensors={**self.tensors, "scale": torch.tensor(self.scaling() * factor)})

    def has_consistent_factors(self) -> bool:
        """Whether the inner sizes of A's and B's factors agree."""
        a, b = (tuple(self.stored_shape(name) for name in pair) for pair in self._pairs())
        return product_shape(*a) is not None and ("bm.weight" in self.tensors or product_shape(*b) is not None)

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether A is (in, in) and B has the shape of the weight."""
        (a_up, a_down), (b_up, b_down) = (tuple(self.stored_shape(n) for n in pair) for pair in self._pairs())
        if len(shape) < 2 or product_shape(a_up, a_down) != (shape[1], shape[1]):
            return False
        if "bm.weight" not in self.tensors:
            return product_shape(b_up, b_down) == matrix_shape(shape)
        core = self.stored_shape("bm.weight")
        return core[:2] == (matrix_shape(b_up)[1], b_down[0]) and (
            b_up[0],
            matrix_shape(b_down)[1],
            *core[2:],
        ) == tuple(shape)

    def _pairs(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """(left, right) names of A's and B's factors."""
        a, b = ("a1.weight", "a2.weight"), ("b1.weight", "b2.weight")
        return (a[::-1], b[::-1]) if self.is_older_format else (a, b)

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes W·A + B."""
        (a_up, a_down), (b_up, b_down) = (tuple(self.stored_tensor(n, weight) for n in pair) for pair in self._pairs())
        mid = self.stored_tensor("bm.weight", weight) if "bm.weight" in self.tensors else None
        b = LowRank.from_factors(b_up, b_down, mid=mid).delta().reshape(weight.shape)
        thin = torch.einsum("oi...,ir->or...", weight, a_up.flatten(1))
        return b + torch.einsum("or...,ri->oi...", thin, a_down.flatten(1))

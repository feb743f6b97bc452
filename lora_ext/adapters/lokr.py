"""LoKr: ΔW is a Kronecker product (KronA, arXiv 2212.10650; LyCORIS, arXiv 2309.14859)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Adapter, matrix_shape, product_shape
from .loha import tucker_product, tucker_shape

_LEFT = (frozenset({"lokr_w1"}), frozenset({"lokr_w1_a", "lokr_w1_b"}))
_RIGHT = (frozenset({"lokr_w2"}), frozenset({"lokr_w2_a", "lokr_w2_b"}))


class LoKr(Adapter):
    """ΔW = w1 ⊗ w2, for a weight of (a·b, c·d[, kh, kw]). Where w1 and w2 are both full there is no rank.

    Tensors: w1 (a, c), or w1_a (a, r) and w1_b (r, c); w2 (b, d[, kh, kw]), or w2_a (b, r) and w2_b (r, d·kh·kw), or
    a Tucker core t2 (r, r, kh, kw) with w2_a (r, b) and w2_b (r, d).
    """

    kind: ClassVar[str] = "LoKr"
    required_suffixes: ClassVar = tuple(left | right for left in _LEFT for right in _RIGHT)
    optional_suffixes: ClassVar = frozenset({"lokr_t2"})
    flattens_kernel: ClassVar = True

    @property
    def rank(self) -> int | None:
        """The rank of the factored side, w2 first; None where both sides are full (then the scale is 1)."""
        factored = next((name for name in ("lokr_w2_b", "lokr_w1_b") if name in self.tensors), None)
        return None if factored is None else self.stored_shape(factored)[0]

    def has_consistent_factors(self) -> bool:
        """Whether the ranks of each side's factors agree."""
        return self._size("lokr_w1") is not None and self._size("lokr_w2") is not None

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether the Kronecker product has the rows and columns of the weight."""
        return self.delta_shape() == matrix_shape(shape)

    def delta_shape(self) -> tuple[int, ...] | None:
        """Returns (rows, columns) of the Kronecker product; None where the factors of a side disagree."""
        left, right = self._size("lokr_w1"), self._size("lokr_w2")
        return None if left is None or right is None else (left[0] * right[0], left[1] * right[1])

    def _times(self, factor: float) -> Adapter | None:
        full = not self.rank and "scale" not in self.tensors
        return self._times_tensors(factor, "lokr_w1") if full else super()._times(factor)

    def _size(self, name: str) -> tuple[int, int] | None:
        """(rows, columns) of w1 or w2, None when its factors disagree."""
        if name in self.tensors:
            return matrix_shape(self.stored_shape(name))
        a, b = self.stored_shape(f"{name}_a"), self.stored_shape(f"{name}_b")
        if name == "lokr_w2" and "lokr_t2" in self.tensors:
            whole = tucker_shape(self.stored_shape("lokr_t2"), a, b)
            return matrix_shape(whole) if whole else None
        return product_shape(a, b)

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes the Kronecker product of two matrices, kernels flattened into the columns."""
        # the kernel is the last axis of w2's columns, and of the product's too: one formula for all layers
        return torch.kron(*self.sides(weight))

    def sides(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Computes w1 (a, c) and w2 (b, d·kh·kw), float32 on the device of `like`."""
        return self._whole("lokr_w1", like), self._whole("lokr_w2", like)

    def _whole(self, name: str, like: Tensor) -> Tensor:
        """Returns w1 or w2 as a matrix."""
        if name in self.tensors:
            return self.stored_tensor(name, like).flatten(1)
        a, b = self.stored_tensor(f"{name}_a", like), self.stored_tensor(f"{name}_b", like)
        if name == "lokr_w2" and "lokr_t2" in self.tensors:
            return tucker_product(self.stored_tensor("lokr_t2", like), a, b).flatten(1)
        return a.flatten(1) @ b.flatten(1)

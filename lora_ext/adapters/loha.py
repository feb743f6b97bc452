"""LoHa: ΔW is the elementwise product of two low-rank matrices (FedPara, 2108.06098; LyCORIS, arXiv 2309.14859)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Adapter, matrix_shape, product_shape


class LoHa(Adapter):
    """ΔW = (w1_a · w1_b) ∘ (w2_a · w2_b). Its rank is up to r², so there is no `low_rank`.

    Tensors: w1_a, w2_a (out, r); w1_b, w2_b (r, in·kh·kw). With a Tucker core t1, t2 (r, r, kh, kw), a side is
    Σ t_ij · a_i · b_j, with a (r, out) and b (r, in).
    """

    kind: ClassVar[str] = "LoHa"
    required_suffixes: ClassVar = (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),)
    optional_suffixes: ClassVar = frozenset({"hada_t1", "hada_t2"})
    flattens_kernel: ClassVar = True

    @property
    def rank(self) -> int:
        """The rank r of each side."""
        return self.stored_shape("hada_w1_b")[0]

    def has_consistent_factors(self) -> bool:
        """Whether the ranks of both sides' factors agree."""
        for side in (1, 2):
            a, b, core = self.stored_shape(f"hada_w{side}_a"), self.stored_shape(f"hada_w{side}_b"), f"hada_t{side}"
            whole = tucker_shape(self.stored_shape(core), a, b) if core in self.tensors else product_shape(a, b)
            if whole is None:
                return False
        return True

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether both sides have the shape of the weight."""
        return all(self._side_spans(side, shape) for side in (1, 2))

    def delta_shape(self) -> tuple[int, ...]:
        """Returns the shape of a side with a Tucker core, kernel included; else of the first side's matrix."""
        side = 2 if "hada_t2" in self.tensors and "hada_t1" not in self.tensors else 1
        a, b, core = self.stored_shape(f"hada_w{side}_a"), self.stored_shape(f"hada_w{side}_b"), f"hada_t{side}"
        return (a[1], b[1], *self.stored_shape(core)[2:]) if core in self.tensors else (a[0], b[1:].numel())

    def _side_spans(self, side: int, shape: torch.Size) -> bool:
        a, b = self.stored_shape(f"hada_w{side}_a"), self.stored_shape(f"hada_w{side}_b")
        if f"hada_t{side}" not in self.tensors:
            return product_shape(a, b) == matrix_shape(shape)
        return tucker_shape(self.stored_shape(f"hada_t{side}"), a, b) == tuple(shape)

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes the elementwise product of both sides."""
        return self._side(1, weight) * self._side(2, weight)

    def _side(self, side: int, weight: Tensor) -> Tensor:
        a, b = self.stored_tensor(f"hada_w{side}_a", weight), self.stored_tensor(f"hada_w{side}_b", weight)
        core = f"hada_t{side}"
        whole = (
            tucker_product(self.stored_tensor(core, weight), a, b)
            if core in self.tensors
            else a.flatten(1) @ b.flatten(1)
        )
        return whole.reshape(weight.shape)


def tucker_product(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Computes a Tucker product, Σ core_ij · a_i · b_j.

    Args:
        core (Tensor): (r, r, kh, kw).
        a (Tensor): (r, out).
        b (Tensor): (r, in).

    Returns:
        Tensor (out, in, kh, kw).
    """
    return torch.einsum("ij...,io,jn->on...", core, a, b)


def tucker_shape(core: torch.Size, a: torch.Size, b: torch.Size) -> tuple[int, ...] | None:
    """Returns the shape of `tucker_product`; None where the ranks differ."""
    return (a[1], b[1], *core[2:]) if core[:2] == (a[0], b[0]) else None

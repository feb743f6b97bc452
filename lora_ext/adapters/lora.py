"""LoRA (arXiv 2106.09685) on Linear and Conv2d: LierLa, C3Lier, LoCon with a Tucker core, DyLoRA files."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..lowrank import LowRank
from .base import Adapter, matrix_shape, product_shape

DOWN, MID, UP = "lora_down.weight", "lora_mid.weight", "lora_up.weight"
"""Suffixes of the factors."""
_BIASES = ("diff_b", "lora_up.bias")
_FULL_RANK = frozenset({"dora_scale", "lora_magnitude_vector", "bias", "bias_values"})
"""Tensors with which ΔW is not of low rank."""
_SCALABLE = frozenset({"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "scale", "diff_b"})
"""Tensors of a layer whose scale can move into its factors."""


class Lora(Adapter):
    """ΔW = alpha/r · up · down.

    Tensors: up (out, r) or (out, r, 1, 1); down (r, in) or (r, in, kh, kw); optionally mid (r, r, kh, kw), a Tucker
    core; alpha (). A change of the layer's bias: diff_b (out,), which ComfyUI's LoraSave writes, added without
    alpha / r; lora_up.bias (out,), PEFT's `lora_bias`, with it.
    """

    kind: ClassVar[str] = "LoRA"
    required_suffixes: ClassVar = (frozenset({"lora_up.weight", "lora_down.weight"}),)
    optional_suffixes: ClassVar = frozenset({"lora_mid.weight", *_BIASES})

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.stored_shape("lora_down.weight")[0]

    def factors(self, scale: float = 1.0) -> LowRank:
        """Returns U·D of the stored factors with this gain: before alpha, DoRA and residual."""
        t = self.tensors
        return LowRank.from_factors(
            t["lora_up.weight"], t["lora_down.weight"], scale=scale, mid=t.get("lora_mid.weight")
        )

    def low_rank(self) -> LowRank | None:
        """Returns ΔW as U·diag(g)·D; None with DoRA or a full residual, which are not of low rank."""
        if "lora_mid.weight" in self.tensors:  # not cached: D with the core in it is larger than the stored factors
            return self._scaled()
        return self._low

    @cached_property
    def _low(self) -> LowRank | None:
        return self._scaled()

    def _scaled(self) -> LowRank | None:
        return None if _FULL_RANK & self.tensors.keys() else self.factors(self.scaling())

    def truncated(self, rank: int) -> Lora:
        """Keeps the first ranks.

        Args:
            rank: how many ranks to keep.

        Returns:
            The adapter with these ranks at the scale of all; itself with a Tucker core.
        """
        if "lora_mid.weight" in self.tensors or rank >= self.rank:
            return self
        up, down = self.tensors["lora_up.weight"], self.tensors["lora_down.weight"]
        parts = {"lora_up.weight": up[:, :rank], "lora_down.weight": down[:rank], "scale": torch.tensor(self.scaling())}
        return Lora({**self.tensors, **parts})

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether up · (mid ·) down has the shape of the weight, and a bias one number for each output."""
        if any(self.tensors[name].numel() != shape[0] for name in _BIASES if name in self.tensors):
            return False
        up, down = self.stored_shape("lora_up.weight"), self.stored_shape("lora_down.weight")
        if "lora_mid.weight" not in self.tensors:
            return product_shape(up, down) == matrix_shape(shape)
        mid = self.stored_shape("lora_mid.weight")
        return mid[:2] == (matrix_shape(up)[1], down[0]) and (up[0], matrix_shape(down)[1], *mid[2:]) == tuple(shape)

    def bias_delta(self) -> Tensor | None:
        """Returns diff_b + alpha/r · lora_up.bias (out,), or None."""
        found = [
            self.tensors[name].float().flatten() * (1.0 if name == "diff_b" else self.scaling())
            for name in _BIASES
            if name in self.tensors
        ]
        return sum(found[1:], found[0]) if found else None

    def _times(self, factor: float) -> Adapter | None:
        made = super()._times(factor)
        if made is None or "diff_b" not in self.tensors:
            return made
        bias = self.tensors["diff_b"]
        return Lora({**made.tensors, "diff_b": (bias.float() * factor).to(bias.dtype)})

    def delta_shape(self) -> tuple[int, ...]:
        """Returns the shape of up · (mid ·) down."""
        return self.factors().shape

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes up · (mid ·) down."""
        factors = self.factors()
        return LowRank(*(t.to(weight.device) for t in (factors.up, factors.gain, factors.down))).delta()

    def with_alpha(self, alpha: float) -> Lora | None:
        """Makes the layer with another alpha and the same ΔW: the rest of its scale is multiplied into the factors.

        Factors in 32 bits are multiplied and rounded. In 16 bits the product must be exact, a power of two; the rank is
        padded with zeros, to less than twice its size, where alpha / rank then leaves such a factor.

        Args:
            alpha: the alpha of the result.

        Returns:
            The layer; itself where it has this alpha; None where a number would be rounded.
        """
        if self.alpha == alpha and "scale" not in self.tensors:
            return self
        if self.tensors.keys() - _SCALABLE or not alpha:
            return None
        up, down = self.tensors["lora_up.weight"], self.tensors["lora_down.weight"]
        factor = self.scaling() * self.rank / alpha
        rest = {name: t for name, t in self.tensors.items() if name in ("lora_mid.weight", "diff_b")}
        rest["alpha"] = torch.tensor(alpha)
        if up.dtype in (torch.float32, torch.float64):
            return Lora({**rest, "lora_up.weight": (up.double() * factor).to(up.dtype), "lora_down.weight": down})
        rank = _rank_with_power_of_two(self.rank, factor)
        if rank is None or (rank != self.rank and "lora_mid.weight" in rest):
            return None
        exponent = round(math.log2(abs(factor) * rank / self.rank))
        half = exponent // 2  # both factors take a share, so that neither leaves the range of fp16
        exact_up = _exact_product(up, math.copysign(2.0 ** (exponent - half), factor))
        exact_down = _exact_product(down, 2.0**half)
        if exact_up is None or exact_down is None:
            return None
        more = rank - self.rank
        up = torch.cat([exact_up, up.new_zeros(up.shape[0], more, *up.shape[2:])], dim=1)
        down = torch.cat([exact_down, down.new_zeros(more, *down.shape[1:])])
        return Lora({**rest, "lora_up.weight": up, "lora_down.weight": down})


def _rank_with_power_of_two(rank: int, factor: float) -> int | None:
    """The smallest rank, below twice `rank`, at which the factor of the layer is a power of two; None for none.

    At another rank, alpha / rank is smaller by new / rank, and the factor larger by as much.

    Example:
        >>> [_rank_with_power_of_two(*case) for case in ((8, 2 / 3), (16, 0.5), (16, 0.7))]
        [12, 16, None]
    """
    if not factor:
        return None
    share = math.log2(abs(factor)) % 1  # 2^share is the odd part of the factor, 1 to 2
    wanted = rank * 2 ** ((1 - share) % 1)
    return round(wanted) if abs(wanted - round(wanted)) < 1e-6 * wanted else None


def _exact_product(tensor: Tensor, factor: float) -> Tensor | None:
    """`tensor` · `factor` in its own dtype; None where a number is rounded."""
    exact = tensor.float() * factor
    product = exact.to(tensor.dtype)
    return product if torch.equal(product.float(), exact) else None

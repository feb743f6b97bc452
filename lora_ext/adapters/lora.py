"""LoRA (arXiv 2106.09685) on Linear and Conv2d: LierLa, C3Lier, LoCon with a Tucker core, DyLoRA files."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..lowrank import LowRank
from .base import Adapter, matrix_shape, product_shape


class Lora(Adapter):
    """ΔW = alpha/r · up · down.

    Tensors: up (out, r) or (out, r, 1, 1); down (r, in) or (r, in, kh, kw); optionally mid (r, r, kh, kw), a Tucker
    core; alpha ().
    """

    kind: ClassVar[str] = "LoRA"
    required_suffixes: ClassVar = (frozenset({"lora_up.weight", "lora_down.weight"}),)
    optional_suffixes: ClassVar = frozenset({"lora_mid.weight"})

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.stored_shape("lora_down.weight")[0]

    def factors(self) -> LowRank:
        """Returns U·D of the stored factors with a gain of ones: before alpha, DoRA and residual."""
        t = self.tensors
        return LowRank.from_factors(t["lora_up.weight"], t["lora_down.weight"], mid=t.get("lora_mid.weight"))

    def low_rank(self) -> LowRank | None:
        """Returns ΔW as U·diag(g)·D; None with DoRA or a full residual, which are not of low rank."""
        if "lora_mid.weight" in self.tensors:  # not cached: D with the core in it is larger than the stored factors
            return self._scaled()
        return self._low

    @cached_property
    def _low(self) -> LowRank | None:
        return self._scaled()

    def _scaled(self) -> LowRank | None:
        extras = {"dora_scale", "lora_magnitude_vector", "bias", "bias_values"}
        return None if extras & self.tensors.keys() else self.factors().times(self.scaling())

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
        """Whether up · (mid ·) down has the shape of the weight."""
        up, down = self.stored_shape("lora_up.weight"), self.stored_shape("lora_down.weight")
        if "lora_mid.weight" not in self.tensors:
            return product_shape(up, down) == matrix_shape(shape)
        mid = self.stored_shape("lora_mid.weight")
        return mid[:2] == (matrix_shape(up)[1], down[0]) and (up[0], matrix_shape(down)[1], *mid[2:]) == tuple(shape)

    def delta_shape(self) -> tuple[int, ...]:
        """Returns the shape of up · (mid ·) down."""
        return self.factors().shape

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes up · (mid ·) down."""
        factors = self.factors()
        return LowRank(*(t.to(weight.device) for t in (factors.up, factors.gain, factors.down))).delta()

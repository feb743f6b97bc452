"""LoRA (arXiv 2106.09685) on Linear and Conv2d: LierLa, C3Lier, LoCon with a Tucker core, DyLoRA files."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from ..lowrank import LowRank
from .base import Adapter, matrix_shape, product_shape

_BIASES = ("diff_b", "lora_up.bias")


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

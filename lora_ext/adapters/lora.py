"""LoRA (arXiv 2106.09685) on Linear and Conv2d: LierLa, C3Lier, LoCon with Tucker core, DyLoRA files."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..lowrank import LowRank
from .base import Adapter


class Lora(Adapter):
    """up (out, r[, 1, 1]), down (r, in[, kh, kw]), optional mid (r, r, kh, kw), alpha ()."""

    kind: ClassVar[str] = "LoRA"
    needs: ClassVar = (frozenset({"lora_up.weight", "lora_down.weight"}),)
    may: ClassVar = frozenset({"lora_mid.weight"})

    @property
    def rank(self) -> int:
        return self.tensors["lora_down.weight"].shape[0]

    def factors(self) -> LowRank:
        """U·D of the stored factors with a gain of ones: before alpha, DoRA and `bias`."""
        t = self.tensors
        return LowRank.of(t["lora_up.weight"], t["lora_down.weight"], mid=t.get("lora_mid.weight"))

    def low_rank(self) -> LowRank | None:
        return None if {"dora_scale", "bias"} & self.tensors.keys() else self.factors().times(self.scaling())

    def raw(self, weight: Tensor) -> Tensor:
        return self.factors().reshaped(weight.shape).delta().to(weight.device)

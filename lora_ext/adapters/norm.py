"""Norm: differences of the weight and bias of a LayerNorm or GroupNorm (LyCORIS "norm")."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Adapter


class Norm(Adapter):
    """Δweight = w_norm. Tensors: w_norm (n,); b_norm (n,), added to the bias without `scale`."""

    kind: ClassVar[str] = "norm"
    required_suffixes: ClassVar = (frozenset({"w_norm"}),)
    optional_suffixes: ClassVar = frozenset({"b_norm"})

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether the layer's weight is a vector of the same length."""
        return len(shape) == 1 and all(
            t.numel() == shape[0] for n, t in self.tensors.items() if n in ("w_norm", "b_norm")
        )

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Returns w_norm."""
        return self.stored_tensor("w_norm", weight)

    def _times(self, factor: float) -> Adapter:
        return self._times_tensors(factor, "w_norm", "b_norm")

    def bias_delta(self) -> Tensor | None:
        """Returns b_norm (n,), or None."""
        bias = self.tensors.get("b_norm")
        return None if bias is None else bias.float().flatten()

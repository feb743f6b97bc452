"""(IA)³ (arXiv 2205.05638): one learned factor per input or per output channel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Adapter


class IA3(Adapter):
    """ΔW = W · weight. Tensors: weight (n,) or (1, n, 1, 1); on_input (): 1 scales inputs, 0 outputs."""

    kind: ClassVar[str] = "IA3"
    required_suffixes: ClassVar = (frozenset({"weight", "on_input"}),)

    def scaled_axis(self) -> int:
        """Returns the axis of the layer's weight that is scaled."""
        return 1 if bool(self.tensors["on_input"]) else 0

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether there is one factor for each input or output."""
        return len(shape) > 1 and self.stored_shape("weight").numel() == shape[self.scaled_axis()]

    def _times(self, factor: float) -> Adapter:
        return self._times_tensors(factor, "weight")

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Multiplies the weight by the factors."""
        span = [1] * weight.dim()
        span[self.scaled_axis()] = -1
        return weight * self.stored_tensor("weight", weight).reshape(span)

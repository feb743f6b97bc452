"""Full difference: the file stores ΔW itself (LyCORIS "full"; kohya's and LyCORIS' extraction write it too)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Adapter, matrix_shape


class Full(Adapter):
    """ΔW = diff. Tensors: diff, of the shape of the weight; diff_b (out,), added to the bias without `scale`."""

    kind: ClassVar[str] = "full"
    required_suffixes: ClassVar = (frozenset({"diff"}),)
    optional_suffixes: ClassVar = frozenset({"diff_b"})

    def is_shape(self, shape: torch.Size) -> bool:
        """Compares rows and columns, so that a 1x1 kernel may be missing."""
        bias = self.tensors.get("diff_b")
        return matrix_shape(self.stored_shape("diff")) == matrix_shape(shape) and (
            bias is None or bias.numel() == shape[0]
        )

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Returns diff."""
        return self.stored_tensor("diff", weight)

    def _times(self, factor: float) -> Adapter:
        return self._times_tensors(factor, "diff", "diff_b")

    def delta_shape(self) -> tuple[int, ...] | None:
        """Returns the shape of diff; None for a vector."""
        shape = tuple(self.stored_shape("diff"))
        return shape if len(shape) > 1 else None

    def bias_delta(self) -> Tensor | None:
        """Returns diff_b (out,), or None."""
        bias = self.tensors.get("diff_b")
        return None if bias is None else bias.float().flatten()

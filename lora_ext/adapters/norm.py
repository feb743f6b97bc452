"""Norm: differences of the weight and bias of a LayerNorm or GroupNorm (LyCORIS "norm")."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Adapter


class Norm(Adapter):
    """w_norm (n,), and b_norm (n,) where the layer has a bias; `scale` does not touch b_norm."""

    kind: ClassVar[str] = "norm"
    required_suffixes: ClassVar = (frozenset({"w_norm"}),)
    optional_suffixes: ClassVar = frozenset({"b_norm"})

    def is_shape(self, shape: torch.Size) -> bool:
        return len(shape) == 1 and all(
            t.numel() == shape[0] for n, t in self.tensors.items() if n in ("w_norm", "b_norm")
        )

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        return self.stored_tensor("w_norm", weight)

    def bias_delta(self) -> Tensor | None:
        bias = self.tensors.get("b_norm")
        return None if bias is None else bias.float().flatten()

"""`AveragedWeights`: the exponential moving average of the network's weights, which files and samples use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The moving average of Parameters.

    Args:
        parameters: The Parameters.
        decay: Share of the average that a step keeps; less in the first steps: (1 + n) / (10 + n) after n steps.

    Attributes:
        tensors: The average, in float32: in half precision a share of 0.001 would be rounded away.
        trained: The trained values while `swap` has put the average into the Parameters, else None.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.tensors = [torch.empty_like(p, dtype=torch.float32).copy_(p.detach()) for p in self.parameters]
        self.trained: list[Tensor] | None = None

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the Parameters after optimizer step `step`, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.tensors, [p.data.float() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self, averaged: bool) -> None:
        """Puts the average into the Parameters, or the trained values back; the same call again changes nothing."""
        if averaged == (self.trained is not None):
            return
        trained = [p.detach().clone() for p in self.parameters] if averaged else None
        for parameter, tensor in zip(self.parameters, self.trained or self.tensors, strict=True):
            parameter.copy_(tensor)
        self.trained = trained

    @torch.no_grad()
    def load(self, stored: Sequence[Tensor] | None) -> None:
        """Continues from a saved average; without one, or where it does not fit, from the Parameters."""
        fits = stored is not None and [t.shape for t in stored] == [t.shape for t in self.tensors]
        for tensor, value in zip(self.tensors, stored if stored and fits else self.parameters, strict=True):
            tensor.copy_(value)

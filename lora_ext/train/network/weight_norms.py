"""‖ΔW‖ of many modules and its limit; nothing waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .trainable_layer import TrainableLayer


@dataclass(frozen=True)
class NormLimitReport:
    """The norms after a limit was applied; 0-dim tensors on the device.

    Attributes:
        scaled: How many modules were scaled down.
        mean: The mean norm.
        largest: The largest norm.
    """

    scaled: Tensor
    mean: Tensor
    largest: Tensor


@torch.no_grad()
def delta_norms(modules: Sequence[TrainableLayer]) -> Tensor:
    """Computes ‖ΔW‖ (Frobenius) of each module.

    Args:
        modules: The modules.

    Returns:
        (modules,) float32, on the first module's device.
    """
    squares = [module.unscaled_square() for module in modules]
    device = squares[0].device
    scales = torch.tensor([module.delta_scale for module in modules], device=device)
    return torch.stack([square.to(device) for square in squares]).clamp(min=0).sqrt() * scales


@torch.no_grad()
def limit_delta_norms(modules: Sequence[TrainableLayer], limit: float) -> NormLimitReport:
    """Scales the ΔW of every module whose norm exceeds a limit, so that its norm is the limit.

    Args:
        modules: The modules, changed in place.
        limit: The largest norm.

    Returns:
        The norms afterwards.
    """
    before = delta_norms(modules)
    ratio = (limit / before.clamp(min=limit / 2)).clamp(max=1.0)
    scaled: dict[torch.device, tuple[list[Tensor], list[Tensor]]] = {}
    for place in {next(module.parameters()).device for module in modules}:
        roots_by_count: dict[int, Sequence[Tensor]] = {}
        for index, module in enumerate(modules):
            tensors = module.linear_tensors()
            if next(module.parameters()).device == place:
                n = len(tensors)
                if n not in roots_by_count:
                    roots = ratio.sqrt() if n == 2 else ratio ** (1 / n)
                    roots_by_count[n] = roots.to(place).unbind()
                into, factors = scaled.setdefault(place, ([], []))
                into += tensors
                factors += [roots_by_count[n][index]] * n
    for into, factors in scaled.values():
        torch._foreach_mul_(into, factors)
    after = before * ratio
    return NormLimitReport((ratio < 1).sum(), after.mean(), after.max())

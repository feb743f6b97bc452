"""‖ΔW‖ of many modules and its limit, from r×r Gram matrices: ΔW is not computed, and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .trainable_factors import TrainableFactors


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
def delta_norms(modules: Sequence[TrainableFactors]) -> Tensor:
    """Computes ‖alpha/R · U·D‖ (Frobenius) of each module as √⟨UᵀU, DDᵀ⟩ · alpha/R.

    Args:
        modules: Factors D (R, in[, kh, kw]) and Uᵀ (R, out).

    Returns:
        (modules,) float32, on the first module's device.
    """
    device = modules[0].down.device
    squares = []
    for module in modules:
        down, up = module.down.flatten(1), module.up
        squares.append(torch.sum((up @ up.t()) * (down @ down.t())).to(device))
    scales = torch.tensor([module.alpha / module.rank for module in modules], device=device)
    return torch.stack(squares).clamp(min=0).sqrt() * scales


@torch.no_grad()
def limit_delta_norms(modules: Sequence[TrainableFactors], limit: float) -> NormLimitReport:
    """Scales D and U of every module whose norm exceeds a limit by the same number, so that its norm is the limit.

    Args:
        modules: The modules, changed in place.
        limit: The largest norm.

    Returns:
        The norms afterwards.
    """
    before = delta_norms(modules)
    ratio = (limit / before.clamp(min=limit / 2)).clamp(max=1.0)
    roots = ratio.sqrt()
    for place in {module.down.device for module in modules}:
        chosen = [
            (m, root) for m, root in zip(modules, roots.to(place).unbind(), strict=True) if m.down.device == place
        ]
        torch._foreach_mul_([m.down for m, _ in chosen], [root for _, root in chosen])
        torch._foreach_mul_([m.up for m, _ in chosen], [root for _, root in chosen])
    after = before * ratio
    return NormLimitReport((ratio < 1).sum(), after.mean(), after.max())

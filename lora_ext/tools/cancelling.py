"""Weighted changes of one layer that cancel each other, as those of a file at 1 and at -1 do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..adapter_spec import AdapterSpec
from ..adapters import Adapter
from ..layer_names import LayerId
from ..lowrank import concat

_ROUNDING = 1e-6
"""What float32 factors may leave of equal changes: ‖Σ weight·ΔW‖ relative to the largest ‖weight·ΔW‖."""


def cancel_each_other(parts: Sequence[tuple[Adapter, float]]) -> bool:
    """Whether the weighted sum of the changes of one layer is nothing.

    Changes that have factors are summed. Those of other kinds, some of which depend on the base model's weights,
    cancel each other where their tensors are the same and their weights add up to 0.

    Args:
        parts: the layer's adapters with their weights.

    Returns:
        True where the sum is 0 but for rounding; also where there is no part, or where each change is 0.

    Raises:
        FitError: the shapes of the changes differ.
    """
    lows = [adapter.low_rank() for adapter, _ in parts]
    factored = [(low, *part) for low, part in zip(lows, parts, strict=True) if low is not None]
    if factored:
        summed = [low.reshaped(factored[0][0].shape).times(weight) for low, _, weight in factored]
        if concat(summed).frobenius() > _ROUNDING * max(low.frobenius() for low in summed):
            return False
        shifts = [bias * weight for _, adapter, weight in factored if (bias := adapter.bias_delta()) is not None]
        if shifts and float(torch.stack(shifts).sum(0).norm()) > _ROUNDING * max(float(s.norm()) for s in shifts):
            return False
    others: list[tuple[Adapter, float]] = []
    for low, (adapter, weight) in zip(lows, parts, strict=True):
        if low is not None:
            continue
        same = next((i for i, (other, _) in enumerate(others) if _have_same_tensors(adapter, other)), None)
        if same is None:
            others.append((adapter, weight))
        else:
            others[same] = adapter, others[same][1] + weight
    return all(abs(weight) <= _ROUNDING for _, weight in others)


def _have_same_tensors(one: Adapter, other: Adapter) -> bool:
    return (
        one.kind == other.kind
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


def zero_sum_reason(specs: Sequence[AdapterSpec], layer_ids: Iterable[LayerId]) -> str:
    """Why the weighted sum of files, which is 0 at each of `layer_ids`, is 0; a part of a sentence."""
    if all(
        cancel_each_other([(spec.file.adapters[layer_id], 1.0)])
        for layer_id in layer_ids
        for spec in specs
        if layer_id in spec.file.adapters
    ):
        return "ΔW is 0 everywhere (never trained?)"
    return "at these ratios their changes cancel each other"


def weighted_names(specs: Iterable[AdapterSpec]) -> str:
    """The files with their weights, such as "1 * face, -1 * face", for a message."""
    return ", ".join(f"{spec.unet:g} * {spec.display_name}" for spec in specs)

"""Training of `nn.MultiheadAttention` (OpenCLIP), whose forward pass reads its weights directly: they become W + ΔW."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...inject import LayerTarget
from .trainable_layer import TrainableLayer


def _holder(module: nn.Module, slot: str) -> tuple[nn.Module, str]:
    """The module and the attribute name of a slot such as `out_proj.weight`."""
    *path, name = slot.split(".")
    return (module.get_submodule(".".join(path)) if path else module), name


def base_weight(target: LayerTarget) -> Tensor:
    """The model's own weight of a layer.

    Args:
        target: The layer.

    Returns:
        The Parameter, or its rows that belong to the layer.
    """
    holder, name = _holder(target.module, target.slot)
    weight = holder._parameters[name]
    assert weight is not None
    return weight if target.rows is None else weight[slice(*target.rows)]


def _changed(weight: Tensor, rows: Sequence[tuple[LayerTarget, TrainableLayer]]) -> Tensor:
    """W + ΔW, (rows, in), where each ΔW belongs to some rows of W: query, key and value are stacked."""
    total = weight
    for target, factors in rows:
        if factors.skipped and factors.training:
            continue
        first, last = target.rows or (0, len(weight))
        parts = [weight.new_zeros(first, weight.shape[1]), factors.delta().to(weight.dtype)]
        total = total + torch.cat([*parts, weight.new_zeros(len(weight) - last, weight.shape[1])])
    return total


def hook_multihead_attention(
    module: nn.Module, targets_and_factors: Sequence[tuple[LayerTarget, TrainableLayer]]
) -> list[RemovableHandle]:
    """Hooks that replace the weights by W + ΔW, differentiable in the factors, during each call.

    An instance attribute hides the Parameter of the same name, and is removed again also after an exception.

    Args:
        module: The attention layer.
        targets_and_factors: Its targets (slot and rows) and their factors.

    Returns:
        The handles of the hooks.
    """
    slots = sorted({target.slot for target, _ in targets_and_factors})

    def enter(*_: object) -> None:
        for slot in slots:
            holder, name = _holder(module, slot)
            weight = holder._parameters[name]
            assert weight is not None
            holder.__dict__[name] = _changed(weight, [row for row in targets_and_factors if row[0].slot == slot])

    def leave(*_: object) -> None:
        for slot in slots:
            holder, name = _holder(module, slot)
            holder.__dict__.pop(name, None)

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]

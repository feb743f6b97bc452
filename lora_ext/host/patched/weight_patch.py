"""`WeightPatch`: the adapters of one parameter, in the form that each kind of patcher accepts as a patch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...inject import AppliedAdapter
from ...inject.applied_adapter import sum_bias_deltas
from ...inject.baking import add_delta
from .host_modules import modules_around

PATCH_NAME = "lora_ext"
"""The name of our patches among those that a patcher knows."""


@dataclass(frozen=True, eq=False)
class WeightPatch:
    """Adapters of one parameter of a model.

    Attributes:
        applied: the adapters with their weights.
        is_bias: whether the parameter is a bias, which gets the adapters' Δbias.
    """

    applied: tuple[AppliedAdapter, ...]
    is_bias: bool = False

    def __post_init__(self) -> None:
        with torch.inference_mode(False):  # adapters keep their factors, which are used outside of inference mode too
            for one in self.applied:
                one.adapter.low_rank()

    def apply_to(self, weight: Tensor) -> Tensor:
        """Computes W + ΔW.

        Args:
            weight (Tensor): W as the patcher gives it, mostly in float32: a copy of its own, which may be written over.

        Returns:
            A tensor of the same dtype; `weight` itself where it could be written. Patchers call this in inference mode
            and under autocast; sums are in float32.
        """
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            if self.is_bias:
                shift = sum_bias_deltas(self.applied, weight.shape[0])
                return weight if shift is None else (weight.float() + shift.to(weight.device)).to(weight.dtype)
            is_writable = torch.is_inference_mode_enabled() or not weight.is_inference()
            return add_delta(weight, self.applied, weight if is_writable else None)


def is_own_patch(value: Any) -> bool:
    """Whether a patch among a patcher's patches was made by `patch_maker`."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == PATCH_NAME:
        return True
    return isinstance(value, _ReadyDifference) or getattr(value, "name", None) == PATCH_NAME


PatchMaker = Callable[[WeightPatch, Callable[[], Tensor]], Any]
"""Makes a patch from the adapters and a function that returns the parameter's original values."""


def patch_maker(patcher: Any) -> PatchMaker:
    """Finds the form in which a patcher takes patches whose sum it does not know how to compute.

    Three forms are known. An object of a subclass of `WeightAdapterBase` computes the sum itself. A table
    `extra_weight_calculators` has a function for each name; where both exist, the table is no longer used. A ready
    difference, which every patcher can add, is the last resort: it is computed beforehand and takes the memory of the
    weights.

    Args:
        patcher: the patcher of a U-Net or of text encoders.
    """
    loader = getattr(getattr(patcher, "model", None), "lora_loader", None)
    modules = [*modules_around(loader, "lora"), *modules_around(patcher, "lora")]
    for module in modules:
        base = getattr(getattr(module, "weight_adapter", None), "WeightAdapterBase", None)
        if isinstance(base, type):
            return _weight_adapter_maker(base)
    for module in modules:
        calculators = getattr(module, "extra_weight_calculators", None)
        if isinstance(calculators, dict):
            calculators[PATCH_NAME] = _calculate_weight
            return lambda patch, _: (PATCH_NAME, (patch,))
    return lambda patch, read: _ReadyDifference((_difference(patch, read()),))


def _calculate_weight(weight: Tensor, strength: float, value: Sequence[WeightPatch]) -> Tensor:
    """What patchers with `extra_weight_calculators` call. The strength is 1: weights are in the patch."""
    return value[0].apply_to(weight)


def _weight_adapter_maker(base: type) -> PatchMaker:
    """Makes patches of a subclass of the patcher's own `WeightAdapterBase`."""

    class LoraExtWeightAdapter(base):
        """A patch. Patchers that move adapters to a device make a copy with `loaded_keys` and `weights`."""

        name = PATCH_NAME

        def __init__(self, loaded_keys: set[str], weights: tuple[WeightPatch, ...]) -> None:
            self.loaded_keys, self.weights = loaded_keys, weights

        def calculate_weight(self, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            """Returns W + ΔW; the further arguments (strength 1, offset None …) say nothing new."""
            return self.weights[0].apply_to(weight)

    return lambda patch, _: LoraExtWeightAdapter(set(), (patch,))


class _ReadyDifference(tuple[Any, ...]):
    """A patch of one tensor that is added to the weight, which can be told from those of others."""

    __slots__ = ()


def _difference(patch: WeightPatch, weight: Tensor) -> Tensor:
    """W' − W in float32, so that the patcher's sum in float32 is rounded once."""
    wide = weight.detach().float()
    return patch.apply_to(wide.clone()) - wide

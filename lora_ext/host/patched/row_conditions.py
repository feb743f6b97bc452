"""Tells the rows of a patched web UI's U-Net batch from each other, where LoRA files act on single conditions.

Such a web UI orders the rows itself, and may compute them in any groups. Its conditions are dictionaries of objects
that are repeated for the images and joined to the arguments of the U-Net: the number of each condition travels with
them as `ROWS_ARGUMENT`. A negative prompt that differs by region becomes one condition for each, weighted by the
region's mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...inject.condition_rows import ROWS_ARGUMENT

_MODIFIERS = "conditioning_modifiers"
"""The name of the list, in a patcher's `model_options`, of what changes the conditions of each step."""
_TEXTS = {"context": "c_crossattn", "y": "y"}
"""Arguments of the U-Net → the names of the conditions that they come from."""


class ConditionNumber:
    """The number of a condition, as an object among a web UI's conditions.

    Args:
        cond: (rows, 1) int64.
    """

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, device: Any, **_: Any) -> ConditionNumber:
        """Returns the number for each image."""
        return ConditionNumber(self.cond[:1].expand(batch_size, 1).to(device))

    def can_concat(self, other: object) -> bool:
        """Whether rows of another number may share a call of the U-Net: all may."""
        return True

    def concat(self, others: Sequence[ConditionNumber]) -> Tensor:
        """Returns the numbers of all rows of a call, (rows, 1)."""
        return torch.cat([self.cond, *(other.cond for other in others)])

    def size(self) -> list[int]:
        """Returns its shape, by which reForge estimates the memory of a call."""
        return list(self.cond.size())


@dataclass(frozen=True)
class NegativeOfRegion:
    """The negative prompt in a region.

    Attributes:
        number: the condition's number.
        strength: what its prediction is multiplied by; the web UI multiplies a tensor (images, channels, h, w) with it.
        texts: arguments of the U-Net, "context" and "y" → their values for all images.
    """

    number: int
    strength: object
    texts: dict[str, Tensor]


class RowNumbering:
    """Numbers the conditions of one step, and is removed when it has done so.

    Args:
        model_options: the U-Net patcher's; the numbering enters itself there.
        positives: the numbers of the prompt's conditions, in the order of its parts.
        negative: the number of the negative prompt.
        by_region: the negative prompt in each region; empty where all have the same.
    """

    def __init__(
        self,
        model_options: dict[str, Any],
        positives: Sequence[int],
        negative: int,
        by_region: Sequence[NegativeOfRegion] = (),
    ) -> None:
        self._options, self._positives, self._negative, self._by_region = model_options, positives, negative, by_region
        model_options[_MODIFIERS] = [*model_options.get(_MODIFIERS, ()), self]

    @staticmethod
    def remove(model_options: dict[str, Any]) -> bool:
        """Removes what has not been called; returns whether there was one."""
        before = model_options.get(_MODIFIERS, [])
        others = [one for one in before if not isinstance(one, RowNumbering)]
        if len(others) == len(before):
            return False
        if others:
            model_options[_MODIFIERS] = others
        else:
            del model_options[_MODIFIERS]
        return True

    def __call__(self, model: Any, x: Tensor, timestep: Any, uncond: Any, cond: Any, *others: Any) -> tuple[Any, ...]:
        """As the web UI calls it: returns its arguments, with the conditions numbered."""
        self.remove(self._options)
        last = len(self._positives) - 1  # parts that another extension has added count as the last one
        cond = [_numbered(one, self._positives[min(place, last)]) for place, one in enumerate(cond)]
        if uncond is not None and self._by_region:
            uncond = [self._in_region(one, region) for one in uncond for region in self._by_region]
        elif uncond is not None:
            uncond = [_numbered(one, self._negative) for one in uncond]
        return (model, x, timestep, uncond, cond, *others)

    @staticmethod
    def _in_region(condition: dict[str, Any], region: NegativeOfRegion) -> dict[str, Any]:
        found = _numbered(condition, region.number)
        for argument, value in region.texts.items():
            before = found["model_conds"].get(_TEXTS[argument])
            if before is not None and before.cond.shape[1:] == value.shape[1:]:
                found["model_conds"][_TEXTS[argument]] = type(before)(value.to(before.cond))
        return {**found, "strength": region.strength}


def _numbered(condition: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        **condition,
        "model_conds": {**condition["model_conds"], ROWS_ARGUMENT: ConditionNumber(torch.tensor([[number]]))},
    }

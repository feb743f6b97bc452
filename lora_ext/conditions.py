"""Conditions: what one row of the U-Net's batch is conditioned on, and on which conditions a LoRA acts.

With classifier-free guidance the U-Net gets each image once for the prompt and once for the negative prompt; with a
prompt of several parts joined by `AND` (or with regions) once for each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Condition:
    """What one row of the U-Net's batch is conditioned on.

    Attributes:
        part: number of the prompt's part, from 0; None for the negative prompt that all parts share.
        is_negative: whether it is a negative prompt.
        region: number of the picture's region, from 0; None for the whole picture.
    """

    part: int | None = 0
    is_negative: bool = False
    region: int | None = None


NEGATIVE = Condition(None, is_negative=True)
"""The negative prompt that all parts of a prompt share."""


@dataclass(frozen=True)
class ConditionScope:
    """The conditions on which a LoRA acts: their text encoding, and their rows of the U-Net's batch.

    Attributes:
        parts: numbers of the prompt's parts; None for all.
        negative: whether it acts on the negative prompt too.
        regions: numbers of the picture's regions; None for all.
    """

    parts: frozenset[int] | None = None
    negative: bool = True
    regions: frozenset[int] | None = None

    def includes(self, condition: Condition) -> bool:
        """Whether the LoRA acts on a condition.

        Example:
            >>> scope = ConditionScope(frozenset({1}), negative=False)
            >>> [scope.includes(Condition(part)) for part in range(2)], scope.includes(NEGATIVE)
            ([False, True], False)
        """
        if condition.is_negative and not self.negative:
            return False
        if self.regions is not None and condition.region is not None and condition.region not in self.regions:
            return False
        return self.parts is None or condition.part is None or condition.part in self.parts


NOWHERE = ConditionScope(frozenset(), negative=False)
"""The scope of a LoRA that acts on no condition."""


def and_conditions(parts: int) -> tuple[Condition, ...]:
    """Returns the conditions of a prompt of some parts: each part in order, then the shared negative prompt."""
    return (*(Condition(part) for part in range(parts)), NEGATIVE)


def images_in_turn(parts_per_image: Sequence[int]) -> list[Condition]:
    """Returns the conditions of a batch's rows in the web UI's order: all parts of each image, then the negatives.

    Args:
        parts_per_image: for each image the number of its prompt's parts.

    Example:
        >>> [row.part for row in images_in_turn([2, 1])]
        [0, 1, 0, None, None]
    """
    return [
        *(Condition(part) for count in parts_per_image for part in range(count)),
        *[NEGATIVE] * len(parts_per_image),
    ]


def parts_in_turn(parts: int, images: int) -> list[Condition]:
    """Returns the conditions of a batch's rows part by part: all images of each part, then the negatives.

    Example:
        >>> [row.part for row in parts_in_turn(2, 2)]
        [0, 0, 1, 1, None, None]
    """
    return [condition for condition in and_conditions(parts) for _ in range(images)]

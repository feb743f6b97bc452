"""What suggestions depend on, and what one of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...counted_words import fill_counts

SMALL_MODEL_PIXELS = 256
"""A model for pictures of fewer pixels a side is a small one: quick, and of few parameters."""


@dataclass(frozen=True)
class TrainingSituation:
    """What suggestions depend on.

    Attributes:
        kind: One of `suggested_recipe.KINDS_OF_CONCEPT`.
        picture_count: Training pictures that can be read.
        aspect_ratio_count: Different aspect ratios among them.
        all_square: Whether the one aspect ratio is 1; other pictures of one shape are cut to a square without buckets.
        family: "SD1", "SD2" or "SDXL".
        native_size: Pixels a side that the model was made for.
        gpu_bytes: Free memory of the GPU; 0 without one, or where it is not known.
        on_gpu: Whether a CUDA device trains.
    """

    kind: str
    picture_count: int
    aspect_ratio_count: int
    family: str
    native_size: int
    gpu_bytes: float = 0.0
    on_gpu: bool = False
    all_square: bool = True


@dataclass(frozen=True)
class SuggestedSetting:
    """A value of a recipe's option, and one sentence that says why.

    Attributes:
        value: The value.
        template: The sentence with {0}, {1} … for values, as the page translates it.
        values: What stands there; text is translated too.
    """

    value: Any
    template: str
    values: tuple[str | int, ...] = ()

    @property
    def reason(self) -> str:
        """The sentence."""
        return fill_counts(self.template, *self.values)


def values_of(suggested: Mapping[str, SuggestedSetting]) -> dict[str, Any]:
    """The values alone: option → value."""
    return {name: row.value for name, row in suggested.items()}

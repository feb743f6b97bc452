"""Two ways to keep LoRAs to regions of the picture while it is sampled.

Separate prediction (`RegionalDenoiser`): each region is a row of the U-Net's batch, with text and LoRA weights of its
own. The predictions of the rows, of both halves of guidance, are put together by the regions' masks at each U-Net call
("latent couple").

Output masks (`CoupledDenoiser`): one prediction, in which `inject.place` masks the outputs of layers; cross-attention
reads each region's own text ("attention couple").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...conditions import NEGATIVE, Condition
from ...inject.batch_rows import batch_rows
from ...inject.free_memory import is_out_of_memory, release_memory
from .sampling import CfgDenoiser, Conditioning, ConditioningSchedule, PromptConditioning

RowWeights = Callable[[int, int], Tensor]
"""(height, width) of the latent → weights (rows, height, width) of the rows' predictions, which sum to 1."""


@dataclass(frozen=True)
class RegionalConditioning:
    """The conditionings of one prompt, one for each region; for output masks that of the whole picture is the first.

    Attributes:
        rows: in the order of the regions.
    """

    rows: tuple[PromptConditioning, ...]


RowOfText: TypeAlias = "tuple[int, int, int]"
"""(text, image, region) of a row of the U-Net's batch."""


class RegionalDenoiser(CfgDenoiser):
    """A `CfgDenoiser` whose conditionings are `RegionalConditioning`s.

    The whole batch has its rows in the order of texts, images and regions. It is one call of the U-Net where all texts
    have equal length and memory allows, else several, each with the LoRA weights of its rows.

    Args:
        *args: as for `CfgDenoiser`.
        row_weights: the weights of the regions' predictions.
        **options: as for `CfgDenoiser`.
    """

    def __init__(self, *args: Any, row_weights: RowWeights, **options: Any) -> None:
        super().__init__(*args, **options)
        self._row_weights = row_weights
        self._weights: Tensor | None = None
        self._most_rows: int | None = None  # of a call; None: all

    def _begin_step(self, texts: int, images: int) -> None:
        """Nothing: each call says what its rows are."""

    def _predict_texts(self, x: Tensor, t: Tensor, texts: Sequence[Any], step: int) -> list[Tensor]:
        """Returns the U-Net's output (images, channels, h, w) for each text, put together from the regions'."""
        conditions = [
            [(row.at(step) if isinstance(row, ConditioningSchedule) else row).expanded_to(len(x)) for row in text.rows]
            for text in texts
        ]
        regions = len(conditions[0])
        rows = [
            (text, image, region) for text in range(len(texts)) for image in range(len(x)) for region in range(regions)
        ]
        outputs = self._call_rows(x, t, conditions, rows)
        parts = torch.stack(outputs).view(len(texts), len(x), regions, *outputs[0].shape)
        weights = self._weights_for(parts)
        return [(part * weights[:, None]).sum(1) for part in parts]

    def _weights_for(self, parts: Tensor) -> Tensor:
        """The weights (regions, h, w) of this size, on the device of the predictions."""
        size = (parts.shape[-2], parts.shape[-1])
        if self._weights is None or self._weights.shape[-2:] != size:
            self._weights = self._row_weights(*size).to(parts.device, parts.dtype)
        return self._weights

    def _call_rows(
        self, x: Tensor, t: Tensor, conditions: Sequence[Sequence[Conditioning]], rows: Sequence[RowOfText]
    ) -> list[Tensor]:
        """Calls the U-Net for all rows, in parts where texts differ in length or memory runs out."""
        by_length: dict[int, list[int]] = {}
        for number, (text, _, region) in enumerate(rows):
            by_length.setdefault(conditions[text][region].states.shape[1], []).append(number)
        found: dict[int, Tensor] = {}
        for numbers in by_length.values():
            while numbers:
                part = numbers[: self._most_rows]
                try:
                    outs = self._call_part(x, t, conditions, rows, part)
                except Exception as error:
                    if not is_out_of_memory(error) or len(part) == 1:
                        raise
                    self._most_rows = (len(part) + 1) // 2
                    release_memory()
                    continue
                found.update(zip(part, outs, strict=True))
                numbers = numbers[len(part) :]
        return [found[number] for number in range(len(rows))]

    def _call_part(
        self,
        x: Tensor,
        t: Tensor,
        conditions: Sequence[Sequence[Conditioning]],
        rows: Sequence[RowOfText],
        part: Sequence[int],
    ) -> Tensor:
        chosen = [rows[number] for number in part]
        together = Conditioning.concatenated([conditions[text][region].row(image) for text, image, region in chosen])
        noisy = x[[image for _, image, _ in chosen]]
        if self.begin_rows:
            parts = 1 + len(self.more_conds)
            self.begin_rows(
                [replace(Condition(text) if text < parts else NEGATIVE, region=region) for text, _, region in chosen]
            )
        if len(part) == len(rows):
            return self._call_unet(noisy, t, together)
        with batch_rows(part, len(rows)):
            return self._call_unet(noisy, t, together)


@dataclass(frozen=True)
class RegionTexts:
    """The texts of regions that act by output masks.

    Attributes:
        rows: the number of texts: the whole picture's and one for each region.
        set_texts: called before each call of the U-Net with the regions' states, each (batch, tokens, width).
    """

    rows: int
    set_texts: Callable[[Sequence[Tensor]], None]


class CoupledDenoiser(CfgDenoiser):
    """A `CfgDenoiser` whose conditionings are `RegionalConditioning`s, for regions that act by output masks.

    Args:
        *args: as for `CfgDenoiser`.
        texts: where the regions' texts go.
        **options: as for `CfgDenoiser`.
    """

    def __init__(self, *args: Any, texts: RegionTexts, **options: Any) -> None:
        super().__init__(*args, **options)
        self._texts = texts

    def _predict_texts(self, x: Tensor, t: Tensor, texts: Sequence[Any], step: int) -> list[Tensor]:
        """Returns the U-Net's output for each text; those of other lengths are calls of their own."""
        rows = [
            [(row.at(step) if isinstance(row, ConditioningSchedule) else row).expanded_to(len(x)) for row in text.rows]
            for text in texts
        ]
        if len({row.states.shape[1] for text in rows for row in text}) > 1 and len(texts) > 1:
            return [self._predict_texts(x, t, [text], step)[0] for text in texts]
        self._texts.set_texts([torch.cat([text[row].states for text in rows]) for row in range(1, len(rows[0]))])
        return super()._predict_texts(x, t, [text[0] for text in rows], step)

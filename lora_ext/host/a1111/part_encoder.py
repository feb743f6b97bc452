"""Encodes prompts in the web UI where LoRA files act on single AND parts, in regions, or not on the negative prompt.

Each part is encoded with its own LoRA weights on the text encoder, and the negative prompt with those of each region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ...adapter_spec import AdapterSpec
from ...conditions import NEGATIVE, Condition
from ...errors import FitError
from ...inject.condition_rows import BatchRow, SplitRow
from ...prompt_parts import without_network_tags
from ...prompt_regions import RegionalPrompt
from ..patched.model import has_patchers
from ..patched.row_conditions import NegativeOfRegion, RowNumbering
from .models import AppliedNetworksByModel
from .prompt_conditions import PassConditions
from .tag_owner import run_all_steps

_ENCODE = "get_conds_with_caching"


class PartEncoder:
    """Encodes an image's prompts, each part with its own LoRA weights on the text encoder.

    It stands in the place of `get_conds_with_caching` of one `StableDiffusionProcessing`.

    Args:
        p: the processing; only a weak reference is kept.
        conditions: its conditions.
        key: distinguishes cached conditioning, as the web UI's own tags do.
        encode_as: gives the text encoder the weights for a condition, or for all files.
        splits_negative: whether the negative prompt has an encoding for each region.
    """

    def __init__(
        self,
        p: Any,
        conditions: PassConditions,
        key: object,
        encode_as: Callable[[Condition | None], None],
        splits_negative: bool = False,
    ) -> None:
        self._p, self._conditions, self._key, self._encode_as = ref(p), conditions, key, encode_as
        self._splits_negative = splits_negative

    @classmethod
    def install(
        cls,
        p: Any,
        conditions: PassConditions,
        specs: Sequence[AdapterSpec],
        encode_as: Callable[[Condition | None], None],
    ) -> None:
        """Puts an encoder in the place of the web UI's, for files that act on single conditions."""
        key = [*((spec.te, spec.scope) for spec in specs), *conditions.region_keys()]
        setattr(p, _ENCODE, cls(p, conditions, key, encode_as, conditions.splits_negative(specs)))

    @staticmethod
    def remove(p: Any) -> None:
        """Restores the web UI's own encoder."""
        if p is not None and isinstance(vars(p).get(_ENCODE), PartEncoder):
            delattr(p, _ENCODE)

    def __call__(
        self,
        function: Callable[..., Any],
        required_prompts: Any,
        steps: int,
        caches: Any,
        extra_network_data: Any,
        hires_steps: int | None = None,
    ) -> Any:
        """As the web UI's method."""
        is_negative = bool(getattr(required_prompts, "is_negative_prompt", False))

        def encode(*args: Any) -> Any:
            try:
                return self._encode_negative(function, args) if is_negative else self._encode_parts(function, args)
            finally:
                run_all_steps("encoding", lambda: self._encode_as(None))

        if not is_negative and self._conditions.regions and len(self._conditions.regions) == len(required_prompts):
            texts = map(self._joined_texts, required_prompts, self._conditions.regions)
            required_prompts = type(required_prompts)(texts, copy_from=required_prompts)
        kept = (extra_network_data, self._key)
        p = self._p()
        return getattr(type(p), _ENCODE)(p, encode, required_prompts, steps, caches, kept, hires_steps)

    def _joined_texts(self, text: str, prompt: RegionalPrompt) -> str:
        """The texts of an image's regions as parts of one prompt; all have the whole text where no words divide it."""
        divided = self._conditions.batch_regions.is_divided
        return " AND ".join(without_network_tags(row.text) if divided else text for row in prompt.rows)

    def _encode_negative(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        self._encode_as(NEGATIVE)
        made = function(*args)
        if not self._splits_negative:
            return made
        by_region = []
        for condition in self._conditions.region_negatives:
            self._encode_as(condition)
            by_region.append(function(*args))
        return NegativesByRegion(made, by_region)

    def _encode_parts(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Encodes all parts with the weights of each, and takes each part from its own."""
        made: dict[Condition, Any] = {}
        for condition in self._conditions.positives:
            self._encode_as(condition)
            made[condition] = function(*args)
        first = next(iter(made.values()))
        if not hasattr(first, "batch"):
            return first
        for image, parts in enumerate(first.batch):
            own = self._conditions.of_image(image)
            parts[:] = [
                made[condition].batch[image][number] for number, condition in enumerate(own[: len(parts)])
            ] + parts[len(own) :]
            if self._conditions.regions and len(parts) == len(own):
                for part, condition in zip(parts, own, strict=True):
                    prompt = self._conditions.regions[image]
                    part.weight = RegionWeight(prompt.weights, condition.region or 0, len(prompt.rows), part.weight)
        return first


class RegionWeight:
    """The weight of a region's prediction at each place, where web UIs have a number for an AND part.

    AUTOMATIC1111's adds (cond − uncond) · (weight · cfg) of all parts, Forge the mean of conds · weight, and both
    weights of all regions sum to 1 at each place.

    Args:
        weights: (height, width) → the weights of all regions, (regions, height, width).
        region: the region's number.
        count: the number of regions.
        scale: what the weight was multiplied by.
    """

    def __init__(self, weights: Callable[[int, int], Tensor], region: int, count: int, scale: float = 1.0) -> None:
        self._weights, self._region, self._count, self._scale = weights, region, count, scale

    def __mul__(self, scale: float) -> RegionWeight:
        return RegionWeight(self._weights, self._region, self._count, self._scale * float(scale))

    def __rmul__(self, difference: Tensor) -> Tensor:
        """Multiplies (…, height, width) by the weights at that resolution."""
        mask = self._weights(*difference.shape[-2:])[self._region]
        return difference * (mask.to(difference) * self._scale)

    def __radd__(self, total: float) -> float:
        """Adds the region's part of the whole weight: Forge multiplies the mean by the sum of all weights."""
        return total + self._scale / self._count


class NegativesByRegion(list[Any]):
    """A batch's encoded negative prompts, as the web UI makes them, with those of each region.

    Args:
        encoded: for each image a list of objects with `end_at_step` and `cond`.
        by_region: for each region such a list of images.
    """

    def __init__(self, encoded: Sequence[Any], by_region: Sequence[Sequence[Any]]) -> None:
        super().__init__(encoded)
        self.by_region = by_region


def negative_rows(found: PassConditions, denoiser: Any) -> list[SplitRow[Condition]]:
    """Returns what each image's row of the negative prompt consists of: a row for each of the image's regions.

    Args:
        found: the conditions of the pass.
        denoiser: the web UI's denoiser, before a call of the U-Net.
    """
    encoded = denoiser.p.get_conds()[1]
    rows = []
    for image, prompt in enumerate(found.regions):
        conditions = found.region_negatives[: len(prompt.rows)]
        texts = {}
        if isinstance(encoded, NegativesByRegion) and image < len(encoded):
            shared, *own = (
                _arguments_at(images[image], denoiser.step)
                for images in (encoded, *encoded.by_region[: len(conditions)])
            )
            texts = {name: (value, [one[name] for one in own]) for name, value in shared.items()}
        rows.append(SplitRow(conditions, prompt.weights, texts))
    return rows


def _arguments_at(schedule: Sequence[Any], step: int) -> dict[str, Tensor]:
    """The arguments of the U-Net that an encoded prompt becomes at a step."""
    text = next((entry.cond for entry in schedule if step <= entry.end_at_step), schedule[0].cond)
    return {"context": text["crossattn"], "y": text["vector"]} if isinstance(text, dict) else {"context": text}


def begin_rows(models: AppliedNetworksByModel, found: PassConditions, sd_model: Any, params: Any) -> str:
    """Tells the rows of the U-Net's batch from each other where files act on single conditions.

    Args:
        models: what applies the files.
        found: the conditions of the pass.
        sd_model: the model in use.
        params: what the web UI gives to callbacks before a call of the U-Net.

    Returns:
        "", or what is wrong: all files act on all rows then.
    """
    if models.conditions:
        try:
            split = found.splits_negative(models.specs)
            negatives = negative_rows(found, params.denoiser) if split else (NEGATIVE,)
            if has_patchers(sd_model):
                return _number_rows(models, found, sd_model, negatives)
            models.begin_rows(sd_model, found.rows(len(params.x), negatives))
        except FitError as error:
            models.conditions = ()
            models.apply(sd_model)
            return str(error)
    return ""


def _number_rows(
    models: AppliedNetworksByModel, found: PassConditions, sd_model: Any, negatives: Sequence[BatchRow]
) -> str:
    """`begin_rows` where patchers own the model's weights: the web UI orders the rows itself."""
    options, number_of = sd_model.forge_objects.unet.model_options, models.conditions.index
    was_ignored = RowNumbering.remove(options)
    models.begin_rows(sd_model, ())
    by_region = []
    rows = [row for row in negatives if isinstance(row, SplitRow)]
    for place, condition in enumerate(rows[0].conditions if rows else ()):
        texts = {name: torch.stack([row.texts[name][1][place] for row in rows]) for name in rows[0].texts}
        weight = RegionWeight(rows[0].weights, place, count=len(rows[0].conditions))
        by_region.append(NegativeOfRegion(number_of(condition), weight, texts))
    RowNumbering(options, list(map(number_of, found.of_image(0))), number_of(NEGATIVE), by_region)
    if not was_ignored:
        return ""
    return (
        "LoRA files of single AND parts, of regions, or with neg=0 act on all rows as on the first part's: this web UI "
        "does not ask its conditioning_modifiers"
    )

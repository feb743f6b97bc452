"""LoRAs of single AND parts and of the negative prompt in the web UI: which tags act on which conditions.

Each part is encoded with its own LoRA weights on the text encoder, and each row of the U-Net's batch gets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import ref

from torch import Tensor

from ...adapter_spec import AdapterSpec
from ...conditions import NEGATIVE, Condition, ConditionScope, and_conditions, images_in_turn
from ...errors import FitError
from ...lora_tags import LORA_TAG_PATTERN, OUTPUT, LoraTag
from ...prompt_parts import ConditionSettings, split_prompt_parts, tag_scope
from ...prompt_regions import RegionalPrompt, split_by_region
from ...region_masks import MaskFolders
from ..infotext import format_hashes
from ..patched.model import has_patchers
from . import settings
from .models import AppliedNetworksByModel
from .tag_owner import run_all_steps

AND_KEY, NEGATIVE_KEY, MASKS_KEY = "Lora AND", "Lora negative prompt", "Region masks"
"""Infotext keys: what the settings said where that made a difference."""
_ENCODE = "get_conds_with_caching"


@dataclass(frozen=True)
class PassConditions:
    """The conditions of one pass over a batch (first or hires).

    Attributes:
        parts_per_image: for each image the number of its prompt's AND parts.
        parts_of_tags: for each tag the part that it stands in; None where that is not known.
        regions: for each image its prompt by regions, whose rows are the parts then; empty without regions.
        mask_hashes: (name, hash) of the masks that regions name.
    """

    parts_per_image: tuple[int, ...] = (1,)
    parts_of_tags: tuple[int | None, ...] = ()
    regions: tuple[RegionalPrompt, ...] = ()
    mask_hashes: tuple[tuple[str, str], ...] = ()

    @property
    def parts(self) -> int:
        """The greatest number of parts."""
        return max(self.parts_per_image, default=1)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, each once."""
        return and_conditions(self.parts)

    def scope_of(self, tag: LoraTag, part: int | None, chosen: ConditionSettings) -> ConditionScope | None:
        """Returns the conditions on which a tag acts. Raises LoraError for a tag whose region is not known."""
        if not self.regions:
            return tag_scope(tag, part, self.parts, chosen)
        rows = self.regions[0].rows
        own = frozenset(i for i, row in enumerate(rows) if tag in row.tags)
        if not own and self.regions[0].errors:
            raise self.regions[0].errors[0]
        return ConditionScope(own, bool(tag.neg)) if 0 < len(own) < len(rows) else tag_scope(tag, None, 1, chosen)

    def region_keys(self) -> list[object]:
        """Returns what distinguishes conditioning of other regions."""
        regions = [row.region for prompt in self.regions for row in prompt.rows]
        return [region and (region.format_region(), region.feather) for region in regions] + list(self.mask_hashes)

    def rows(self, count: int) -> list[Condition]:
        """Returns the condition of each row of the web UI's batch of `count` rows.

        Raises:
            FitError: the batch is not the one that the prompts make.
        """
        rows = images_in_turn(self.parts_per_image)
        more = count - len(rows)
        if more not in (0, len(self.parts_per_image)):  # InstructPix2Pix has the negative prompt twice
            raise FitError(
                f"the U-Net gets {count} rows where the prompts make {len(rows)}: another extension changes the batch, "
                "so that LoRA files of single AND parts, or with neg=0, act on all of them"
            )
        return [*rows, *[NEGATIVE] * more]


def pass_conditions(
    p: Any, items: Sequence[Sequence[str]], sd_model: Any = None, masks: Path | None = None
) -> PassConditions:
    """Finds the parts of a batch's prompts, and which of them each tag stands in.

    The web UI hands out the tags of a batch's first prompt without their places, which are looked up in the prompt. A
    script that changes prompts may have put tags elsewhere: their parts are not known then.

    Args:
        p: the web UI's processing.
        items: the tags in the web UI's order.
        sd_model: the model; regions are made where no patchers own its weights.
        masks: the folder of the masks that regions name.
    """
    size = int(getattr(p, "batch_size", 1) or 1)
    first = int(getattr(p, "iteration", 0) or 0) * size
    names = ["all_prompts", "all_hr_prompts"]
    for name in reversed(names) if getattr(p, "is_hr_pass", False) else names:
        texts = [str(text) for text in (getattr(p, name, None) or [])[first : first + size]]
        found = [split_prompt_parts(text) for text in texts]
        if not found:
            continue
        tags = [list(one) for one, _ in found[0].tags]
        if tags == [list(one) for one in items[: len(tags)]]:
            if max(one.count for one in found) == 1 and not has_patchers(sd_model):
                folders = MaskFolders(() if masks is None else (masks,))
                regions = tuple(split_by_region(text, load_mask=folders.load, words=False) for text in texts)
                if regions[0].has_regions:
                    counts = tuple(len(prompt.rows) for prompt in regions)
                    return PassConditions(counts, (None,) * len(items), regions, tuple(folders.hashes().items()))
            unknown = [None] * (len(items) - len(tags))
            parts = (*(part for _, part in found[0].tags), *unknown)
            return PassConditions(tuple(one.count for one in found), parts)
    texts = [str(text) for text in getattr(p, "prompts", None) or [""]]
    return PassConditions(tuple(split_prompt_parts(text).count for text in texts), (None,) * len(items))


def condition_settings(option: Callable[[str], Any]) -> ConditionSettings:
    """Returns what the web UI's settings say about tags that do not say it themselves."""
    return ConditionSettings(option("and_parts") == settings.OWN_PART, bool(option("on_negative")))


def settings_infotext(found: PassConditions, chosen: ConditionSettings) -> dict[str, str]:
    """Returns the infotext's entries where settings differ from their defaults and make a difference."""
    if not found.parts_of_tags:
        return {}
    entries = {AND_KEY: settings.OWN_PART} if chosen.own_part and found.parts > 1 and not found.regions else {}
    if masks := format_hashes(dict(found.mask_hashes)):
        entries[MASKS_KEY] = masks
    return entries | ({} if chosen.negative else {NEGATIVE_KEY: str(False)})


def restore_settings(params: dict[str, Any], chosen: ConditionSettings) -> None:
    """Makes a pasted infotext that says nothing of these settings mean their defaults, with which it was made."""
    prompt = str(params.get("Prompt", ""))
    if not LORA_TAG_PATTERN.search(prompt):
        return
    if chosen.own_part and split_prompt_parts(prompt).count > 1:
        params.setdefault(AND_KEY, settings.ALL_PARTS)
    if not chosen.negative:
        params.setdefault(NEGATIVE_KEY, str(True))


class PartEncoder:
    """Encodes an image's prompts, each part with its own LoRA weights on the text encoder.

    It stands in the place of `get_conds_with_caching` of one `StableDiffusionProcessing`.

    Args:
        p: the processing; only a weak reference is kept.
        conditions: its conditions.
        key: distinguishes cached conditioning, as the web UI's own tags do.
        encode_as: gives the text encoder the weights for a condition, or for all files.
    """

    def __init__(
        self, p: Any, conditions: PassConditions, key: object, encode_as: Callable[[Condition | None], None]
    ) -> None:
        self._p, self._conditions, self._key, self._encode_as = ref(p), conditions, key, encode_as

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
        setattr(p, _ENCODE, cls(p, conditions, key, encode_as))

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

        regions = self._conditions.regions
        if not is_negative and regions and len(regions) == len(required_prompts):
            texts = (
                " AND ".join([text] * len(prompt.rows)) for text, prompt in zip(required_prompts, regions, strict=True)
            )
            required_prompts = type(required_prompts)(texts, copy_from=required_prompts)
        kept = (extra_network_data, self._key)
        p = self._p()
        return getattr(type(p), _ENCODE)(p, encode, required_prompts, steps, caches, kept, hires_steps)

    def _encode_negative(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        self._encode_as(NEGATIVE)
        return function(*args)

    def _encode_parts(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        """Encodes all parts with the weights of each, and takes each part from its own."""
        made: list[Any] = []
        for part in range(self._conditions.parts):
            self._encode_as(Condition(part))
            made.append(function(*args))
        if not hasattr(made[0], "batch"):
            return made[0]
        for image, parts in enumerate(made[0].batch):
            for part in range(1, min(len(parts), len(made))):
                parts[part] = made[part].batch[image][part]
        for parts, prompt in zip(made[0].batch, self._conditions.regions, strict=False):
            if len(parts) == len(prompt.rows):
                for row, part in enumerate(parts):
                    part.weight = RegionWeight(prompt, row)
        return made[0]


class RegionWeight:
    """The weight of a region's prediction at each place, where the web UI has a number for an AND part.

    The web UI adds (cond − uncond) · (weight · cfg) of all parts; the weights of all regions sum to 1 at each place.

    Args:
        prompt: the prompt by regions.
        row: the region's row.
        scale: what the weight was multiplied by.
    """

    def __init__(self, prompt: RegionalPrompt, row: int, scale: float = 1.0) -> None:
        self._prompt, self._row, self._scale = prompt, row, scale

    def __mul__(self, scale: float) -> RegionWeight:
        return RegionWeight(self._prompt, self._row, self._scale * float(scale))

    def __rmul__(self, difference: Tensor) -> Tensor:
        """Multiplies (channels, height, width) by the weights at that resolution."""
        mask = self._prompt.weights(*difference.shape[-2:])[self._row]
        return difference * (mask.to(difference) * self._scale)


def acting_conditions(
    specs: Sequence[AdapterSpec], found: PassConditions, sd_model: Any
) -> tuple[tuple[Condition, ...], list[str]]:
    """Returns the conditions for files that act on single ones, empty where all act on all; and what does not act."""
    if all(spec.scope is None for spec in specs):
        return (), []
    if has_patchers(sd_model):
        return (), [
            "LoRA files of single AND parts, or with neg=0, act on all parts and on the negative prompt in this web UI"
        ]
    return found.conditions, []


def region_warnings(tag: LoraTag, found: PassConditions) -> list[str]:
    """Says that a region with a prediction of its own, which `generate` makes, is not made here."""
    if tag.at is None or tag.way == OUTPUT or found.regions:
        return []
    return [
        f"<lora:{tag.name}>: at={tag.at} acts on the whole picture here; write way=output, which keeps it to its "
        "region by masks, or make the picture with the command generate"
    ]


def begin_rows(models: AppliedNetworksByModel, found: PassConditions, sd_model: Any, count: int) -> str:
    """Tells the rows of the U-Net's batch from each other where files act on single conditions.

    Returns:
        "", or what is wrong: all files act on all rows then.
    """
    if models.conditions:
        try:
            models.begin_rows(sd_model, found.rows(count))
        except FitError as error:
            models.conditions = ()
            models.apply(sd_model)
            return str(error)
    return ""

"""LoRAs of single AND parts and of the negative prompt in the web UI: which tags act on which conditions.

Each part is encoded with its own LoRA weights on the text encoder, and each row of the U-Net's batch gets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...adapter_spec import AdapterSpec
from ...conditions import NEGATIVE, NOWHERE, Condition, ConditionScope, and_conditions
from ...counted_words import counted
from ...errors import FitError
from ...inject.condition_rows import BatchRow
from ...lora_tags import LORA_TAG_PATTERN, LoraTag
from ...prompt_parts import ConditionSettings, split_prompt_parts, tag_scope
from ...prompt_regions import RegionalPrompt
from ...region_masks import MaskFolders
from ..infotext import format_hashes
from . import settings
from .region_prompts import BASE_KEY, MASKS_KEY, RATIOS_KEY, BatchRegions, RegionSettings, find_regions

AND_KEY, NEGATIVE_KEY = "Lora AND", "Lora negative prompt"
"""Infotext keys: what the settings said where that made a difference."""
INFOTEXT_KEYS = (AND_KEY, NEGATIVE_KEY, MASKS_KEY, RATIOS_KEY, BASE_KEY)


@dataclass(frozen=True)
class PassConditions:
    """The conditions of one pass over a batch (first or hires).

    Attributes:
        parts_per_image: for each image the number of its prompt's AND parts.
        parts_of_tags: for each tag the part that it stands in; None where that is not known.
        batch_regions: the regions of the batch's prompts.
        mask_hashes: (name, hash) of the masks that regions name.
    """

    parts_per_image: tuple[int, ...] = (1,)
    parts_of_tags: tuple[int | None, ...] = ()
    batch_regions: BatchRegions = field(default_factory=BatchRegions)
    mask_hashes: tuple[tuple[str, str], ...] = ()

    @property
    def regions(self) -> tuple[RegionalPrompt, ...]:
        """For each image its prompt by regions; empty without regions."""
        return self.batch_regions.prompts

    @property
    def parts(self) -> int:
        """The greatest number of parts."""
        return max(self.parts_per_image, default=1)

    def of_image(self, image: int) -> tuple[Condition, ...]:
        """Returns the conditions of an image's prompt, in the order of the web UI's rows."""
        if not self.regions:
            return and_conditions(self.parts_per_image[image])[:-1]
        return tuple(
            Condition(part, region=number)
            for number, row in enumerate(self.regions[image].rows)
            for part in range(split_prompt_parts(row.text).count)
        )

    @property
    def positives(self) -> tuple[Condition, ...]:
        """All conditions of prompts, each once."""
        return tuple(dict.fromkeys(one for i in range(len(self.parts_per_image)) for one in self.of_image(i)))

    @property
    def region_negatives(self) -> tuple[Condition, ...]:
        """The negative prompt in each region."""
        most = max((len(prompt.rows) for prompt in self.regions), default=0)
        return tuple(Condition(None, is_negative=True, region=number) for number in range(most))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, each once."""
        return (*self.positives, NEGATIVE, *self.region_negatives)

    def splits_negative(self, specs: Sequence[AdapterSpec]) -> bool:
        """Whether the negative prompt is predicted for each region: a file acts on it in some of them."""
        scopes = [spec.scope for spec in specs if spec.scope is not None]
        return any(scope.negative and scope.regions is not None for scope in scopes)

    def scope_of(
        self, tag: LoraTag, part: int | None, chosen: ConditionSettings, before: Sequence[LoraTag] = ()
    ) -> ConditionScope | None:
        """Returns the conditions on which a tag acts.

        Args:
            tag: the tag.
            part: the number of the AND part that it stands in; None where that is not known.
            chosen: what counts where the tag does not say.
            before: the tags before it. One that stands in the texts of two regions alike is there twice: the first
                acts in both.

        Raises:
            LoraError: the tag's region is not known.
        """
        scope = tag_scope(tag, part, self.parts, chosen)
        if not self.regions:
            return scope
        rows = self.regions[0].rows
        own = frozenset(i for i, row in enumerate(rows) if row.tags.count(tag) > list(before).count(tag))
        if not own and tag not in before and self.regions[0].errors:
            raise self.regions[0].errors[0]
        if not own and tag in before:
            return NOWHERE
        return replace(scope or ConditionScope(), regions=own) if 0 < len(own) < len(rows) else scope

    def region_keys(self) -> list[object]:
        """Returns what distinguishes conditioning of other regions."""
        regions = [row.region for prompt in self.regions for row in prompt.rows]
        return [region and (region.format_region(), region.feather) for region in regions] + list(self.mask_hashes)

    def rows(self, count: int, negatives: Sequence[BatchRow] = (NEGATIVE,)) -> list[BatchRow]:
        """Returns the condition of each row of the web UI's batch of `count` rows.

        Args:
            count: the number of rows.
            negatives: what the row of each image's negative prompt is; one for all images, or one for each.

        Raises:
            FitError: the batch is not the one that the prompts make.
        """
        images = len(self.parts_per_image)
        by_image = [self.of_image(image) for image in range(images)]
        ordered = zip(*by_image, strict=False) if self.batch_regions.by_part else by_image
        rows: list[BatchRow] = [one for group in ordered for one in group]
        shared = list(negatives) * (images // len(negatives))
        more = count - len(rows) - len(shared)
        if more not in (0, images):  # InstructPix2Pix has the negative prompt twice
            raise FitError(
                f"the U-Net gets {counted(count, 'row')} where the prompts make {len(rows) + len(shared)}: another "
                "extension changes the batch, so that LoRA files of single AND parts, or with neg=0, act on all of them"
            )
        return [*rows, *shared, *shared[:more]]


def pass_conditions(
    p: Any,
    items: Sequence[Sequence[str]],
    sd_model: Any = None,
    masks: MaskFolders | None = None,
    chosen: RegionSettings | None = None,
) -> PassConditions:
    """Finds the parts of a batch's prompts, and which of them each tag stands in.

    The web UI hands out the tags of a batch's first prompt without their places, which are looked up in the prompt. A
    script that changes prompts may have put tags elsewhere: their parts are not known then.

    Args:
        p: the web UI's processing.
        items: the tags in the web UI's order.
        sd_model: the model.
        masks: the masks that regions name.
        chosen: how words divide prompts into regions; by default they do so with equal parts.
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
            counts = tuple(one.count for one in found)
            masks = masks or MaskFolders(())
            regions = find_regions(p, texts, sd_model, masks, chosen or RegionSettings())
            known = () if regions.is_divided else tuple(part for _, part in found[0].tags)
            parts = (*known, *[None] * (len(items) - len(known)))
            return PassConditions(counts, parts, regions, tuple(masks.hashes().items()))
    texts = [str(text) for text in getattr(p, "prompts", None) or [""]]
    return PassConditions(tuple(split_prompt_parts(text).count for text in texts), (None,) * len(items))


def condition_settings(option: Callable[[str], Any]) -> ConditionSettings:
    """Returns what the web UI's settings say about tags that do not say it themselves."""
    return ConditionSettings(option("and_parts") == settings.OWN_PART, bool(option("on_negative")))


def settings_infotext(
    found: PassConditions, chosen: ConditionSettings, mask_hashes: Mapping[str, str]
) -> dict[str, str]:
    """Returns the infotext's entries where settings differ from their defaults and make a difference, and of masks."""
    entries = dict(found.batch_regions.entries)
    if not found.parts_of_tags:
        return entries
    entries |= {AND_KEY: settings.OWN_PART} if chosen.own_part and found.parts > 1 else {}
    if masks := format_hashes(mask_hashes):
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


def acting_conditions(specs: Sequence[AdapterSpec], found: PassConditions) -> tuple[Condition, ...]:
    """Returns the conditions for files that act on single ones, empty where all act on all."""
    return () if all(spec.scope is None for spec in specs) else found.conditions

"""The conditions (parts joined by AND, the negative prompt) on which the tags of a prompt act in `generate`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..adapter_spec import AdapterSpec
from ..applied_networks import AppliedNetworks
from ..conditions import ConditionScope, and_conditions
from ..errors import PromptError
from ..host.standalone.rendering import ConditionCalls
from ..inject import BAKED
from ..lora_tags import OWN_PART, LoraTag, parse_tag_items
from ..prompt_parts import ConditionSettings, split_prompt_parts, tag_scope
from ..prompt_regions import RegionalPrompt
from .region_rows import SpecRows, output_regions, rows_of_specs


def rows_of_pass(
    prompt: str, regions: RegionalPrompt, tags: Sequence[LoraTag], specs: Sequence[AdapterSpec]
) -> SpecRows:
    """Returns the files of each row of a prompt; where tags act on single conditions, one row with the files' scopes.

    Args:
        prompt: the prompt with its tags.
        regions: the same, by regions.
        tags: tags of the prompt that can act, in order.
        specs: what each of them applies, in the same order.

    Returns:
        As `region_rows.rows_of_specs`, or one row of specs with scopes; a tag that stands twice in a region has two.
    """
    if not any(tag.acts_on_single_conditions for tag in tags):
        return rows_of_specs(regions, tags, specs)
    found = split_prompt_parts(prompt)  # which of the parts of divided prompts a tag stands in is not known
    left: list[tuple[LoraTag, int]] = []
    for items, part in () if regions.is_divided else found.tags:
        try:
            left.append((parse_tag_items(items), part))
        except PromptError:
            continue  # reported where the prompt is parsed
    scoped: list[AdapterSpec] = []
    texts, count = output_regions(specs), len(regions.rows)
    for tag, spec in zip(tags, specs, strict=True):
        times = [row.tags.count(tag) for row in regions.rows]
        for time in range(max(times) if count > 1 else 1):
            place = next((index for index, (other, _) in enumerate(left) if other == tag), None)
            own = None if place is None else left.pop(place)[1]
            scope = tag_scope(tag, own, found.count, ConditionSettings())
            within = {i for i, found_times in enumerate(times) if found_times > time} if count > 1 else None
            if spec.region is not None and count == 1:
                within = {1 + texts.index(spec.region)}  # it acts on the text encoder for the region's text alone
            scoped.append(replace(spec, scope=_within(scope, within)))
    return [scoped]


def _within(scope: ConditionScope | None, regions: Collection[int] | None) -> ConditionScope | None:
    """A scope within some regions; None for all."""
    return scope if regions is None else replace(scope or ConditionScope(), regions=frozenset(regions))


def set_conditions(
    applied: AppliedNetworks, prompt: RegionalPrompt, specs: Sequence[AdapterSpec], mode: str
) -> ConditionCalls | None:
    """Tells what applies the files which conditions there are, before it applies those that act on single ones.

    Args:
        applied: applies the files.
        prompt: the prompt by regions.
        specs: the files, with their scopes.
        mode: how they are applied.

    Returns:
        What sampling has to call; None where all files act on all conditions.

    Raises:
        PromptError: the mode is "baked", which has one weight for all conditions.
    """
    if all(spec.scope is None for spec in specs):
        return None
    if mode == BAKED:
        raise PromptError(
            "mode=baked has one weight for the whole picture; part=own and neg=0 need the mode auto or live"
        )
    found = and_conditions(split_prompt_parts(prompt.rows[0].text).count)
    if prompt.has_regions:
        found = tuple(replace(one, region=region) for region in range(len(prompt.rows)) for one in found)
    applied.conditions = found
    return ConditionCalls(applied.encode_as, applied.begin_rows)


def unused_conditions_notes(prompt: RegionalPrompt) -> list[str]:
    """Says that `part=own` acts on all parts where words divide the prompt; nothing where no tag has it."""
    named = dict.fromkeys(tag.name for tag in prompt.tags if tag.part == OWN_PART) if prompt.is_divided else ()
    return [f"<lora:{name}>: part=own acts on all parts in a prompt that words divide" for name in named]

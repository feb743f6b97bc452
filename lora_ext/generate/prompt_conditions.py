"""The conditions (parts joined by AND, the negative prompt) on which the tags of a prompt act in `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..adapter_spec import AdapterSpec
from ..applied_networks import AppliedNetworks
from ..conditions import and_conditions
from ..errors import PromptError
from ..host.standalone.rendering import ConditionCalls
from ..inject import BAKED
from ..lora_tags import LoraTag, parse_tag_items
from ..prompt_parts import ConditionSettings, split_prompt_parts, tag_scope
from ..prompt_regions import RegionalPrompt


def specs_with_scopes(prompt: str, tags: Sequence[LoraTag], specs: Sequence[AdapterSpec]) -> list[AdapterSpec]:
    """Gives each tag's spec the conditions on which the tag acts.

    Args:
        prompt: the prompt with its tags, without regions.
        tags: tags of the prompt that can act, in order.
        specs: what each of them applies, in the same order.

    Returns:
        The specs with their scopes; None for tags that act on all conditions.
    """
    found = split_prompt_parts(prompt)
    left: list[tuple[LoraTag, int]] = []
    for items, part in found.tags:
        try:
            left.append((parse_tag_items(items), part))
        except PromptError:
            continue  # reported where the prompt is parsed
    scoped = []
    for tag, spec in zip(tags, specs, strict=True):
        place = next((index for index, (other, _) in enumerate(left) if other == tag), None)
        own = None if place is None else left.pop(place)[1]
        scoped.append(replace(spec, scope=tag_scope(tag, own, found.count, ConditionSettings())))
    return scoped


def set_conditions(
    applied: AppliedNetworks, prompt: str, specs: Sequence[AdapterSpec], mode: str
) -> ConditionCalls | None:
    """Tells what applies the files which conditions there are, before it applies those that act on single ones.

    Args:
        applied: applies the files.
        prompt: the prompt with its tags.
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
    applied.conditions = and_conditions(split_prompt_parts(prompt).count)
    return ConditionCalls(applied.encode_as, applied.begin_rows)


def unused_conditions_notes(prompt: RegionalPrompt) -> list[str]:
    """Says that `part=` and `neg=` do nothing in a prompt with regions; nothing where no tag has them."""
    named = [tag.name for tag in prompt.tags if tag.acts_on_single_conditions]
    if not named or not (prompt.has_regions or any(tag.at for tag in prompt.tags)):
        return []
    return [f"part= and neg= of {', '.join(dict.fromkeys(named))} do nothing in a picture with regions"]

"""Warnings about tags that the web UI does not apply, or applies elsewhere."""

from __future__ import annotations

from typing import Any

from modules import extra_networks

from ...lora_tags import LORA_TAG_PATTERN
from ...prompt_warnings import bracketed_tag_warnings, unread_tag_warnings


def batch_tag_warnings(p: Any) -> list[str]:
    """Returns a sentence for each tag of a batch that is not applied, or that has an effect elsewhere.

    The web UI removes tags from the prompt only, by names in lower case, and applies those of a batch's first prompt to
    all of its images.
    """
    words = [*extra_networks.extra_network_registry, *extra_networks.extra_network_aliases]
    found: list[str] = []
    for prompts, negatives, left in _prompt_groups(p):
        for i, prompt in enumerate(prompts):
            negative = negatives[i] if i < len(negatives) else ""
            rest = left[i] if i < len(left) else None
            found += [
                *unread_tag_warnings(prompt, negative, words, remaining_text=rest, lowercase_only=True),
                *bracketed_tag_warnings(prompt),
            ]
        tags = [LORA_TAG_PATTERN.findall(prompt) for prompt in prompts]
        if any(each != tags[0] for each in tags):
            found.append(
                "the prompts of a batch have different <lora:…> tags, and those of the first are applied to all of its "
                "pictures: set the batch size to 1"
            )
    return list(dict.fromkeys(found))


def _prompt_groups(p: Any) -> list[tuple[list[str], list[str], list[str]]]:
    """Returns (prompts with tags, negative prompts, prompts without tags) of this batch and of its hires pass."""
    size = getattr(p, "batch_size", 1)
    first = getattr(p, "iteration", 0) * size

    def part(name: str) -> list[str]:
        return [str(text) for text in (getattr(p, name, None) or [])[first : first + size]]

    found = [
        (part("all_prompts"), part("all_negative_prompts"), [str(text) for text in getattr(p, "prompts", None) or []])
    ]
    if getattr(p, "enable_hr", False):
        left = [str(text) for text in getattr(p, "hr_prompts", None) or []]
        found.append((part("all_hr_prompts"), part("all_hr_negative_prompts"), left))
    return [texts for texts in found if texts[0]]

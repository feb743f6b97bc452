"""The parts of a prompt that `AND` joins, which tag stands in which, and on which conditions a tag acts."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from .conditions import ConditionScope
from .lora_tags import OWN_PART, TAG_NAMES, LoraTag

_NETWORK_TAG = re.compile(r"<(\w+):([^>]+)>")
"""What the web UI removes from a prompt before it looks for AND."""
_AND = re.compile(r"\bAND\b")


@dataclass(frozen=True)
class PromptParts:
    """A prompt's parts.

    Attributes:
        count: the number of parts, 1 for a prompt without AND.
        tags: for each LoRA tag in the prompt its items between the colons, and the number of its part.
    """

    count: int
    tags: tuple[tuple[tuple[str, ...], int], ...]


def split_prompt_parts(prompt: str) -> PromptParts:
    """Finds the parts of a prompt with its tags.

    Args:
        prompt: the prompt, with tags.

    Returns:
        Its parts. Tags are grouped by their name (`lora`, `lyco`), as the web UI hands them out.

    Example:
        >>> split_prompt_parts("a cat <lora:a:1> AND a dog <lora:b:1>").tags
        ((('a', '1'), 0), (('b', '1'), 1))
    """
    text, found = "", list[tuple[str, tuple[str, ...], int]]()
    end = 0
    for match in _NETWORK_TAG.finditer(prompt, 0, prompt.rfind(">") + 1):  # to the end from each "<": quadratic time
        text += prompt[end : match.start()]
        end = match.end()
        if match[1] in TAG_NAMES:
            found.append((match[1], tuple(match[2].split(":")), len(text)))
    text += prompt[end:]
    joints = [match.start() for match in _AND.finditer(text)]
    names = list(dict.fromkeys(name for name, _, _ in found))
    found.sort(key=lambda row: names.index(row[0]))
    return PromptParts(len(joints) + 1, tuple((items, bisect_right(joints, at - 1)) for _, items, at in found))


def without_network_tags(text: str) -> str:
    """Returns a text without the tags of all kinds that the web UI removes from prompts."""
    end = text.rfind(">") + 1
    return _NETWORK_TAG.sub("", text[:end]) + text[end:]


@dataclass(frozen=True)
class ConditionSettings:
    """On which conditions tags act that do not say so themselves.

    Attributes:
        own_part: whether a tag in a prompt with AND acts on its own part alone, not on all.
        negative: whether a tag acts on the negative prompt. One that acts on its own part alone does not, unless it
            has `neg=1`.
    """

    own_part: bool = False
    negative: bool = True


def tag_scope(tag: LoraTag, part: int | None, parts: int, settings: ConditionSettings) -> ConditionScope | None:
    """Returns the conditions on which a tag acts.

    Args:
        tag: the tag.
        part: the number of the part that it stands in; None where that is not known.
        parts: the number of parts.
        settings: what counts where the tag does not say.

    Returns:
        The scope, None for all conditions.

    Example:
        >>> tag_scope(LoraTag("a"), 1, 2, ConditionSettings(own_part=True))
        ConditionScope(parts=frozenset({1}), negative=False, regions=None)
    """
    own = settings.own_part if tag.part is None else tag.part == OWN_PART
    if own and part is not None and parts > 1:
        return ConditionScope(frozenset({part}), negative=bool(tag.neg))
    acts_on_negative = settings.negative if tag.neg is None else tag.neg
    return None if acts_on_negative else ConditionScope(negative=False)

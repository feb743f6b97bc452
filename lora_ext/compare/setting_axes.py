"""Axes that change something other than a tag: seeds, prompts, steps, guidance scale, sampler."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .. import kohya_prompt_line
from ..bounded_matching import split_outside_brackets
from ..errors import LoraError
from ..lora_tags import LORA_TAG_PATTERN
from . import axis_values
from .axis_kinds import Axis, AxisContext, AxisParser, AxisValue, ImageSpecEdit

EMPTY_VALUE_LABEL = "(nothing)"
"""The label of an empty replacement."""


def _setting_values(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[AxisValue, ...]:
    """The values of an axis that sets fields of the image spec, from (label, fields) of each."""

    def value(text: str, fields: Mapping[str, Any]) -> AxisValue:
        return AxisValue(text, lambda image_spec: replace(image_spec, **fields))

    return tuple(value(*row) for row in rows)


def parse_seed_axis(text: str, name: str, context: AxisContext) -> Axis:
    """Parses seeds; -1 becomes a random seed derived from the sheet's own, so that a resumed sheet gets the same one.

    Args:
        text: the seeds.
        name: unused: every axis parser has the same parameters.
        context: has the sheet's own seed.

    Raises:
        LoraError: a value that is not a whole number.
    """
    draw = random.Random(context.image_spec.seed).randrange
    seeds = [int(s) if s >= 0 else draw(4294967294) for s in axis_values.parse_number_list(text, "seed", whole=True)]
    return Axis("seed", _setting_values((f"seed {seed}", {"seed": seed}) for seed in seeds))


def parse_replacement_axis(text: str, name: str, context: AxisContext) -> Axis:
    """Parses prompt S/R: each value replaces the first one in both prompts; an empty value removes it.

    Args:
        text: the values.
        name: unused: every axis parser has the same parameters.
        context: has the prompts.

    Raises:
        LoraError: the first value is empty or in neither prompt.
    """
    words = axis_values.parse_item_list(text, empty=True)
    base = context.image_spec
    if words and not words[0]:
        raise LoraError(f"S/R: the first value is the text to look for, and is empty in {text!r}")
    if words and words[0] not in base.prompt + "\n" + base.negative_prompt:
        raise LoraError(f"S/R: {words[0]!r} is neither in the prompt nor in the negative prompt")

    def to(word: str) -> ImageSpecEdit:
        return lambda image_spec: replace(
            image_spec,
            prompt=image_spec.prompt.replace(words[0], word),
            negative_prompt=image_spec.negative_prompt.replace(words[0], word),
        )

    return Axis(
        f"“{words[0]}” becomes" if words else "",
        tuple(AxisValue(word or EMPTY_VALUE_LABEL, to(word)) for word in words),
        order=0,
    )


def parse_prompt_axis(text: str, name: str, context: AxisContext) -> Axis:
    """Parses whole prompts separated by | (outside of brackets); LoRA tags of the sheet's prompt are added to each.

    Args:
        text: the prompts, each with kohya's options such as `--d 7`, or without.
        name: unused: every axis parser has the same parameters.
        context: has the sheet's prompt.

    Raises:
        PromptError: an option that cannot be parsed.
    """
    tags = " ".join(match[0] for match in LORA_TAG_PATTERN.finditer(context.image_spec.prompt))
    rows = []
    # not at the bar in `[one|two]`
    for line in filter(None, map(str.strip, split_outside_brackets(text, "|", "[{]}"))):
        prompt, options = kohya_prompt_line.parse_prompt_line(line)
        values: dict[str, object] = {**options}
        if "negative" in values:
            values["negative_prompt"] = values.pop("negative")
        rows.append((prompt, {**values, "prompt": f"{prompt} {tags}".strip()}))
    return Axis("prompt", _setting_values(rows), order=-1)


def number_axis_parser(field: str, title: str, whole: bool) -> AxisParser:
    """The parser of a kind whose values are numbers for a field of the image spec.

    Args:
        field: the field's name.
        title: the axis's title.
        whole: whether only whole numbers are accepted.
    """

    def parse(text: str, name: str, context: AxisContext) -> Axis:
        found = axis_values.parse_number_list(text, title, whole=whole)
        kohya_prompt_line.check_option_range(field, *found)
        return Axis(title, _setting_values((f"{title} {number:g}", {field: number}) for number in found))

    return parse


def text_axis_parser(field: str) -> AxisParser:
    """The parser of a kind whose values are texts for a field of the image spec."""

    def parse(text: str, name: str, context: AxisContext) -> Axis:
        return Axis(field, _setting_values((word, {field: word}) for word in axis_values.parse_item_list(text)))

    return parse

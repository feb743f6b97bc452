"""Axes that change something else than a tag: seeds, prompts, steps, scale, sampler."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .. import kohya_prompt_line
from ..errors import LoraError
from ..lora_tags import LORA_TAG_PATTERN
from . import axis_values
from .axis_kinds import Axis, AxisContext, AxisParser, AxisValue, ImageSpecEdit

_BAR = re.compile(r"\|(?![^\[\]{}]*[\]}])")
"""Between prompts; not in `[one|two]`."""
EMPTY_VALUE_LABEL = "(nothing)"
"""The label of an empty value."""


def _setting_values(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[AxisValue, ...]:
    """(label, fields of the shot) → values that put these fields into it."""

    def value(text: str, fields: Mapping[str, Any]) -> AxisValue:
        return AxisValue(text, lambda shot: replace(shot, **fields))

    return tuple(value(*row) for row in rows)


def parse_seed_axis(text: str, name: str, context: AxisContext) -> Axis:
    """Seeds; -1 is one drawn from the sheet's own seed, the same again when a sheet is gone on with."""
    draw = random.Random(context.image_spec.seed).randrange
    seeds = [int(s) if s >= 0 else draw(4294967294) for s in axis_values.parse_number_list(text, "seed", whole=True)]
    return Axis("seed", _setting_values((f"seed {seed}", {"seed": seed}) for seed in seeds))


def parse_replacement_axis(text: str, name: str, context: AxisContext) -> Axis:
    """Prompt S/R: the first item is looked for, each one (the first too) put in its place; an empty one removes it."""
    words = axis_values.parse_item_list(text, empty=True)
    base = context.image_spec
    if words and not words[0]:
        raise LoraError(f"S/R: the first value is the text to look for, and is empty in {text!r}")
    if words and words[0] not in base.prompt + "\n" + base.negative_prompt:
        raise LoraError(f"S/R: {words[0]!r} is neither in the prompt nor in the negative prompt")

    def to(word: str) -> ImageSpecEdit:
        return lambda shot: replace(
            shot,
            prompt=shot.prompt.replace(words[0], word),
            negative_prompt=shot.negative_prompt.replace(words[0], word),
        )

    return Axis(
        f"“{words[0]}” becomes" if words else "",
        tuple(AxisValue(word or EMPTY_VALUE_LABEL, to(word)) for word in words),
        order=0,
    )


def parse_prompt_axis(text: str, name: str, context: AxisContext) -> Axis:
    """Whole prompts, separated by | (outside of brackets), each with kohya's options where it has some; the base
    prompt's tags are kept."""
    tags = " ".join(match[0] for match in LORA_TAG_PATTERN.finditer(context.image_spec.prompt))
    rows = []
    for line in filter(None, map(str.strip, _BAR.split(text))):
        prompt, options = kohya_prompt_line.parse_prompt_line(line)
        if "negative" in options:
            options["negative_prompt"] = options.pop("negative")
        rows.append((prompt, {**options, "prompt": f"{prompt} {tags}".strip()}))
    return Axis("prompt", _setting_values(rows), order=-1)


def number_axis_parser(field: str, title: str, whole: bool) -> AxisParser:
    """A kind whose values are numbers (whole ones where `whole`) of a field of the shot. Raises LoraError."""

    def read(text: str, name: str, known: AxisContext) -> Axis:
        found = axis_values.parse_number_list(text, title, whole=whole)
        kohya_prompt_line.check_option_range(field, *found)
        return Axis(title, _setting_values((f"{title} {number:g}", {field: number}) for number in found))

    return read


def text_axis_parser(field: str) -> AxisParser:
    """A kind whose values are words of a field of the shot."""

    def read(text: str, name: str, known: AxisContext) -> Axis:
        return Axis(field, _setting_values((word, {field: word}) for word in axis_values.parse_item_list(text)))

    return read

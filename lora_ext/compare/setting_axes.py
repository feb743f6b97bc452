"""Axes that change something else than a tag: seeds, prompts, steps, scale, sampler."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .. import kohya_prompt_line
from ..errors import LoraError
from ..lora_tags import TAG
from . import axis_values
from .axis_kinds import Axis, Edit, Known, Reader, Value

_BAR = re.compile(r"\|(?![^\[\]{}]*[\]}])")
"""Between prompts; not in `[one|two]`."""
NOTHING = "(nothing)"
"""The label of an empty value."""


def _settings(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[Value, ...]:
    """(label, fields of the shot) → values that put these fields into it."""

    def value(text: str, fields: Mapping[str, Any]) -> Value:
        return Value(text, lambda shot: replace(shot, **fields))

    return tuple(value(*row) for row in rows)


def seed(text: str, name: str, known: Known) -> Axis:
    """Seeds; -1 is one drawn from the sheet's own seed, the same again when a sheet is gone on with."""
    draw = random.Random(known.shot.seed).randrange
    seeds = [int(s) if s >= 0 else draw(4294967294) for s in axis_values.numbers(text, "seed", whole=True)]
    return Axis("seed", _settings((f"seed {seed}", {"seed": seed}) for seed in seeds))


def replaced(text: str, name: str, known: Known) -> Axis:
    """Prompt S/R: the first item is looked for, each one (the first too) put in its place; an empty one removes it."""
    words = axis_values.items(text, empty=True)
    base = known.shot
    if words and not words[0]:
        raise LoraError(f"S/R: the first value is the text to look for, and is empty in {text!r}")
    if words and words[0] not in base.prompt + "\n" + base.negative_prompt:
        raise LoraError(f"S/R: {words[0]!r} is neither in the prompt nor in the negative prompt")

    def to(word: str) -> Edit:
        return lambda shot: replace(
            shot,
            prompt=shot.prompt.replace(words[0], word),
            negative_prompt=shot.negative_prompt.replace(words[0], word),
        )

    return Axis(
        f"“{words[0]}” becomes" if words else "", tuple(Value(word or NOTHING, to(word)) for word in words), order=0
    )


def prompts(text: str, name: str, known: Known) -> Axis:
    """Whole prompts, separated by | (outside of brackets), each with kohya's options where it has some; the base
    prompt's tags are kept."""
    tags = " ".join(match[0] for match in TAG.finditer(known.shot.prompt))
    rows = []
    for line in filter(None, map(str.strip, _BAR.split(text))):
        prompt, options = kohya_prompt_line.read(line)
        if "negative" in options:
            options["negative_prompt"] = options.pop("negative")
        rows.append((prompt, {**options, "prompt": f"{prompt} {tags}".strip()}))
    return Axis("prompt", _settings(rows), order=-1)


def amount(field: str, title: str, whole: bool) -> Reader:
    """A kind whose values are numbers (whole ones where `whole`) of a field of the shot. Raises LoraError."""

    def read(text: str, name: str, known: Known) -> Axis:
        found = axis_values.numbers(text, title, whole=whole)
        kohya_prompt_line.in_range(field, *found)
        return Axis(title, _settings((f"{title} {number:g}", {field: number}) for number in found))

    return read


def words(field: str) -> Reader:
    """A kind whose values are words of a field of the shot."""

    def read(text: str, name: str, known: Known) -> Axis:
        return Axis(field, _settings((word, {field: word}) for word in axis_values.items(text)))

    return read

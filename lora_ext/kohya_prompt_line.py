"""kohya's prompt lines: `prompt --n negative --w 512 --h 512 --d seed --s steps --l scale --ss sampler`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import PromptError, did_you_mean

PROMPT_LINE_OPTIONS = {
    "n": "negative",
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "l": "cfg",
    "ss": "sampler",
}
"""kohya's letters → the fields of a `protocols.Sample`."""
_KINDS = {"width": int, "height": int, "seed": int, "steps": int, "cfg": float}
_LIMITS = {"width": (0, 8192), "height": (0, 8192), "steps": (1, 1000), "cfg": (-100.0, 100.0)}
"""Accepted ranges. A number outside is a typing error, reported before anything is generated."""


def parse_prompt_line(line: str) -> tuple[str, dict[str, Any]]:
    """(prompt, field → value). Raises PromptError with the nearest letter, or naming the value that is no number."""
    prompt, *rest = re.split(r"\s+--(?=[a-zA-Z])", " " + line.strip())
    given = {}
    for item in rest:
        letter, _, value = item.partition(" ")
        if letter.lower() not in PROMPT_LINE_OPTIONS:
            raise PromptError(f"prompt {line!r}: unknown option --{letter}{did_you_mean(letter, PROMPT_LINE_OPTIONS)}")
        given[PROMPT_LINE_OPTIONS[letter.lower()]] = value.strip()
    return prompt.strip(), convert_option_values(given, line)


def format_prompt_line(prompt: str, options: Mapping[str, object]) -> str:
    """The line that `parse_prompt_line` takes apart again; options that are None or "" are left out."""
    letters = {field: letter for letter, field in PROMPT_LINE_OPTIONS.items()}
    parts = [f"--{letters[field]} {value}" for field, value in options.items() if value not in (None, "")]
    return " ".join([prompt, *parts])


def convert_option_values(given: Mapping[str, Any], line: str) -> dict[str, Any]:
    """Field → value, as a number where it is one. Raises PromptError."""
    found = {}
    for name, value in given.items():
        try:
            found[name] = _KINDS.get(name, str)(value)
        except (TypeError, ValueError):
            raise PromptError(f"prompt {line!r}: {value!r} is not a number for {name}") from None
        check_option_range(name, found[name])
    return found


def check_option_range(name: str, *numbers: Any) -> None:
    """Raises PromptError about the first number that a picture's field cannot be; not a number is one of them."""
    low, high = _LIMITS.get(name, (None, None))
    for number in numbers:
        if low is not None and high is not None and not low <= number <= high:
            raise PromptError(f"{name} is {number}; it must be from {low:g} to {high:g}")

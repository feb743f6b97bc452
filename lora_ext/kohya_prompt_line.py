"""kohya's prompt lines: `prompt --n negative --w 512 --h 512 --d seed --s steps --l scale --ss sampler`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypedDict, cast

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
"""kohya's letters → the fields of a `protocols.SampleSpec`."""
_KINDS = {"width": int, "height": int, "seed": int, "steps": int, "cfg": float}
_LIMITS = {"width": (0, 8192), "height": (0, 8192), "steps": (1, 1000), "cfg": (-100.0, 100.0)}
"""Accepted ranges. A number outside is a typing error, reported before anything is generated."""


class PromptLineOptions(TypedDict, total=False):
    """The options of a prompt line, named as the fields of `protocols.SampleSpec`."""

    negative: str
    width: int
    height: int
    seed: int
    steps: int
    cfg: float
    sampler: str


def parse_prompt_line(line: str) -> tuple[str, PromptLineOptions]:
    """Parses a prompt line of kohya's scripts.

    Args:
        line: the prompt and its options.

    Returns:
        (prompt, the options that the line has).

    Raises:
        PromptError: an option is unknown, or its value is not a number or out of range.

    Example:
        >>> parse_prompt_line("a cat --w 768 --l 5")
        ('a cat', {'width': 768, 'cfg': 5.0})
    """
    prompt, *rest = re.split(r"(?<!\s)\s+--(?=[a-zA-Z])", " " + line.strip())
    given = {}
    for item in rest:
        letter, _, value = item.partition(" ")
        if letter.lower() not in PROMPT_LINE_OPTIONS:
            raise PromptError(f"prompt {line!r}: unknown option --{letter}{did_you_mean(letter, PROMPT_LINE_OPTIONS)}")
        given[PROMPT_LINE_OPTIONS[letter.lower()]] = value.strip()
    return prompt.strip(), convert_option_values(given, line)


def format_prompt_line(prompt: str, options: Mapping[str, object]) -> str:
    """Formats a prompt line, which `parse_prompt_line` parses.

    Args:
        prompt: the prompt.
        options: field of `protocols.SampleSpec` → value; None and "" are left out.

    Returns:
        The line.
    """
    letters = {field: letter for letter, field in PROMPT_LINE_OPTIONS.items()}
    parts = [f"--{letters[field]} {value}" for field, value in options.items() if value not in (None, "")]
    return " ".join([prompt, *parts])


def convert_option_values(given: Mapping[str, Any], line: str) -> PromptLineOptions:
    """Converts the values of options from text.

    Args:
        given: field of `protocols.SampleSpec` → text or number.
        line: what messages call the prompt.

    Returns:
        The options, numbers as numbers.

    Raises:
        PromptError: a value is not a number or out of range.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        try:
            found[name] = _KINDS.get(name, str)(value)
        except (TypeError, ValueError, OverflowError):
            raise PromptError(f"prompt {line!r}: {value!r} is not a number for {name}") from None
        check_option_range(name, found[name])
    return cast(PromptLineOptions, found)


def check_option_range(name: str, *numbers: Any) -> None:
    """Checks the range of an option.

    Args:
        name: field of `protocols.SampleSpec`.
        *numbers: its values.

    Raises:
        PromptError: a value is out of range, or NaN.
    """
    low, high = _LIMITS.get(name, (None, None))
    for number in numbers:
        if low is not None and high is not None and not low <= number <= high:
            raise PromptError(f"{name} is {number}; it must be from {low:g} to {high:g}")

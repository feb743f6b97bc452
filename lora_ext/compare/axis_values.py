"""The values of an axis as the user writes them: lists with commas, and the ranges of the web UI's plot script."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from ..errors import LoraError

MAX_AXIS_VALUES = 1000
"""The largest number of values of an axis: a typing error in a step should not ask for a million pictures."""

_MAX_NUMBER_LENGTH = 80
"""The largest number of characters of a number or range: longer numbers overflow to infinity, or to zero as a step."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(
    rf"(?P<first>{_NUMBER})\s*-\s*(?P<last>{_NUMBER})\s*(?:\(\s*(?P<step>{_NUMBER})\s*\)|\[\s*(?P<count>\d+)\s*\])?"
)


def weight_label(weight: float) -> str:
    """The label of the weight of the only LoRA of a picture.

    Example:
        >>> weight_label(0.5), weight_label(0)
        ('weight 0.5', 'no LoRA')
    """
    return f"weight {weight:g}" if weight else "no LoRA"


def parse_item_list(text: str, *, empty: bool = False) -> list[str]:
    """Splits a list at its commas; quotes keep a comma, and empty items are left out unless `empty`.

    Raises:
        LoraError: a quote that is not closed.

    Example:
        >>> parse_item_list('cat, "dog, sitting",')
        ['cat', 'dog, sitting']
    """
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error:
        raise LoraError(f"a quote in {text!r} is never closed") from None
    return [item.strip() for row in rows for item in row if empty or item.strip()]


def parse_number_list(text: str, what: str, *, whole: bool = False) -> list[float]:
    """Parses numbers and ranges: `0.2`, `1-4`, `0.2-1.0 (+0.2)`, `1-0 (-0.25)`, `0-1 [5]`.

    A range has a step of 1 unless one is given in round brackets, and includes its end where a step reaches it. `[n]`
    means n evenly spaced values with both ends.

    Args:
        text: the list.
        what: what messages call the values.
        whole: whether only whole numbers are accepted.

    Returns:
        The numbers in the order of the text.

    Raises:
        LoraError: an item that is not a number or a range, no values, or too many; the message quotes the item.

    Example:
        >>> parse_number_list("0.5, 0-1 [3], 3-1 (-1)", "weight")
        [0.5, 0.0, 0.5, 1.0, 3.0, 2.0, 1.0]
    """
    found: list[float] = []
    for item in parse_item_list(text):
        found += parse_number_range(item, what)
        if len(found) > MAX_AXIS_VALUES:
            short = text if len(text) <= _MAX_NUMBER_LENGTH else f"{text[:_MAX_NUMBER_LENGTH]}…"
            raise LoraError(f"{what}: too many values in {short!r}; at most {MAX_AXIS_VALUES} on one axis")
    if whole and any(value != int(value) for value in found):
        raise LoraError(f"{what} takes whole numbers, not {text!r}")
    if not found:
        raise LoraError(f"{what}: no values given")
    return [int(value) for value in found] if whole else found


def parse_number_range(item: str, what: str) -> list[float]:
    """Parses one item, a number or a range; see `parse_number_list`.

    Raises:
        LoraError: the item is neither.
    """
    if len(item) > _MAX_NUMBER_LENGTH:
        raise LoraError(f"{what}: {item[:_MAX_NUMBER_LENGTH]!r}… is not a number")
    if re.fullmatch(_NUMBER, item):
        return [float(item)]
    match = _RANGE.fullmatch(item)
    if match is None:
        raise LoraError(f"{what}: {item!r} is neither a number nor a range such as 0.2-1.0(+0.2) or 0-1 [5]")
    first, last = float(match["first"]), float(match["last"])
    if match["count"]:
        return evenly_spaced(first, last, int(match["count"]), what, item)
    step = float(match["step"]) if match["step"] else 1.0
    if step == 0 or (last - first) * step < 0:
        raise LoraError(f"{what}: {item!r} never gets from {first:g} to {last:g} in steps of {step:g}")
    count = int((last - first) / step + 1e-6) + 1  # 1e-6: (1.0 - 0.2) / 0.2 is a little below 4
    if count > MAX_AXIS_VALUES:
        raise LoraError(f"{what}: {count} values in {item!r}; at most {MAX_AXIS_VALUES} on one axis")
    return [round(first + i * step, 8) for i in range(count)]


def evenly_spaced(first: float, last: float, count: int, what: str, item: str) -> list[float]:
    """`count` values from `first` to `last`, evenly spaced.

    Args:
        first: the first value.
        last: the last value.
        count: their number, 1 to `MAX_AXIS_VALUES`.
        what: what messages call the values.
        item: the text that messages quote.

    Raises:
        LoraError: a count out of range.
    """
    if not 1 <= count <= MAX_AXIS_VALUES:
        raise LoraError(f"{what}: [{count}] in {item!r}; 1 to {MAX_AXIS_VALUES} values are possible")
    if count == 1:
        return [first]
    return [round(first + (last - first) * i / (count - 1), 8) for i in range(count)]


def parse_step_list(text: str, what: str) -> list[float | None]:
    """Parses sampling steps: whole numbers are steps, numbers with a point shares of all steps, `none` is no limit.

    Args:
        text: the list.
        what: what messages call the values.

    Raises:
        LoraError: an item that is not a number, a share outside 0 to 1, or no values.

    Example:
        >>> parse_step_list("5, 0.5, none", "start")
        [5, 0.5, None]
    """
    found: list[float | None] = []
    for item in parse_item_list(text):
        if item.lower() in ("none", "off"):
            found.append(None)
            continue
        share = "." in item or "[" in item
        for value in parse_number_range(item, what):
            if value < 0 or (share and value > 1) or (not share and value != int(value)):
                raise LoraError(f"{what}: {item!r} is neither whole steps nor shares 0.0–1.0")
            found.append(float(value) if share else int(value))
    if not found:
        raise LoraError(f"{what}: no values given")
    return found


def format_item_list(values: Sequence[object]) -> str:
    """Joins values to a text that `parse_item_list` splits again.

    Args:
        values: the values; one with a comma is put in double quotes.

    Returns:
        Such as `a, "b, c"`.
    """
    return ", ".join(f'"{value}"' if "," in str(value) else str(value) for value in values)

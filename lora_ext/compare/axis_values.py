"""Values of an axis as people write them: lists with commas, ranges as the web UI's plot script has them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from ..errors import LoraError

MAX_AXIS_VALUES = 1000
"""Values on one axis, at most: a slip in a step should not ask for a million pictures."""

_LONGEST = 80
"""Characters of a number or a range, at most: longer ones are infinite, or zero as a step."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(
    rf"(?P<first>{_NUMBER})\s*-\s*(?P<last>{_NUMBER})\s*(?:\(\s*(?P<step>{_NUMBER})\s*\)|\[\s*(?P<count>\d+)\s*\])?"
)


def parse_item_list(text: str, *, empty: bool = False) -> list[str]:
    """What stands between commas, stripped; quotes keep commas. Empty items are left out unless `empty`.

    Raises LoraError.
    """
    try:
        rows = list(csv.reader(text.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error:
        raise LoraError(f"a quote in {text!r} is never closed") from None
    return [item.strip() for row in rows for item in row if empty or item.strip()]


def parse_number_list(text: str, what: str, *, whole: bool = False) -> list[float]:
    """Numbers and ranges: `0.2`, `1-4`, `0.2-1.0 (+0.2)`, `1-0 (-0.25)`, `0-1 [5]`; whole ones where `whole`.

    A range's step is 1 where none is given, and its end belongs to it when a step meets it; `[n]` are n values, both
    ends among them. Raises LoraError that quotes the item.
    """
    found: list[float] = []
    for item in parse_item_list(text):
        found += parse_number_range(item, what)
    if whole and any(value != int(value) for value in found):
        raise LoraError(f"{what} takes whole numbers, not {text!r}")
    if not found:
        raise LoraError(f"{what}: no values given")
    if len(found) > MAX_AXIS_VALUES:
        raise LoraError(f"{what}: {len(found)} values in {text!r}; at most {MAX_AXIS_VALUES} on one axis")
    return [int(value) for value in found] if whole else found


def parse_number_range(item: str, what: str) -> list[float]:
    """The numbers of one item, a number or a range. Raises LoraError."""
    if len(item) > _LONGEST:
        raise LoraError(f"{what}: {item[:_LONGEST]!r}… is no number")
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
    count = int((last - first) / step + 1e-6) + 1
    if count > MAX_AXIS_VALUES:
        raise LoraError(f"{what}: {count} values in {item!r}; at most {MAX_AXIS_VALUES} on one axis")
    return [round(first + i * step, 8) for i in range(count)]


def evenly_spaced(first: float, last: float, count: int, what: str, item: str) -> list[float]:
    """`count` values from first to last, evenly. Raises LoraError."""
    if not 1 <= count <= MAX_AXIS_VALUES:
        raise LoraError(f"{what}: [{count}] in {item!r}; 1 to {MAX_AXIS_VALUES} values are possible")
    if count == 1:
        return [first]
    return [round(first + (last - first) * i / (count - 1), 8) for i in range(count)]


def parse_step_list(text: str, what: str) -> list[float | None]:
    """Steps of a schedule: whole numbers count steps, numbers with a point are shares of all; `none` is no limit.

    Raises LoraError for a share outside 0..1 and for what is not a number.
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
    """Values as one text that `parse_item_list` takes apart again."""
    return ", ".join(f'"{value}"' if "," in str(value) else str(value) for value in values)

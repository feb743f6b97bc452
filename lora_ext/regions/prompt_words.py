"""Divides a prompt into regions by Regional Prompter's words: `ADDCOMM ADDBASE ADDCOL ADDROW BREAK`.

The meaning is that of hako-mikan/sd-webui-regional-prompter in its mode "Matrix" with "Columns" as the main splitting:
rows of cells, each row as high and each cell as wide as the ratios say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PromptError
from .region import Region

COMMON_WORD, BASE_WORD, COLUMN_WORD, ROW_WORD, BREAK_WORD = "ADDCOMM", "ADDBASE", "ADDCOL", "ADDROW", "BREAK"
MAX_REGIONS = 64
"""More regions than this are a typing error: each one is a row of the U-Net's batch."""


@dataclass(frozen=True)
class DividedPrompt:
    """A prompt divided into regions; texts still contain their `<lora:…>` tags.

    Attributes:
        common: the text before ADDCOMM, which stands before every other text already; "" without it.
        base: the text of the base, which covers the whole picture; None without ADDBASE.
        regions: (region, text) from left to right and from top to bottom.
    """

    common: str
    base: str | None
    regions: tuple[tuple[Region, str], ...]


def divide_prompt(prompt: str, ratios: str = "") -> DividedPrompt | None:
    """Divides a prompt at Regional Prompter's words.

    ADDROW begins a row and ADDCOL a cell of it. A BREAK divides too where `ratios` are given and the prompt has
    neither of the two; otherwise it stays in its text. In `ratios` commas separate cells; with `;`, which separates
    rows, the first number of a row is its height. Missing numbers repeat the last one.

    Args:
        prompt: the prompt, tags included.
        ratios: such as `1,1` or `1,2,1;1,3`; "" for equal parts.

    Returns:
        The divided prompt; None where it has none of the words.

    Raises:
        PromptError: the ratios are no positive numbers, or there are too many regions.

    Example:
        >>> divided = divide_prompt("2 people ADDCOMM a knight ADDCOL a witch")
        >>> [(region.format_region(), text) for region, text in divided.regions]
        [('0-0.5;0-1', '2 people, a knight'), ('0.5-1;0-1', '2 people, a witch')]
    """
    common, base, rest = "", None, prompt
    if (parts := _split(COMMON_WORD, rest, once=True))[1:]:
        common, rest = parts
    if (parts := _split(BASE_WORD, rest, once=True))[1:]:
        base, rest = parts
    divided = bool(_split(COLUMN_WORD, rest)[1:] or _split(ROW_WORD, rest)[1:])
    if not divided and ratios.strip():
        for word in _words_of(ratios):
            rest = re.sub(rf"\b{BREAK_WORD}\b", word, rest, count=1)
        divided = bool(_split(COLUMN_WORD, rest)[1:] or _split(ROW_WORD, rest)[1:])
    if not divided and base is None and not common:
        return None
    cells = [_split(COLUMN_WORD, row) for row in _split(ROW_WORD, rest)]
    if sum(map(len, cells)) > MAX_REGIONS:
        raise PromptError(f"the prompt has {sum(map(len, cells))} regions; up to {MAX_REGIONS} are drawn")
    regions = _rectangles([len(row) for row in cells], ratios)
    texts = [_joined(common, text) for row in cells for text in row]
    return DividedPrompt(
        common, None if base is None else _joined(common, base), tuple(zip(regions, texts, strict=True))
    )


def _split(word: str, text: str, once: bool = False) -> list[str]:
    """The texts between the words, without the blanks around them."""
    return [part.strip() for part in re.split(rf"\b{word}\b", text, maxsplit=int(once))]


def _joined(common: str, text: str) -> str:
    return f"{common}, {text}" if common else text


def _words_of(ratios: str) -> list[str]:
    """The words that BREAKs stand for: as many cells and rows as the ratios name."""
    rows = [row.split(",") for row in ratios.split(";")]
    counts = [len(rows[0])] if len(rows) == 1 else [max(len(row) - 1, 1) for row in rows]
    return f" {ROW_WORD} ".join(f" {COLUMN_WORD} ".join([""] * count) for count in counts).split()


def _rectangles(counts: Sequence[int], ratios: str) -> list[Region]:
    """The cells of rows with these numbers of cells."""
    text = ratios.strip() or "1"
    if ";" not in text and len(counts) == 1:
        text = f"1,{text}"  # one row: all numbers are widths
    elif ";" not in text and max(counts) == 1:
        text = ";".join(text.split(","))  # one column: all numbers are heights
    heights, widths = _match_ratios([[_ratio(n, ratios) for n in row.split(",")] for row in text.split(";")], counts)
    found = []
    tops = _edges(heights)
    for row, sizes in enumerate(widths):
        lefts = _edges(sizes)
        found += [Region(lefts[i], lefts[i + 1], tops[row], tops[row + 1]) for i in range(len(sizes))]
    return found


def _match_ratios(rows: Sequence[list[float]], counts: Sequence[int]) -> tuple[list[float], list[list[float]]]:
    """(height of each row, widths of its cells): a row with too few numbers repeats its last one, numbers that are too
    many go on in the next row, and missing rows repeat the last number.
    """
    heights: list[float] = []
    widths: list[list[float]] = []
    last = 1.0
    for numbers in rows:
        left, last = list(numbers), numbers[-1]
        while left and len(widths) < len(counts):
            count = counts[len(widths)]
            heights.append(left[0])
            left = left[1:] or left
            widths.append((left + [left[-1]] * count)[:count])
            left = left[count:]
    missing = counts[len(widths) :]
    return heights + [heights[-1]] * len(missing), widths + [[last] * count for count in missing]


def _ratio(text: str, ratios: str) -> float:
    try:
        value = float(text) if text.strip() else 1.0
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise PromptError(f"ratios {ratios[:80]!r}: {text.strip()[:20]!r} is no number above 0; write 1,1 or 1,2,1;1,3")
    return value


def _edges(sizes: Sequence[float]) -> list[float]:
    """The edges of parts of these sizes, from 0 to 1."""
    edges = [sum(sizes[:i]) / sum(sizes) for i in range(len(sizes))]
    return [*edges, 1.0]

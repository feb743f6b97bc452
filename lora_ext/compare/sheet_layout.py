"""A labelled sheet: pictures in rows and columns, with heads, a title, bars under the pictures and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from .text_layout import (
    INK_COLOUR,
    LINE_COLOUR,
    MUTED_COLOUR,
    PAPER_COLOUR,
    displayable_text,
    line_height,
    load_font,
    text_height,
    text_width,
    wrap_text,
)

MARK_COLOUR = "#e8590c"
"""The frame of a marked cell."""
READABLE_WIDTH = 1500
"""Pixels of width at which a whole sheet is looked at: letters are as large as to be readable then."""


@dataclass(frozen=True)
class Bar:
    """A measure under a picture: its length 0..1 of the picture's width, its colour, and the number beside it."""

    share: float
    colour: str
    text: str = ""


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows. cells: row by row, one picture per column, None where there is none yet.

    bars: (row, column) → bars under that picture. captions: (row, column) → text under them. marks: (row, column) of
    cells to frame. legend: (colour, meaning). subtitle: settings, in smaller letters.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Image.Image | None]]
    note: str = ""
    scale: int = 1
    """How often each pixel is repeated, for small pictures."""
    subtitle: str = ""
    bars: Mapping[tuple[int, int], Sequence[Bar]] = field(default_factory=dict)
    marks: frozenset[tuple[int, int]] = frozenset()
    legend: Sequence[tuple[str, str]] = ()
    captions: Mapping[tuple[int, int], str] = field(default_factory=dict)


class _SheetLayout:
    """Where everything goes, in pixels."""

    def __init__(self, sheet: Sheet, text: int, gap: int) -> None:
        shown = [cell for row in sheet.cells for cell in row if cell is not None]
        self.width = max((cell.width for cell in shown), default=64) * sheet.scale
        self.height = max((cell.height for cell in shown), default=64) * sheet.scale
        columns = len(sheet.columns)
        whole = columns * (self.width + gap)
        self.text = text or max(15, min(round(15 * whole / READABLE_WIDTH), self.width // 5))
        self.gap = max(gap, self.text // 3)
        self.font, self.small = (
            load_font(self.text, "".join((*sheet.columns, *sheet.rows))),
            load_font(round(self.text * 0.8)),
        )
        self.bold = load_font(round(self.text * 1.4), sheet.title)
        self.bar = max(6, round(self.text * 0.8))
        self.bars = max((len(bars) for bars in sheet.bars.values()), default=0) * (self.bar + 2)
        self.captions = {place: wrap_text(text, self.small, self.width, 2) for place, text in sheet.captions.items()}
        self.bars += max((text_height(text, self.small) + 2 for text in self.captions.values()), default=0)
        longest = max((text_width(row, self.font) for row in sheet.rows), default=0)
        self.left = min(longest, max(self.width, 9 * self.text)) + 2 * self.gap
        if not any(sheet.rows):
            self.left = self.gap
        self.pitch = (self.width + self.gap, self.height + self.bars + self.gap)
        self.total = max(self.left + columns * self.pitch[0] + self.gap, 360)
        inner = self.total - 2 * self.gap
        self.title = wrap_text(sheet.title, self.bold, inner, 4)
        self.subtitle = wrap_text(sheet.subtitle, self.small, inner, 6) if sheet.subtitle else ""
        self.note = wrap_text(sheet.note, self.font, inner) if sheet.note else ""
        self.heads = [wrap_text(head, self.font, self.width, 8) for head in sheet.columns]
        self.legend = self._legend_lines(sheet, inner)
        self.top = self._stack(self.title, self.bold) + self._stack(self.subtitle, self.small) + 2 * self.gap
        heads = [text_height(head, self.font) for head in self.heads]
        self.head = max(heads, default=0) + 2 * self.gap
        self.bottom = self.gap + self._stack(self.note, self.font) + len(self.legend) * self.row + self.gap
        self.size = self.total, self.top + self.head + len(sheet.rows) * self.pitch[1] + self.bottom

    @property
    def row(self) -> int:
        """A line of the legend."""
        return line_height(self.small) + self.gap // 2

    def _stack(self, text: str, letters: object) -> int:
        return text_height(text, letters) + self.gap if text else 0  # type: ignore[arg-type]

    def _legend_lines(self, sheet: Sheet, inner: int) -> list[list[tuple[int, str, str]]]:
        """Lines of (x, colour, meaning)."""
        lines: list[list[tuple[int, str, str]]] = []
        x = inner
        for colour, meaning in ((colour, displayable_text(meaning)) for colour, meaning in sheet.legend):
            width = text_width(meaning, self.small) + 3 * self.text
            if x + width > inner:
                lines.append([])
                x = 0
            lines[-1].append((x, colour, meaning))
            x += width
        return lines


def draw_sheet(sheet: Sheet, *, text: int = 0, gap: int = 6) -> Image.Image:
    """The sheet as an RGB picture. `text`: letter height in pixels, 0 for readable when seen whole; `gap`: between
    cells."""
    at = _SheetLayout(sheet, text, gap)
    picture = Image.new("RGB", at.size, PAPER_COLOUR)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((at.gap, at.gap), at.title, fill=INK_COLOUR, font=at.bold)
    if at.subtitle:
        y = at.gap + at._stack(at.title, at.bold)
        draw.multiline_text((at.gap, y), at.subtitle, fill=MUTED_COLOUR, font=at.small)
    _draw_heads(draw, sheet, at)
    for row, cells in enumerate(sheet.cells):
        for column, cell in enumerate(cells):
            place = at.left + column * at.pitch[0], at.top + at.head + row * at.pitch[1]
            _draw_cell(picture, draw, at, place, cell, sheet.scale)
            _draw_bars(draw, at, place, sheet.bars.get((row, column), ()))
            _draw_caption(draw, at, place, (row, column), len(sheet.bars.get((row, column), ())))
            if (row, column) in sheet.marks:
                _draw_frame(draw, at, place)
    _draw_foot(draw, at)
    return picture


def _draw_heads(draw: ImageDraw.ImageDraw, sheet: Sheet, at: _SheetLayout) -> None:
    for column, head in enumerate(at.heads):
        x = at.left + column * at.pitch[0] + at.width // 2
        draw.multiline_text(
            (x, at.top + at.head - at.gap), head, fill=INK_COLOUR, font=at.font, anchor="md", align="center"
        )
    for row, name in enumerate(sheet.rows):
        y = at.top + at.head + row * at.pitch[1] + at.height // 2
        label = wrap_text(name, at.font, at.left - 2 * at.gap, max(1, at.height // line_height(at.font)))
        draw.multiline_text((at.left - at.gap, y), label, fill=INK_COLOUR, font=at.font, anchor="rm", align="right")


def _draw_cell(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: _SheetLayout,
    place: tuple[int, int],
    cell: Image.Image | None,
    scale: int,
) -> None:
    if cell is None:
        right, bottom = place[0] + at.width - 1, place[1] + at.height - 1
        draw.rectangle((*place, right, bottom), fill="#f3f3f6", outline=LINE_COLOUR)
        return
    size = (cell.width * scale, cell.height * scale)
    shown = cell.convert("RGB")
    picture.paste(shown if scale == 1 else shown.resize(size, Image.Resampling.NEAREST), place)


def _draw_bars(draw: ImageDraw.ImageDraw, at: _SheetLayout, place: tuple[int, int], bars: Sequence[Bar]) -> None:
    """A line each: a track, the bar on it, and the number at the right end."""
    if not bars:
        return
    letters = load_font(at.bar)
    numbers = max(text_width(bar.text, letters) for bar in bars)
    track = at.width - numbers - 4
    if track < at.width // 3:
        track, numbers = at.width, 0
    for line, bar in enumerate(bars):
        x, y = place[0], place[1] + at.height + 2 + line * (at.bar + 2)
        draw.rectangle((x, y + 1, x + track - 1, y + at.bar - 1), fill="#ececf1")
        length = round(min(max(bar.share, 0.0), 1.0) * track)
        if length:
            draw.rectangle((x, y + 1, x + length - 1, y + at.bar - 1), fill=bar.colour)
        if numbers:
            middle = y + at.bar / 2
            draw.text((place[0] + at.width - 1, middle), bar.text, fill=INK_COLOUR, font=letters, anchor="rm")


def _draw_caption(
    draw: ImageDraw.ImageDraw, at: _SheetLayout, place: tuple[int, int], cell: tuple[int, int], bars: int
) -> None:
    """The cell's caption, below its bars."""
    if cell in at.captions:
        y = place[1] + at.height + 2 + bars * (at.bar + 2)
        draw.multiline_text((place[0], y), at.captions[cell], fill=MUTED_COLOUR, font=at.small)


def _draw_frame(draw: ImageDraw.ImageDraw, at: _SheetLayout, place: tuple[int, int]) -> None:
    wide = max(2, at.gap // 2)
    box = (place[0] - wide, place[1] - wide, place[0] + at.width + wide - 1, place[1] + at.height + at.bars + wide - 1)
    draw.rectangle(box, outline=MARK_COLOUR, width=wide)


def _draw_foot(draw: ImageDraw.ImageDraw, at: _SheetLayout) -> None:
    y = at.size[1] - at.bottom + at.gap
    if at.note:
        draw.multiline_text((at.gap, y), at.note, fill=MUTED_COLOUR, font=at.font)
        y += at._stack(at.note, at.font)
    chip = round(at.text * 0.8)
    for line in at.legend:
        for x, colour, meaning in line:
            draw.rectangle((at.gap + x, y + 1, at.gap + x + chip, y + 1 + chip), fill=colour)
            draw.text((at.gap + x + chip + at.text // 2, y), meaning, fill=MUTED_COLOUR, font=at.small)
        y += at.row

"""Draw a labelled sheet: pictures in rows and columns with labels, a title, bars under the pictures and a legend."""

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
"""The width in pixels at which a whole sheet is viewed; letters are large enough to be readable then."""


@dataclass(frozen=True)
class Bar:
    """A measure under a picture.

    Attributes:
        share: length of the bar as a share of the picture's width, 0 to 1.
        colour: of the bar.
        text: the number beside it.
    """

    share: float
    colour: str
    text: str = ""


@dataclass(frozen=True)
class Sheet:
    """The content of a sheet.

    Attributes:
        title: over the sheet.
        columns: labels of the columns.
        rows: labels of the rows.
        cells: row by row, one picture for each column; None where there is none yet.
        note: a text under the sheet.
        scale: how often each pixel is repeated, for small pictures.
        subtitle: the settings, in smaller letters.
        bars: (row, column) → bars under that picture.
        marks: (row, column) of the cells with a frame.
        legend: (colour, meaning) of the bars.
        captions: (row, column) → text under the bars.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Image.Image | None]]
    note: str = ""
    scale: int = 1
    subtitle: str = ""
    bars: Mapping[tuple[int, int], Sequence[Bar]] = field(default_factory=dict)
    marks: frozenset[tuple[int, int]] = frozenset()
    legend: Sequence[tuple[str, str]] = ()
    captions: Mapping[tuple[int, int], str] = field(default_factory=dict)


class _SheetLayout:
    """The positions and sizes of everything on a sheet, in pixels."""

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
        self.captions = {
            position: wrap_text(text, self.small, self.width, 2) for position, text in sheet.captions.items()
        }
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
        """Height of a line of the legend."""
        return line_height(self.small) + self.gap // 2

    def _stack(self, text: str, font: object) -> int:
        return text_height(text, font) + self.gap if text else 0  # type: ignore[arg-type]

    def _legend_lines(self, sheet: Sheet, inner: int) -> list[list[tuple[int, str, str]]]:
        """The lines of the legend, each a list of (x, colour, meaning)."""
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
    """Draws a sheet as an RGB picture.

    Args:
        sheet: its content.
        text: height of letters in pixels; 0 for letters that are readable when the whole sheet is viewed.
        gap: pixels between cells.

    Returns:
        The picture: title, labels of rows and columns, and the cells.
    """
    layout = _SheetLayout(sheet, text, gap)
    picture = Image.new("RGB", layout.size, PAPER_COLOUR)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((layout.gap, layout.gap), layout.title, fill=INK_COLOUR, font=layout.bold)
    if layout.subtitle:
        y = layout.gap + layout._stack(layout.title, layout.bold)
        draw.multiline_text((layout.gap, y), layout.subtitle, fill=MUTED_COLOUR, font=layout.small)
    _draw_heads(draw, sheet, layout)
    for row, cells in enumerate(sheet.cells):
        for column, cell in enumerate(cells):
            position = layout.left + column * layout.pitch[0], layout.top + layout.head + row * layout.pitch[1]
            _draw_cell(picture, draw, layout, position, cell, sheet.scale)
            _draw_bars(draw, layout, position, sheet.bars.get((row, column), ()))
            _draw_caption(draw, layout, position, (row, column), len(sheet.bars.get((row, column), ())))
            if (row, column) in sheet.marks:
                _draw_frame(draw, layout, position)
    _draw_foot(draw, layout)
    return picture


def _draw_heads(draw: ImageDraw.ImageDraw, sheet: Sheet, layout: _SheetLayout) -> None:
    for column, head in enumerate(layout.heads):
        x = layout.left + column * layout.pitch[0] + layout.width // 2
        draw.multiline_text(
            (x, layout.top + layout.head - layout.gap),
            head,
            fill=INK_COLOUR,
            font=layout.font,
            anchor="md",
            align="center",
        )
    for row, name in enumerate(sheet.rows):
        y = layout.top + layout.head + row * layout.pitch[1] + layout.height // 2
        label = wrap_text(
            name, layout.font, layout.left - 2 * layout.gap, max(1, layout.height // line_height(layout.font))
        )
        draw.multiline_text(
            (layout.left - layout.gap, y), label, fill=INK_COLOUR, font=layout.font, anchor="rm", align="right"
        )


def _draw_cell(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    layout: _SheetLayout,
    position: tuple[int, int],
    cell: Image.Image | None,
    scale: int,
) -> None:
    if cell is None:
        right, bottom = position[0] + layout.width - 1, position[1] + layout.height - 1
        draw.rectangle((*position, right, bottom), fill="#f3f3f6", outline=LINE_COLOUR)
        return
    size = (cell.width * scale, cell.height * scale)
    shown = cell.convert("RGB")
    picture.paste(shown if scale == 1 else shown.resize(size, Image.Resampling.NEAREST), position)


def _draw_bars(draw: ImageDraw.ImageDraw, layout: _SheetLayout, position: tuple[int, int], bars: Sequence[Bar]) -> None:
    """Draws one line for each bar: a track, the bar on it, and the number at the right end."""
    if not bars:
        return
    font = load_font(layout.bar)
    numbers = max(text_width(bar.text, font) for bar in bars)
    track = layout.width - numbers - 4
    if track < layout.width // 3:
        track, numbers = layout.width, 0
    for line, bar in enumerate(bars):
        x, y = position[0], position[1] + layout.height + 2 + line * (layout.bar + 2)
        draw.rectangle((x, y + 1, x + track - 1, y + layout.bar - 1), fill="#ececf1")
        length = round(min(max(bar.share, 0.0), 1.0) * track)
        if length:
            draw.rectangle((x, y + 1, x + length - 1, y + layout.bar - 1), fill=bar.colour)
        if numbers:
            middle = y + layout.bar / 2
            draw.text((position[0] + layout.width - 1, middle), bar.text, fill=INK_COLOUR, font=font, anchor="rm")


def _draw_caption(
    draw: ImageDraw.ImageDraw, layout: _SheetLayout, position: tuple[int, int], cell: tuple[int, int], bars: int
) -> None:
    """Draws the cell's caption below its bars."""
    if cell in layout.captions:
        y = position[1] + layout.height + 2 + bars * (layout.bar + 2)
        draw.multiline_text((position[0], y), layout.captions[cell], fill=MUTED_COLOUR, font=layout.small)


def _draw_frame(draw: ImageDraw.ImageDraw, layout: _SheetLayout, position: tuple[int, int]) -> None:
    wide = max(2, layout.gap // 2)
    box = (
        position[0] - wide,
        position[1] - wide,
        position[0] + layout.width + wide - 1,
        position[1] + layout.height + layout.bars + wide - 1,
    )
    draw.rectangle(box, outline=MARK_COLOUR, width=wide)


def _draw_foot(draw: ImageDraw.ImageDraw, layout: _SheetLayout) -> None:
    y = layout.size[1] - layout.bottom + layout.gap
    if layout.note:
        draw.multiline_text((layout.gap, y), layout.note, fill=MUTED_COLOUR, font=layout.font)
        y += layout._stack(layout.note, layout.font)
    chip = round(layout.text * 0.8)
    for line in layout.legend:
        for x, colour, meaning in line:
            draw.rectangle((layout.gap + x, y + 1, layout.gap + x + chip, y + 1 + chip), fill=colour)
            draw.text((layout.gap + x + chip + layout.text // 2, y), meaning, fill=MUTED_COLOUR, font=layout.small)
        y += layout.row

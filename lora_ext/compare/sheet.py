"""A labelled sheet: pictures in rows and columns, with heads and a title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

INK, SOFT, PAPER = "#1b1b1f", "#6b6b76", "#ffffff"


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows. cells: row by row, one picture per column; scores: a text under each picture, or none."""

    title: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Sequence[Sequence[Image.Image]]
    note: str = ""
    scale: int = 1
    """How often each pixel is repeated, for small pictures."""


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)  # Pillow ≥ 10.1
    except TypeError:
        return ImageFont.load_default()


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font=font) > width:
            lines.append(line)
            longer = word
        line = longer
    return "\n".join([*lines, line])


def render(sheet: Sheet, *, text: int = 15, gap: int = 6) -> Image.Image:
    """The sheet as an RGB picture. `text`: letter height in pixels; `gap`: space between cells."""
    font, bold = _font(text), _font(int(text * 1.35))
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(c.width for row in sheet.cells for c in row) * sheet.scale
    height = max(c.height for row in sheet.cells for c in row) * sheet.scale
    left = min(max((int(probe.textlength(row, font=font)) for row in sheet.rows), default=0), width * 2) + 2 * gap
    heads = [_wrap(probe, head, font, width) for head in sheet.columns]
    head = max(int(probe.multiline_textbbox((0, 0), text, font=font)[3]) for text in heads) + 2 * gap
    total = max(left + len(sheet.columns) * (width + gap) + gap, 360)
    title = _wrap(probe, sheet.title, bold, total - 2 * gap)
    note = _wrap(probe, sheet.note, font, total - 2 * gap) if sheet.note else ""
    top = int(probe.multiline_textbbox((0, 0), title, font=bold)[3]) + 3 * gap
    bottom = int(probe.multiline_textbbox((0, 0), note, font=font)[3]) + 3 * gap if note else gap
    picture = Image.new("RGB", (total, top + head + len(sheet.rows) * (height + gap) + bottom), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((gap, gap), title, fill=INK, font=bold)
    for column, text_ in enumerate(heads):
        x = left + column * (width + gap) + width // 2
        draw.multiline_text((x, top + head - gap), text_, fill=INK, font=font, anchor="md", align="center")
    for row, (name, cells) in enumerate(zip(sheet.rows, sheet.cells, strict=True)):
        y = top + head + row * (height + gap)
        label = _wrap(draw, name, font, left - 2 * gap)
        draw.multiline_text((left - gap, y + height // 2), label, fill=INK, font=font, anchor="rm", align="right")
        for column, cell in enumerate(cells):
            size = (cell.width * sheet.scale, cell.height * sheet.scale)
            picture.paste(
                cell.convert("RGB").resize(size, Image.Resampling.NEAREST), (left + column * (width + gap), y)
            )
    if note:
        draw.multiline_text((gap, picture.height - bottom + gap), note, fill=SOFT, font=font)
    return picture

"""The heat map of a conflict report: a row for each pair of files, a column for each block."""

from __future__ import annotations

from PIL import Image, ImageDraw

from ..blocks import BLOCK_LABELS
from ..tools.conflicts import BlockConflict, ConflictReport
from .heatmap import PAD, heat_colour
from .text_layout import INK_COLOUR, LINE_COLOUR, MUTED_COLOUR, PAPER_COLOUR, load_font, text_height, wrap_text

_CELL_WIDTH, _CELL_HEIGHT, _NAME_WIDTH = 54, 44, 260
_EXPLANATION = (
    "Share of a file's change that lies in the directions of the other, beyond what unrelated files share. "
    "+ the changes add up, - they cancel."
)


def draw_conflict_heatmap(report: ConflictReport) -> Image.Image:
    """Draws the interference of each pair of files in each block, with the sign of its cosine.

    Args:
        report: the comparison.

    Returns:
        An RGB picture.
    """
    found = {row.block for pair in report.pairs for row in pair.blocks if row.layers}
    labels = [label for label in (*BLOCK_LABELS, "") if label in found]
    width = max(2 * PAD + _NAME_WIDTH + (len(labels) + 1) * _CELL_WIDTH, 640)
    small, name_font = load_font(14), load_font(15)
    about = wrap_text(_EXPLANATION, small, width - 2 * PAD)
    top = PAD + text_height(about, small) + PAD
    picture = Image.new("RGB", (width, top + (len(report.pairs) + 1) * _CELL_HEIGHT + PAD), PAPER_COLOUR)
    pen = ImageDraw.Draw(picture)
    pen.multiline_text((PAD, PAD), about, fill=MUTED_COLOUR, font=small)
    for column, label in enumerate(["all", *labels]):
        x = PAD + _NAME_WIDTH + column * _CELL_WIDTH + _CELL_WIDTH // 2
        pen.text((x, top + _CELL_HEIGHT // 2), label or "other", fill=MUTED_COLOUR, font=small, anchor="mm")
    for line, pair in enumerate(report.pairs, 1):
        y = top + line * _CELL_HEIGHT
        names = wrap_text(f"{pair.first} + {pair.second}", name_font, _NAME_WIDTH - 12, lines=2)
        pen.multiline_text((PAD, y + 4), names, fill=INK_COLOUR, font=name_font)
        rows = {row.block: row for row in pair.blocks}
        for column, row in enumerate([pair.total, *(rows.get(label) for label in labels)]):
            _draw_cell(pen, PAD + _NAME_WIDTH + column * _CELL_WIDTH, y, row)
    return picture


def _draw_cell(pen: ImageDraw.ImageDraw, x: int, y: int, row: BlockConflict | None) -> None:
    box = (x, y, x + _CELL_WIDTH - 2, y + _CELL_HEIGHT - 2)
    if row is None or not row.layers:
        pen.rectangle(box, fill=(246, 246, 248), outline=LINE_COLOUR)
        return
    pen.rectangle(box, fill=heat_colour(row.interference), outline=LINE_COLOUR)
    ink = "#ffffff" if row.interference > 0.7 else INK_COLOUR
    centre = x + _CELL_WIDTH // 2
    pen.text((centre, y + 14), f"{row.interference:.0%}", fill=ink, font=load_font(15), anchor="mm")
    pen.text((centre, y + 31), f"{row.cosine:+.2f}", fill=ink, font=load_font(12), anchor="mm")

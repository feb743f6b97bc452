"""The heat map of a block analysis: the U-Net drawn as a funnel, each block coloured by how much it does."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from ..blocks import BASE, MID, SD_BLOCKS, SDXL_BLOCKS
from ..file.saving import replacing_file
from .block_analysis import ANALYSIS_METHODS, BlockAnalysis, block_rows
from .text_layout import INK_COLOUR, LINE_COLOUR, MUTED_COLOUR, PAPER_COLOUR, load_font, text_height, wrap_text

COLD, WARM, HOT = (255, 251, 235), (255, 169, 77), (201, 42, 42)
PAD, BOX_WIDTH, INDENT, HEATMAP_WIDTH = 18, 190, 16, 1040


def heat_colour(heat: float) -> tuple[int, int, int]:
    """The RGB colour of a value 0 to 1: pale at 0, orange at 0.5, red at 1."""
    low, high, part = (COLD, WARM, heat * 2) if heat < 0.5 else (WARM, HOT, heat * 2 - 1)
    r, g, b = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return r, g, b


def save_heatmap(analysis: BlockAnalysis, share: float, folder: Path) -> Path:
    """Writes `blocks.png` and `blocks.csv` into a folder.

    Args:
        analysis: what to draw.
        share: how much the blocks to keep do together, 0 to 1.
        folder: where to write.

    Returns:
        The picture's path.

    Raises:
        FileError: a file cannot be written.
    """
    path = folder / "blocks.png"
    with replacing_file(path, overwrite=True) as part:
        draw_heatmap(analysis, share).save(part, format="PNG")
    with (
        replacing_file(folder / "blocks.csv", overwrite=True) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["block", "amount", "share"])
        rows.writerows((label, f"{amount:.6g}", f"{part_:.4f}") for label, amount, part_ in block_rows(analysis))
    return path.resolve()


@dataclass(frozen=True)
class _BoxPosition:
    """The position of a block's box in pixels, and the side of its picture (-1 left, 1 right, 0 none)."""

    x: int
    y: int
    side: int


def draw_heatmap(analysis: BlockAnalysis, share: float = 0.8) -> Image.Image:
    """Draws the heat map as an RGB picture.

    Input blocks go down the left side, the middle block is at the bottom, output blocks go up the right side, and the
    text encoder is on top. Each block has its percentage and, where there is one, its picture. Blocks to keep are
    framed.
    """
    thumb = 84 if analysis.images else 0
    row = max(thumb + 8, 40)
    title, small = load_font(24, analysis.lora), load_font(14)
    head = wrap_text(f"What the blocks of {analysis.lora} do", title, HEATMAP_WIDTH - 2 * PAD)
    about = wrap_text(f"{ANALYSIS_METHODS[analysis.method]}. {analysis.summary(share)}", small, HEATMAP_WIDTH - 2 * PAD)
    top = PAD + text_height(head, title) + 8 + text_height(about, small) + PAD
    positions = _box_positions(analysis, top, row)
    bottom = max(position.y for position in positions.values()) + row + PAD
    picture = Image.new("RGB", (HEATMAP_WIDTH, bottom), PAPER_COLOUR)
    pen = ImageDraw.Draw(picture)
    pen.multiline_text((PAD, PAD), head, fill=INK_COLOUR, font=title)
    pen.multiline_text((PAD, PAD + text_height(head, title) + 8), about, fill=MUTED_COLOUR, font=small)
    kept, shares = analysis.blocks_to_keep(share), analysis.shares
    most = max(shares.values(), default=0.0) or 1.0
    for label, position in positions.items():
        heat = shares.get(label)
        _box(pen, position, row - 8, label, heat, (heat or 0.0) / most, label in kept)
        if thumb and label in analysis.images:
            _thumb(picture, position, analysis.images[label], thumb)
    if thumb and "" in analysis.images:
        _reference(picture, pen, analysis, top, thumb)
    return picture


def _box_positions(analysis: BlockAnalysis, top: int, row: int) -> dict[str, _BoxPosition]:
    """Block label → position of its box, also for blocks of the U-Net that the layout does not have."""
    blocks = SDXL_BLOCKS.blocks if len(analysis.layout.labels) in (12, 20) else SD_BLOCKS.blocks
    depth = len(blocks) // 2
    middle = HEATMAP_WIDTH // 2
    # pictures stand outside the boxes, so that inputs and outputs face each other
    left, right = PAD + 100, HEATMAP_WIDTH - PAD - 100 - BOX_WIDTH
    positions = {BASE: _BoxPosition(middle - BOX_WIDTH // 2, top, 0)} if BASE in analysis.layout.labels else {}
    begin = top + (row if positions else 0)
    for level in range(depth):
        y, shift = begin + level * row, level * INDENT
        positions[blocks[level]] = _BoxPosition(left + shift, y, -1)
        positions[blocks[-1 - level]] = _BoxPosition(right - shift, y, 1)
    positions[MID] = _BoxPosition(middle - BOX_WIDTH // 2, begin + depth * row, 1)
    return positions


def _box(
    pen: ImageDraw.ImageDraw,
    position: _BoxPosition,
    high: int,
    label: str,
    share: float | None,
    heat: float,
    kept: bool,
) -> None:
    box = (position.x, position.y, position.x + BOX_WIDTH, position.y + high)
    fill = (246, 246, 248) if share is None else heat_colour(heat)
    pen.rounded_rectangle(box, 6, fill=fill, outline=INK_COLOUR if kept else LINE_COLOUR, width=3 if kept else 1)
    bright = share is not None and heat > 0.7
    ink = "#ffffff" if bright else (MUTED_COLOUR if share is None else INK_COLOUR)
    name = "text encoder" if label == BASE else label
    middle = position.y + high // 2
    pen.text((position.x + 12, middle), name, fill=ink, font=load_font(16), anchor="lm")
    text = "not in layout" if share is None else f"{share:.0%}" if share == 0 or share >= 0.1 else f"{share:.1%}"
    pen.text(
        (position.x + BOX_WIDTH - 12, middle), text, fill=ink, font=load_font(13 if share is None else 18), anchor="rm"
    )


def _thumb(picture: Image.Image, position: _BoxPosition, image: Image.Image, size: int) -> None:
    shown = _scaled_to(image, size)
    x = position.x - size - 8 if position.side < 0 else position.x + BOX_WIDTH + 8
    picture.paste(shown, (x, position.y + (size - shown.height) // 2))


def _scaled_to(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), resampling)


def _reference(picture: Image.Image, pen: ImageDraw.ImageDraw, analysis: BlockAnalysis, top: int, thumb: int) -> None:
    """Draws the picture that all are compared with, in the empty middle of the funnel."""
    shown = _scaled_to(analysis.images[""], round(thumb * 1.8))
    x, y = HEATMAP_WIDTH // 2 - shown.width // 2, top + 2 * thumb
    picture.paste(shown, (x, y))
    text = "all blocks on" if analysis.method == "lowered" else "all blocks off"
    pen.text((HEATMAP_WIDTH // 2, y + shown.height + 6), text, fill=MUTED_COLOUR, font=load_font(14), anchor="mt")

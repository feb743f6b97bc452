"""The heat map of a block analysis: the U-Net as a funnel, its blocks coloured by what they do."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from ..blocks import BASE, MID, SD, SDXL
from ..file.saving import replacing
from .block_analysis import WAYS, Analysis, rows_of
from .text_layout import INK, LINE, PAPER, SOFT, font, height_of, wrap

COLD, WARM, HOT = (255, 251, 235), (255, 169, 77), (201, 42, 42)
PAD, BOX, INDENT, WIDE = 18, 190, 16, 1040


def colour(heat: float) -> tuple[int, int, int]:
    """Pale at 0, orange at a half, red at 1."""
    low, high, part = (COLD, WARM, heat * 2) if heat < 0.5 else (WARM, HOT, heat * 2 - 1)
    r, g, b = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return r, g, b


def write(analysis: Analysis, share: float, folder: Path) -> Path:
    """`blocks.png` and `blocks.csv` in `folder`; the picture's path. Raises FileError."""
    path = folder / "blocks.png"
    with replacing(path, overwrite=True) as part:
        render(analysis, share).save(part, format="PNG")
    with replacing(folder / "blocks.csv", overwrite=True) as part, part.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["block", "amount", "share"])
        rows.writerows((label, f"{amount:.6g}", f"{part_:.4f}") for label, amount, part_ in rows_of(analysis))
    return path.resolve()


@dataclass(frozen=True)
class _Place:
    """A block's box, and at which side of it its picture stands (−1 left, 1 right, 0 none)."""

    x: int
    y: int
    side: int


def render(analysis: Analysis, share: float = 0.8) -> Image.Image:
    """The map as an RGB picture: inputs down the left, the middle below, outputs up the right, the text encoder on
    top; each block with its percent and, where there are, its picture. Blocks to keep are framed."""
    thumb = 84 if analysis.pictures else 0
    row = max(thumb + 8, 40)
    title, small = font(24, analysis.lora), font(14)
    head = wrap(f"What the blocks of {analysis.lora} do", title, WIDE - 2 * PAD)
    about = wrap(f"{WAYS[analysis.way]}. {analysis.sentence(share)}", small, WIDE - 2 * PAD)
    top = PAD + height_of(head, title) + 8 + height_of(about, small) + PAD
    places = _places(analysis, top, row)
    bottom = max(place.y for place in places.values()) + row + PAD
    picture = Image.new("RGB", (WIDE, bottom), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.multiline_text((PAD, PAD), head, fill=INK, font=title)
    pen.multiline_text((PAD, PAD + height_of(head, title) + 8), about, fill=SOFT, font=small)
    kept, shares = analysis.keep(share), analysis.shares
    most = max(shares.values(), default=0.0) or 1.0
    for label, place in places.items():
        heat = shares.get(label)
        _box(pen, place, row - 8, label, heat, (heat or 0.0) / most, label in kept)
        if thumb and label in analysis.pictures:
            _thumb(picture, place, analysis.pictures[label], thumb)
    if thumb and "" in analysis.pictures:
        _reference(picture, pen, analysis, top, thumb)
    return picture


def _places(analysis: Analysis, top: int, row: int) -> dict[str, _Place]:
    """Label → where its box is. Blocks of the U-Net that the layout lacks are there too, without colour."""
    blocks = SDXL.blocks if len(analysis.layout.labels) in (12, 20) else SD.blocks
    depth = len(blocks) // 2
    middle = WIDE // 2
    # pictures stand outside the boxes, so that inputs and outputs face each other
    left, right = PAD + 100, WIDE - PAD - 100 - BOX
    places = {BASE: _Place(middle - BOX // 2, top, 0)} if BASE in analysis.layout.labels else {}
    begin = top + (row if places else 0)
    for level in range(depth):
        y, shift = begin + level * row, level * INDENT
        places[blocks[level]] = _Place(left + shift, y, -1)
        places[blocks[-1 - level]] = _Place(right - shift, y, 1)
    places[MID] = _Place(middle - BOX // 2, begin + depth * row, 1)
    return places


def _box(
    pen: ImageDraw.ImageDraw, place: _Place, high: int, label: str, share: float | None, heat: float, kept: bool
) -> None:
    box = (place.x, place.y, place.x + BOX, place.y + high)
    fill = (246, 246, 248) if share is None else colour(heat)
    pen.rounded_rectangle(box, 6, fill=fill, outline=INK if kept else LINE, width=3 if kept else 1)
    bright = share is not None and heat > 0.7
    ink = "#ffffff" if bright else (SOFT if share is None else INK)
    name = "text encoder" if label == BASE else label
    middle = place.y + high // 2
    pen.text((place.x + 12, middle), name, fill=ink, font=font(16), anchor="lm")
    text = "not in layout" if share is None else f"{share:.0%}" if share == 0 or share >= 0.1 else f"{share:.1%}"
    pen.text((place.x + BOX - 12, middle), text, fill=ink, font=font(13 if share is None else 18), anchor="rm")


def _thumb(picture: Image.Image, place: _Place, image: Image.Image, size: int) -> None:
    shown = _small(image, size)
    x = place.x - size - 8 if place.side < 0 else place.x + BOX + 8
    picture.paste(shown, (x, place.y + (size - shown.height) // 2))


def _small(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    way = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), way)


def _reference(picture: Image.Image, pen: ImageDraw.ImageDraw, analysis: Analysis, top: int, thumb: int) -> None:
    """The picture that all are measured from, in the empty middle of the funnel."""
    shown = _small(analysis.pictures[""], round(thumb * 1.8))
    x, y = WIDE // 2 - shown.width // 2, top + 2 * thumb
    picture.paste(shown, (x, y))
    text = "all blocks on" if analysis.way == "lowered" else "all blocks off"
    pen.text((WIDE // 2, y + shown.height + 6), text, fill=SOFT, font=font(14), anchor="mt")

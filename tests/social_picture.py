"""Makes docs/social.png again, the picture that other sites show beside a link: `python tests/social_picture.py`.

1280 × 640 pixels: the name, what it is, and cells of docs/demo.png.
"""

from __future__ import annotations

from pathlib import Path

from kept_pictures import keep_png
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).parent.parent / "docs"
SIZE, MARGIN = (1280, 640), 70
GROUND, TEXT, QUIET = "#0f172a", "#f8fafc", "#94a3b8"
COLOURS = 128
FIRST, CELL, STEP = (147, 73), 128, 134
"""Of docs/demo.png: the first cell's corner, a cell's side, and the distance of two cells."""
COLUMNS, SHOWN = (0, 3, 5), 168
LINES = ("LoRA files for Stable Diffusion:", "by block, step and region,", "trained, merged, compared")


def cells() -> Image.Image:
    """No LoRA, weight 1 and the output blocks alone, for three prompts."""
    sheet, gap = Image.open(DOCS / "demo.png").convert("RGB"), 12
    made = Image.new("RGB", (3 * SHOWN + 2 * gap,) * 2, GROUND)
    for x, column in enumerate(COLUMNS):
        for y in range(3):
            left, top = FIRST[0] + STEP * column, FIRST[1] + STEP * y
            cell = sheet.crop((left, top, left + CELL, top + CELL)).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
            made.paste(cell, (x * (SHOWN + gap), y * (SHOWN + gap)))
    return made


def main() -> None:
    picture = Image.new("RGB", SIZE, GROUND)
    shown = cells()
    picture.paste(shown, (SIZE[0] - MARGIN - shown.width, (SIZE[1] - shown.height) // 2))
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 180), "lora-ext", TEXT, ImageFont.load_default(104))
    for number, line in enumerate(LINES):
        draw.text((MARGIN, 330 + 52 * number), line, QUIET, ImageFont.load_default(38))
    keep_png(picture, DOCS / "social.png", COLOURS)


if __name__ == "__main__":
    main()

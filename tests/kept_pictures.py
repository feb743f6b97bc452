"""Pictures of the documentation: a picture that shows what the kept one shows stays as it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat
from ui.program import ROOT

ALIKE = 1.0
"""Of 255, the mean of a tile of 32 × 32 pixels: what the compression makes."""
_STEADY = """root => {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const now = texts.currentNode;
        const then = now.data.replace(/\\b\\d+(\\.\\d+)? (?=(s|秒|min|分钟)(?!\\w))/g, "3 ");
        if (then !== now.data) now.data = then;
    }
}"""


def steady(page: Any) -> None:
    """Replaces the durations on the page, which differ from run to run, by one."""
    page.locator("#lora-ext").evaluate(_STEADY)


def is_alike(one: Image.Image, other: Image.Image) -> bool:
    """Whether no tile of two pictures differs by more than the compression makes."""
    if one.size != other.size:
        return False
    apart = ImageChops.difference(one, other)
    tiles = ((x, y, x + 32, y + 32) for x in range(0, one.width, 32) for y in range(0, one.height, 32))
    return all(max(ImageStat.Stat(apart.crop(tile)).mean) <= ALIKE for tile in tiles)


def keep(image: Image.Image, path: Path, **options: Any) -> bool:
    """Writes a picture where it differs from the kept one, and returns whether. options: Pillow's, for the format."""
    packed = io.BytesIO()
    image.save(packed, path.suffix[1:], **options)
    if path.exists() and is_alike(*(Image.open(one).convert("RGB") for one in (packed, path))):
        print(f"{path.relative_to(ROOT)}: as before", flush=True)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.getvalue())
    print(f"{path.relative_to(ROOT)}: {image.width}x{image.height}, {path.stat().st_size // 1024} KB", flush=True)
    return True


def keep_png(image: Image.Image, path: Path, colours: int) -> None:
    """The same for a PNG with few colours."""
    keep(image.convert("RGB").quantize(colours, dither=Image.Dither.NONE), path, optimize=True)

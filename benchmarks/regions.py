"""Regions on the embedded model: the LoRA `framed` on the left, `striped` on the right. Where does each of them show?

    python benchmarks/regions.py [--prompts 24] [--from-prompt 0] [--seed 1] [--weights 1 1.5] [--steps 12]
                                 [--sizes 64 96] [--sheet docs/regions.png]

A simple check looks at each half of each picture. The frame: most pixels of the rim are not of the ground's colour and
light, or dark where the training pictures' frame is not white. Stripes: what is off the ground's colour has diagonal
bands, 16 pixels apart, of two different colours; the threshold was chosen on other prompts, where their difference was
below 40 without stripes and above 80 with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures import print_table
from PIL import Image, ImageDraw

from lora_ext.embedded import shapes
from lora_ext.generate import GenerationReport, Settings, generate, load_settings_model
from lora_ext.host.standalone.loader import StandaloneModel

WAYS = {  # what is compared -> the tags, with places for the two weights
    "no LoRA": "",
    "plain tags": "<lora:framed:{}><lora:striped:{}>",
    "separate prediction": "<lora:framed:{}:at=left><lora:striped:{}:at=right>",
    "output masks": "<lora:framed:{}:at=left:way=output><lora:striped:{}:at=right:way=output>",
}
SEEDS = 2
EDGE = 4
"""Pixels on both sides of the middle that belong to neither half."""
PERIOD = 16
"""Distance of stripes in the training pictures, in pixels along each axis."""
CONTRAST = 70
"""Difference of the bands' mean colours (RGB, 0 to 255 each) above which they are stripes."""


def effects(image: Image.Image, text: str) -> dict[str, bool]:
    """Looks for both effects in both halves: "frame left", "frame right", "stripes left", "stripes right"."""
    scene = shapes.parse_scene_caption(text)
    pixels = np.asarray(image.convert("RGB"), np.float32)
    names = shapes._nearest(pixels)
    ground = list(shapes.SHAPE_COLOURS).index(scene.ground)
    light = pixels.mean(-1)
    off_ground = np.linalg.norm(pixels - np.array(shapes.SHAPE_COLOURS[scene.ground]), axis=-1) > 100
    is_band = off_ground & (light > 165)
    if shapes.accent(scene) != "white":  # elsewhere a dark rim is a ground that became darker
        is_band |= off_ground & (light < 75)
    height, width = names.shape
    y, x = np.mgrid[:height, :width]
    from_rim = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    found = {}
    for half, part in (("left", x < width // 2 - EDGE), ("right", x >= width // 2 + EDGE)):
        rim = part & (from_rim < shapes.FRAME - 1)
        found[f"frame {half}"] = bool(is_band[rim].mean() > 0.5)
        inside = part & (from_rim > shapes.FRAME + 1) & (names != ground)
        found[f"stripes {half}"] = band_contrast(pixels, inside, x + y) > CONTRAST
    return found


def band_contrast(pixels: np.ndarray, inside: np.ndarray, diagonal: np.ndarray) -> float:
    """The largest difference, over all phases, of the mean colours of every other diagonal band within `inside`."""
    contrasts = [0.0]
    for phase in range(PERIOD):
        band = inside & ((diagonal + phase) % PERIOD < PERIOD // 2)
        between = inside & ~band
        if min(band.sum(), between.sum()) > 0.01 * inside.size:
            contrasts.append(float(np.linalg.norm(pixels[band].mean(0) - pixels[between].mean(0))))
    return max(contrasts)


def measure(
    model: StandaloneModel, tags: str, prompts: Sequence[str], size: int, steps: int, seed: int
) -> tuple[dict[str, float], list[Image.Image]]:
    """The share of pictures in which each effect shows in each half, and the pictures, one prompt after the other."""
    counts: dict[str, int] = {}
    shown: list[Image.Image] = []
    for text in prompts:
        settings = Settings(
            prompt=text + tags, seed=seed, batch=SEEDS, steps=steps, width=size, height=size, mode="live", cfg=3.0
        )
        images = generate(settings, model=model, report=GenerationReport())
        shown += images
        for image in images:
            for name, is_there in effects(image, text).items():
                counts[name] = counts.get(name, 0) + is_there
    return {name: count / (SEEDS * len(prompts)) for name, count in counts.items()}, shown


def draw_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 64) -> Image.Image:
    """All pictures: below the name of each way a column for each prompt, a row for each seed."""
    gap, label = 3, 16
    columns, block = max(len(images) for _, images in rows) // SEEDS, label + SEEDS * (side + gap)
    sheet = Image.new("RGB", (columns * (side + gap) - gap, len(rows) * block - gap), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(rows):
        draw.text((2, row * block + 2), name, fill="black")
        for number, image in enumerate(images):
            column, seed = divmod(number, SEEDS)
            place = (column * (side + gap), row * block + label + seed * (side + gap))
            sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), place)
    return sheet.quantize(64, kmeans=1)


def main() -> int:
    """Prints a table for each size; writes the sheet of all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--from-prompt", type=int, default=0, help="the first of the scenes' prompts that is used")
    parser.add_argument("--seed", type=int, default=1, help=f"the first of {SEEDS} seeds of each prompt")
    parser.add_argument("--weights", type=float, nargs=2, default=[1.0, 1.5], metavar=("FRAMED", "STRIPED"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    model = load_settings_model(Settings())
    prompts = shapes.SCENE_PROMPTS[args.from_prompt :][: args.prompts]
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    for size in args.sizes:
        found = []
        for way in args.ways:
            shares, images = measure(model, WAYS[way].format(*args.weights), prompts, size, args.steps, args.seed)
            found.append((way, *(f"{share:.0%}" for share in shares.values())))
            rows.append((f"{way}, {size}", images))
        title = f"The built-in model, {size}x{size}, {len(prompts)} prompts x {SEEDS} seeds, {args.steps} steps"
        print_table(("way", *shares), found, title)
    if args.sheet:
        draw_sheet(rows).save(args.sheet, optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m lora_ext demo`: one labelled sheet that shows what a LoRA, its weight and its blocks do.

Everything comes along: the small model, a LoRA for it, and a check of whether its pictures obey their captions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL.Image import Image
from tqdm import tqdm

from .compare.sheet import Sheet, render
from .embedded import shapes
from .errors import FileError
from .file.library import Library
from .generate import Settings, embedded, generate, open_model

WEIGHTS = (0.0, 0.4, 0.8, 1.0)
BLOCKS = ("INALL", "OUTALL")
SCENES = ("a red circle on a blue background", "a yellow square on a purple background", "a green triangle on white")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the sheet, prints where it is and what it shows; returns 0."""
    parser = argparse.ArgumentParser(prog="lora-ext demo", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("lora-ext-demo"), help="folder for the sheet")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")
    args = parser.parse_args(argv)
    start = time.monotonic()
    own = embedded()
    if own is None:
        raise FileError("the small model that belongs to the demo is missing from this installation")
    base = Settings(sampler="DPM++ 2M", steps=args.steps, cfg=2.5, seed=7)
    model, library = open_model(base), Library([own.LORA_DIR])
    name = library.names()[0]
    tags = ["", *(f"<lora:{name}:{weight:g}>" for weight in WEIGHTS[1:]), *(f"<lora:{name}:1:lbw={b}>" for b in BLOCKS)]
    heads = ["no LoRA", *(f"weight {weight:g}" for weight in WEIGHTS[1:]), *(f"weight 1, {block}" for block in BLOCKS)]
    prompts = shapes.PROMPTS
    with tqdm(total=len(SCENES) * len(tags) + len(prompts), desc="drawing", disable=args.json) as bar:

        def draw(prompt: str) -> list[Image]:
            bar.update()
            return generate(replace(base, prompt=prompt), model=model, library=library)

        cells = [[draw(f"{scene} {tag}")[0] for tag in tags] for scene in SCENES]
        obeyed = shapes.score([draw(prompt)[0] for prompt in prompts], prompts)
    sheet = render(
        Sheet(
            title=f"<lora:{name}> at rising weights, and in the input or output blocks only",
            columns=heads,
            rows=SCENES,
            cells=cells,
            note=f"Same seed in each row. Without a LoRA the model obeys {obeyed:.0%} of {len(prompts)} captions.",
            scale=2,
        )
    )
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "demo.png"
    sheet.save(path)
    result = {
        "sheet": str(path.resolve()),
        "seconds": round(time.monotonic() - start, 1),
        "captions_obeyed": round(obeyed, 3),
        "captions": len(prompts),
        "lora": name,
        "columns": heads,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(f"\n{result['sheet']}\n{len(SCENES)} pictures, each {', '.join(heads)}, always from the same seed.")
        print(f"{obeyed:.0%} of {len(prompts)} captions obeyed without a LoRA; {result['seconds']} s in all.")
    return 0

"""How much of what is asked for does the embedded model draw? Every shape in every pair of colours, by its checker.

    python benchmarks/obeyed.py [--prompts 336] [--seed 0] [--threads 1] [--out DIR]

The pictures are sampled as the model's own sheets are (20 DDIM steps, guidance 5); the table has a row for each shape,
colour and ground that is asked for. `--out` keeps a sheet of all pictures and one of those that did not obey.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from figures import print_table
from transformers import CLIPTokenizer

from lora_ext.embedded import TOKENIZER, shapes
from lora_ext.embedded.sampling import EmbeddedNetworks, sample_images
from lora_ext.generate import load_settings_model
from lora_ext.training.toy_task import TOY_SETTINGS

BATCH = 40


def load_networks() -> EmbeddedNetworks:
    """The shipped model's networks."""
    model = load_settings_model(TOY_SETTINGS)
    tokenizer = CLIPTokenizer.from_pretrained(str(TOKENIZER))
    return EmbeddedNetworks(tokenizer, model.text_encoders[0].module, model.unet, model.vae)


def drawn_scenes(count: int, seed: int) -> list[shapes.Scene]:
    """So many scenes of every shape in every pair of colours, in an order drawn from `seed`."""
    scenes = [
        shapes.Scene(shape, colour, ground)
        for shape in shapes.SHAPES
        for colour in shapes.SHAPE_COLOURS
        for ground in shapes.SHAPE_COLOURS
        if colour != ground
    ]
    return [scenes[i] for i in np.random.default_rng(seed).permutation(len(scenes))[:count]]


def shares(scenes: Sequence[shapes.Scene], obeyed: np.ndarray) -> Iterator[tuple[str, str]]:
    """A row for all scenes, and for each shape, colour and ground among them; obeyed: (scenes,), whether each is."""
    yield "all", f"{obeyed.mean():.1%} of {len(obeyed)}"
    for kind, names in (("shape", shapes.SHAPES), ("colour", shapes.SHAPE_COLOURS), ("ground", shapes.SHAPE_COLOURS)):
        for name in names:
            of = obeyed[[getattr(scene, kind) == name for scene in scenes]]
            if len(of):
                yield f"{kind} {name}", f"{of.mean():.1%} of {len(of)}"


def main() -> None:
    """Sample, judge, print."""
    parser = argparse.ArgumentParser(prog="python benchmarks/obeyed.py", description=__doc__)
    parser.add_argument("--prompts", type=int, default=336)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    nets, scenes = load_networks(), drawn_scenes(options.prompts, options.seed)
    prompts = [shapes.caption(scene) for scene in scenes]
    images = [
        image
        for start in range(0, len(prompts), BATCH)
        for image in sample_images(nets, prompts[start : start + BATCH], options.seed + start)
    ]
    obeyed = np.array([shapes.obeys(image, text) for image, text in zip(images, prompts, strict=True)])
    print_table(("prompts with", "obeyed"), shares(scenes, obeyed), "The built-in model, 64x64, 20 steps")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        shapes.image_grid(images, 20).save(options.out / "all.png")
        missed = [image for image, ok in zip(images, obeyed, strict=True) if not ok]
        if missed:
            shapes.image_grid(missed).save(options.out / "missed.png")


if __name__ == "__main__":
    main()

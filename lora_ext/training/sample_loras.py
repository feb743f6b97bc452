"""Trains the LoRAs that are shipped with the embedded model: `python -m lora_ext.training.sample_loras --out DIR`.

Each adds a style to every image: the data set shows the style, and its captions do not mention it. Each is the mean of
trainings, which draws shapes better than one of them (Wortsman et al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..embedded import shapes
from ..file.lora_library import LoraLibrary
from ..generate import load_settings_model
from ..host.standalone.model import StandaloneModel
from ..tools import metadata, svd_merge
from . import toy_task
from .standalone_run import train
from .train_command import TerminalHost


class SampleTraining(NamedTuple):
    """One training of a style.

    Attributes:
        steps: Its steps.
        images: How many images it has.
        skipped: How many scenes of the seed are left out before them.
        fixed: What is fixed in the scenes, which take turns.
        least_radius: Pixels; smaller shapes are drawn so large.
        seed: Its seed.
        left_out: Share of its captions that are left empty. Guidance subtracts the prediction without a caption; where
            that has the style too, what is added belongs to shape and colour.
        share: Its share in the mean.
    """

    steps: int
    images: int
    skipped: int = 0
    fixed: tuple[dict[str, str], ...] = ({},)
    least_radius: float = 0
    seed: int = 1
    left_out: float = 0
    share: float = 0.5


SAMPLE_LORAS: dict[str, dict[str, Any]] = {
    "framed": {
        "network_module": "lierla", "network_dim": 8, "network_alpha": 8, "conv_dim": None, "conv_alpha": None,
    },
    "striped": {
        "network_module": "c3lier", "network_dim": 4, "network_alpha": 4, "conv_dim": 4, "conv_alpha": 4,
    },
}  # fmt: skip
"""Name → settings of its own."""
# stripes fail first on what is thin and on what is light
_HARD_FOR_STRIPES: tuple[dict[str, str], ...] = (
    {}, {}, {}, {"shape": "ring"}, {"shape": "cross"}, {"colour": "yellow"}, {"colour": "cyan"},
)  # fmt: skip
# small shapes and those on white blur first within a frame
_HARD_FOR_FRAMES: tuple[dict[str, str], ...] = ({}, {"size": "small"}, {}, {"ground": "white"})
TRAININGS = {
    # without captions left out a shape's corners dissolve, with them the ground gets spots: the mean has neither
    "framed": (
        SampleTraining(2260, 1800, 20, _HARD_FOR_FRAMES, share=0.25),
        SampleTraining(1300, 1500, share=0.25),
        SampleTraining(2260, 1800, 2000, _HARD_FOR_FRAMES, seed=2, left_out=0.15),
    ),
    "striped": (
        SampleTraining(1500, 1750, 20, _HARD_FOR_STRIPES, 18, left_out=0.15),
        SampleTraining(1500, 1750, 2000, _HARD_FOR_STRIPES, 18, seed=2, left_out=0.15),
    ),
}
"""Name → its trainings."""
COMMENTS = {
    "framed": "LierLa: puts a frame around every picture",
    "striped": "C3Lier: draws every shape with diagonal stripes",
}
SEED, SCORED_SEED, SCORED_IMAGE_COUNT = 11, 77, 60
FRAMED_RADIUS, FRAMED_EDGE = 20, 9
"""Pixels: the largest radius within the frame, and what stays free at the picture's edge."""


def with_style(scene: shapes.Scene, style: str, least_radius: float = 0) -> shapes.Scene:
    """The scene with the style; a shape with a frame is so small and so far from the edge that all of it is seen."""
    radius, edge = max(scene.radius, least_radius), 2
    if style == "framed":
        radius, edge = min(radius, FRAMED_RADIUS), FRAMED_EDGE
    half = shapes.SCENE_PIXELS / 2
    room = half - edge - radius
    x, y = (float(np.clip(at, half - room, half + room)) for at in (scene.x, scene.y))
    return replace(scene, radius=radius, x=x, y=y, style=style)


def save_images_of(style: str, training: SampleTraining, folder: Path) -> None:
    """Draws the data set of a training."""
    rng = np.random.default_rng(SEED)
    for _ in range(training.skipped):
        shapes.random_scene(rng)
    scenes = [shapes.random_scene(rng, **training.fixed[i % len(training.fixed)]) for i in range(training.images)]
    styled = [with_style(scene, style, training.least_radius) for scene in scenes]
    toy_task.save_scenes(folder / f"1_{style}", styled, [shapes.caption(scene, rng) for scene in scenes])


def main() -> None:
    """Generates the data sets, trains, and prints which share of new images has the style."""
    parser = argparse.ArgumentParser(prog="python -m lora_ext.training.sample_loras", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the LoRAs and their pictures")
    parser.add_argument("--styles", nargs="+", choices=SAMPLE_LORAS, default=list(SAMPLE_LORAS), help="which of them")
    options = parser.parse_args()
    base = toy_task.TOY_SETTINGS
    model = load_settings_model(base)
    host = TerminalHost(True)
    with host.stopping_on_signals():
        for style in options.styles:
            parts = options.out / "parts" / style
            for number, training in enumerate(TRAININGS[style], start=1):
                folder = options.out / "dataset" / f"{style}-{number}"
                save_images_of(style, training, folder)
                settings = {
                    "output_name": part_name(style, number), "save_precision": "fp16", "train_batch_size": 16,
                    "learning_rate": 3e-3, "network_train_unet_only": True, "v_pred_like_loss": None,
                    "save_every_n_epochs": None, "max_train_epochs": None, "max_train_steps": training.steps,
                    "seed": training.seed, "caption_dropout_rate": training.left_out, **SAMPLE_LORAS[style],
                }  # fmt: skip
                train(toy_task.toy_recipe((folder, None), parts, **settings), model=model, host=host)
            join_parts(style, parts, options.out)
            print_share(style, model, LoraLibrary([options.out]), options.out)
    host.close()


def part_name(style: str, number: int) -> str:
    """The name of a training's file."""
    return f"{style}-{number}"


def join_parts(style: str, parts: Path, out: Path) -> None:
    """Writes the mean of a style's trainings, with the style's comment."""
    target = str(out / f"{style}.safetensors")
    files = [str(parts / f"{part_name(style, i)}.safetensors") for i in range(1, len(TRAININGS[style]) + 1)]
    ratios = [str(training.share) for training in TRAININGS[style]]
    dims = ["--new_rank", str(SAMPLE_LORAS[style]["network_dim"]), "--save_precision", "fp16"]
    svd_merge.main(["--models", *files, "--ratios", *ratios, *dims, "--save_to", target])
    metadata.main([target, "--set", f"ss_training_comment={COMMENTS[style]}", "--overwrite"])


def print_share(style: str, model: StandaloneModel, library: LoraLibrary, out: Path) -> None:
    """Draws new images at two weights, saves them, and prints how many are as wanted."""
    rng = np.random.default_rng(SCORED_SEED)
    prompts = [shapes.caption(shapes.random_scene(rng)) for _ in range(SCORED_IMAGE_COUNT)]
    wanted = [f"{text}, {style}" for text in prompts]  # only the checker gets the style's name
    for weight in (0.4, 1.0):
        made = toy_task.generate_toy_images(model, library, toy_task.TOY_SETTINGS, prompts, f"<lora:{style}:{weight}>")
        shapes.image_grid(made).save(out / f"{style}-{weight}.png")
        print(f"{style} at {weight}: {shapes.share_obeyed(made, wanted):.0%} as wanted")


if __name__ == "__main__":
    main()

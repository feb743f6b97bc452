"""Trains the LoRAs that are shipped with the embedded model: `python -m lora_ext.training.sample_loras --out DIR`.

Each adds a style to every image: the data set shows the style, and its captions do not mention it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..embedded import shapes
from ..file.lora_library import LoraLibrary
from ..generate import load_settings_model
from . import toy_task
from .standalone_run import train
from .train_command import TerminalHost

SAMPLE_LORAS: dict[str, dict[str, Any]] = {
    "framed": {
        "network_module": "lierla", "network_dim": 8, "network_alpha": 8, "conv_dim": None, "conv_alpha": None,
        "max_train_epochs": 26, "training_comment": "LierLa: puts a frame around every picture",
    },
    "striped": {
        "network_module": "c3lier", "network_dim": 4, "network_alpha": 4, "conv_dim": 4, "conv_alpha": 4,
        "max_train_epochs": 20, "training_comment": "C3Lier: draws every shape with diagonal stripes",
    },
}  # fmt: skip
TRAINING_IMAGE_COUNT, SCORED_IMAGE_COUNT = 600, 20
"""Images to train on, and images to score."""


def main() -> None:
    """Generates the data sets, trains, and prints which share of new images has the style."""
    parser = argparse.ArgumentParser(prog="python -m lora_ext.training.sample_loras", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the LoRAs and their pictures")
    options = parser.parse_args()
    base = toy_task.TOY_SETTINGS
    model = load_settings_model(base)
    for style, network in SAMPLE_LORAS.items():
        rng = np.random.default_rng(11)
        scenes = [shapes.random_scene(rng) for _ in range(TRAINING_IMAGE_COUNT + SCORED_IMAGE_COUNT)]
        styled = [replace(scene, style=style) for scene in scenes]
        folder = options.out / "dataset" / style
        toy_task.save_scenes(
            folder / f"1_{style}",
            styled[SCORED_IMAGE_COUNT:],
            [shapes.caption(s, rng) for s in scenes[SCORED_IMAGE_COUNT:]],
        )
        settings = {
            "output_name": style, "save_precision": "fp16", "learning_rate": 1e-3, "text_encoder_lr": 1e-4,
            "train_batch_size": 16, "v_pred_like_loss": None, "save_every_n_epochs": None, **network,
        }  # fmt: skip
        host = TerminalHost(True)
        with host.stopping_on_signals():
            train(toy_task.toy_recipe((folder, None), options.out, **settings), model=model, host=host)
        host.close()
        library, prompts = LoraLibrary([options.out]), [shapes.caption(scene) for scene in scenes[:SCORED_IMAGE_COUNT]]
        # only the checker gets the style's name; the images are generated without it
        wanted = [f"{shapes.caption(scene)}, {style}" for scene in scenes[:SCORED_IMAGE_COUNT]]
        for weight in (0.4, 1.0):
            made = toy_task.generate_toy_images(model, library, base, prompts, f"<lora:{style}:{weight}>")
            shapes.image_grid(made).save(options.out / f"{style}-{weight}.png")
            print(f"{style} at {weight}: {shapes.share_obeyed(made, wanted):.0%} as wanted")


if __name__ == "__main__":
    main()

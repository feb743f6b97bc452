"""A tiny Stable Diffusion model that trains in milliseconds, pictures for it, and a worker process.

`python tests/tiny_trainable_model.py '{"train_data_dir": …}'` trains with those settings, for tests with several
processes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tiny import text_encoder, unet

from lora_ext.errors import LoraError
from lora_ext.host.standalone.model import StandaloneModel
from lora_ext.host.standalone.noise_schedule import NoiseSchedule, scaled_linear_alphas
from lora_ext.host.standalone.prompt_encoding import TextEncoder
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.training.standalone_run import SilentHost, train


class WordTokenizer:
    """One token a letter group; ids below 62."""

    start_id, end_id, comma_id = 62, 63, None

    def encode(self, text: str) -> list[int]:
        return [sum(map(ord, word)) % 61 + 1 for word in text.split()]


def tiny_model() -> StandaloneTrainableModel:
    """The model, always with the same random weights; 64x64 pictures are 8x8 latents."""
    torch.manual_seed(7)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4,
        latent_channels=4,
    ).eval()
    network = unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    )
    text = text_encoder()
    for part in (network, vae, text):
        part.requires_grad_(False)
    levels = NoiseSchedule(scaled_linear_alphas())
    return StandaloneTrainableModel(
        StandaloneModel("SD1", network, vae, (TextEncoder(text),), WordTokenizer(), levels, "epsilon", 0.18215)
    )


def pictures(folder: Path, count: int = 4) -> Path:
    """Noise pictures with captions, in `folder`/2_thing."""
    where = folder / "2_thing"
    where.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(where / f"{number}.png")
        (where / f"{number}.txt").write_text(f"a thing number {number}", encoding="utf-8")
    return folder


def recipe(folder: Path, out: Path, **more: Any) -> Recipe:
    """A short run: 8 pictures twice an epoch, batch 2."""
    settings = {"resolution": "64", "network_dim": 4, "network_alpha": 4, "learning_rate": 1e-2, "seed": 5}
    settings |= {"train_batch_size": 2, "max_train_epochs": 2, "train_data_dir": str(folder), "output_dir": str(out)}
    return recipe_from_settings({**settings, **more})


class RecordingHost(SilentHost):
    """Keeps what it is told. Attribute said: the sentences."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notify(self, text: str) -> None:
        self.said.append(text)


class Slow(SilentHost):
    """Waits after each step, so that a parent can kill it in between."""

    def progress(self, done: int, total: int, text: str) -> None:
        time.sleep(0.4 if text.startswith("epoch") else 0)


def train_as_a_command(made: Recipe, model: Any = None, host: SilentHost | None = None) -> int:
    """Trains as the command `train` does: an error is one printed sentence. Returns the exit status."""
    try:
        train(made, model=model or tiny_model(), host=host)
    except LoraError as error:
        print(f"lora-ext: {error}", flush=True)
        return 2
    return 0


def resuming(folder: Path) -> dict[str, str]:
    """The option that resumes the run of a folder; none where it has no state yet."""
    states = folder.is_dir() and any(path.name.endswith("-state") for path in folder.iterdir())
    return {"resume": str(folder)} if states else {}


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    shell = Slow() if given.pop("slow", False) else SilentHost()
    train(recipe_from_settings(given), model=tiny_model(), host=shell)

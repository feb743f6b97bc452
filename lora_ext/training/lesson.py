"""A lesson for the small model that comes along: a shape that it cannot draw, learned from a few drawn pictures.

What is judged is judged by the pictures' own checker (`embedded.shapes`), before and after, on captions that are not in
the data set; and on captions of known shapes, which the LoRA should leave as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..embedded import shapes
from ..file.library import Library
from ..generate import Settings, generate
from ..host.model import Standalone
from ..ports import Shell
from ..train.outcome import Outcome
from ..train.recipe import Recipe
from ..train.recipe_io import recipe_of
from .start import train

CONCEPT = "star"
PICTURES = 20
PAIRS = (
    ("red", "blue"), ("white", "green"), ("yellow", "purple"), ("cyan", "black"), ("green", "white"),
    ("purple", "yellow"), ("blue", "cyan"), ("black", "red"), ("yellow", "black"), ("white", "blue"),
)  # fmt: skip
PROMPTS = tuple(shapes.caption(shapes.Scene(CONCEPT, *pair)) for pair in PAIRS)
"""New prompts of the concept; the data set has none of their pairs of colours."""
UNRELATED = shapes.PROMPTS[:12]
"""Two captions of each known shape."""
Tick = Callable[[], object]


def draw_dataset(folder: Path, seed: int = 5) -> tuple[Path, Path]:
    """Pictures of the concept with captions, and as many of known shapes for regularisation: (train, reg) folders."""
    rng = np.random.default_rng(seed)
    train_dir, reg_dir = folder / "pictures", folder / "regularisation"
    for where, fixed in ((train_dir / f"1_{CONCEPT}", {"shape": CONCEPT}), (reg_dir / "1_shape", {})):
        where.mkdir(parents=True, exist_ok=True)
        made = 0
        while made < PICTURES:
            scene = shapes.random_scene(rng, **fixed)
            if fixed and (scene.colour, scene.ground) in PAIRS:
                continue
            shapes.draw(scene).save(where / f"{made:02}.png")
            (where / f"{made:02}.txt").write_text(shapes.caption(scene, rng), encoding="utf-8")
            made += 1
    return train_dir, reg_dir


def recipe(data: tuple[Path, Path], out: Path, **more: Any) -> Recipe:
    """How the concept is learned: C3Lier (a shape's edges are in the 3x3 layers), regularised, three files."""
    settings: dict[str, Any] = {
        "train_data_dir": str(data[0]), "reg_data_dir": str(data[1]), "output_dir": str(out), "output_name": CONCEPT,
        "resolution": str(shapes.SIZE), "network_module": "c3lier", "network_dim": 16, "network_alpha": 16,
        "conv_dim": 8, "conv_alpha": 8, "learning_rate": 3e-3,
        "train_batch_size": 4, "max_train_epochs": 30, "save_every_n_epochs": 10, "cache_latents": True,
        "lr_scheduler": "cosine", "min_snr_gamma": 5, "seed": 1,
    }  # fmt: skip
    return recipe_of({**settings, **more})


@dataclass(frozen=True)
class Judged:
    """Shares of prompts that are obeyed, 0..1: of the concept and of unrelated ones, without and with the LoRA."""

    concept_before: float
    concept_after: float
    unrelated_before: float
    unrelated_after: float

    @property
    def unrelated_kept(self) -> float:
        """How much of the score on unrelated prompts is left, at most 1."""
        return min(1.0, self.unrelated_after / self.unrelated_before) if self.unrelated_before else 1.0


def pictures(
    model: Standalone, library: Library, base: Settings, prompts: Sequence[str], tag: str = "", tick: Tick | None = None
) -> list[Image.Image]:
    """One picture a prompt, with a tag behind each."""
    made = []
    for prompt in prompts:
        text = f"{prompt} {tag}".strip()
        made += generate(replace(base, prompt=text), model=model, library=library)
        if tick is not None:
            tick()
    return made


def judge(model: Standalone, library: Library, base: Settings, tag: str, tick: Tick | None = None) -> Judged:
    """How well the concept and unrelated prompts are obeyed without and with the tag."""
    scores = [
        shapes.score(pictures(model, library, base, prompts, chosen, tick), prompts)
        for prompts in (PROMPTS, UNRELATED)
        for chosen in ("", tag)
    ]
    return Judged(*scores)


def teach(model: Standalone, out: Path, shell: Shell | None = None, **more: Any) -> Outcome:
    """Draws the data set and trains; the files are in `out`."""
    return train(recipe(draw_dataset(out / "dataset"), out, **more), model=model, shell=shell)

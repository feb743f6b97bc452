"""A toy task for the embedded model: a colour scheme that it has never seen, learned from a few generated images.

It is scored by the images' own checker (`embedded.shapes`) before and after training, with captions that are not in the
data set, and with captions of known shapes, which the LoRA should not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..compare.image_spec import ImageSpec
from ..compare.sheet_plan import batch_image_specs
from ..embedded import shapes
from ..file.lora_library import LoraLibrary
from ..generate import Settings
from ..generate.image_renderer import StandaloneImageRenderer
from ..host.standalone.model import StandaloneModel
from ..protocols import HostInterface
from ..train.config.recipe import Recipe
from ..train.config.recipe_io import recipe_from_settings
from ..train.run.training_result import TrainingResult
from .standalone_run import train

TOY_CONCEPT = "sign"
TOY_IMAGE_COUNT, TOY_REPEATS = 20, 5
TRAINED_SHAPES = ("circle", "square", "cross", "diamond")
"""The shapes in the data set; the others have never been seen on a sign."""
TOY_PROMPTS = tuple(template.format(shape=shape) for template in shapes.SIGN_TEMPLATES[:2] for shape in shapes.SHAPES)
"""Prompts of the concept with every shape, also those that the data set does not show."""
UNRELATED_PROMPTS = shapes.SCENE_PROMPTS[:24]
"""Four captions of each known shape."""
TOY_SETTINGS = Settings(sampler="DPM++ 2M", cfg=3.0, seed=7)
"""How images are generated."""
TOY_BATCH_SIZE = 8
"""Images generated together."""
OnToyImage = Callable[[], object]
"""Called after each image."""


def save_toy_dataset(folder: Path, seed: int = 5) -> tuple[Path, Path]:
    """Generates images of the concept and plain scenes for regularisation, with captions.

    Every fourth plain scene has no caption of its own, so that its folder's word is its caption: classifier-free
    guidance subtracts the prediction without a caption, which must not change either.

    Args:
        folder: The folder for both.
        seed: The seed of the scenes.

    Returns:
        (folder of training images, folder of regularisation images).
    """
    rng = np.random.default_rng(seed)
    concept = [
        shapes.random_scene(rng, style=TOY_CONCEPT, shape=TRAINED_SHAPES[i % len(TRAINED_SHAPES)])
        for i in range(TOY_IMAGE_COUNT)
    ]
    plain = [shapes.random_scene(rng) for _ in range(TOY_IMAGE_COUNT * TOY_REPEATS)]
    pictures, regularisation = folder / "pictures", folder / "regularisation"
    save_scenes(pictures / f"{TOY_REPEATS}_{TOY_CONCEPT}", concept, [shapes.caption(scene, rng) for scene in concept])
    captions = [shapes.caption(scene, rng) for scene in plain]
    save_scenes(regularisation / "1_shape", plain, ["" if i % 4 == 0 else text for i, text in enumerate(captions)])
    return pictures, regularisation


def save_scenes(folder: Path, scenes: Sequence[shapes.Scene], captions: Sequence[str]) -> None:
    """Saves scenes as images with captions beside them."""
    save_pictures(folder, [shapes.draw_scene(scene) for scene in scenes], captions)


def save_pictures(folder: Path, pictures: Sequence[Image.Image], captions: Sequence[str]) -> None:
    """Saves pictures with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (picture, text) in enumerate(zip(pictures, captions, strict=True)):
        picture.save(folder / f"{i:03}.png")
        (folder / f"{i:03}.txt").write_text(text, encoding="utf-8")


def toy_recipe(data: tuple[Path, Path | None], out: Path, **more: Any) -> Recipe:
    """The recipe of the toy task.

    Args:
        data: (folder of training images, folder of regularisation images or None).
        out: The folder for the results.
        more: Settings that override the task's.
    """
    settings: dict[str, Any] = {
        "train_data_dir": str(data[0]), "output_dir": str(out), "output_name": TOY_CONCEPT,
        "resolution": str(shapes.SCENE_PIXELS), "network_module": "c3lier", "network_dim": 8, "network_alpha": 8,
        "conv_dim": 4, "conv_alpha": 4, "learning_rate": 7e-4, "train_batch_size": 8,
        "max_train_epochs": 9, "save_every_n_epochs": 1, "cache_latents": True,
        "lr_scheduler": "cosine", "noise_offset": 0.2, "seed": 1,
        # the embedded model was trained with most weight on noisy timesteps; less there blurs its shapes
        "v_pred_like_loss": 1.0, "debiased_estimation_loss": True,
    }  # fmt: skip
    if data[1] is not None:
        settings |= {"reg_data_dir": str(data[1]), "prior_loss_weight": 3.0, "prior_loss_target": "model"}
    return recipe_from_settings({**settings, **more})


@dataclass(frozen=True)
class ToyScores:
    """Shares of prompts that the images follow, 0..1.

    Attributes:
        concept_before: Prompts of the concept, without the LoRA.
        concept_after: Prompts of the concept, with the LoRA.
        unrelated_before: Unrelated prompts, without the LoRA.
        unrelated_after: Unrelated prompts, with the LoRA.
    """

    concept_before: float
    concept_after: float
    unrelated_before: float
    unrelated_after: float

    @property
    def unrelated_kept(self) -> float:
        """The share of the score on unrelated prompts that is left, at most 1."""
        return min(1.0, self.unrelated_after / self.unrelated_before) if self.unrelated_before else 1.0


def generate_toy_images(
    model: StandaloneModel,
    library: LoraLibrary,
    base: Settings,
    prompts: Sequence[str],
    tag: str = "",
    on_image: OnToyImage | None = None,
) -> list[Image.Image]:
    """Generates one image for each prompt with a tag behind it; seeds count up from the base's."""
    return _generate(
        model, library, base, [(f"{text} {tag}", base.seed + i) for i, text in enumerate(prompts)], on_image
    )


def generate_toy_grid(
    model: StandaloneModel,
    library: LoraLibrary,
    base: Settings,
    prompts: Sequence[Sequence[str]],
    on_image: OnToyImage | None = None,
) -> list[list[Image.Image]]:
    """Generates one image for each prompt, in rows, all with the base's seed."""
    made = iter(_generate(model, library, base, [(prompt, base.seed) for row in prompts for prompt in row], on_image))
    return [[next(made) for _ in row] for row in prompts]


def _generate(
    model: StandaloneModel,
    library: LoraLibrary,
    base: Settings,
    wanted: Sequence[tuple[str, int]],
    on_image: OnToyImage | None,
) -> list[Image.Image]:
    """Generates images of (prompt, seed) pairs in batches, as sheets do."""
    specs = [ImageSpec(**{**base.image_fields(), "prompt": prompt.strip(), "seed": seed}) for prompt, seed in wanted]
    made: dict[ImageSpec, Image.Image] = {}
    with StandaloneImageRenderer(base, model, library) as renderer:
        for group in batch_image_specs(specs, TOY_BATCH_SIZE, renderer.batch_key):
            made |= zip(group, renderer.generate(group, lambda *_: None), strict=True)
            for _ in group:
                if on_image is not None:
                    on_image()
    return [made[spec] for spec in specs]


def score_toy_loras(
    model: StandaloneModel,
    library: LoraLibrary,
    base: Settings,
    tags: Sequence[str],
    on_image: OnToyImage | None = None,
    unrelated_before: float | None = None,
) -> list[ToyScores]:
    """Scores the concept and unrelated prompts without a LoRA, generated once, and with each tag.

    Args:
        model: The model.
        library: The LoRA files.
        base: The settings of every image.
        tags: Tags of the LoRAs to score.
        on_image: Called after each image.
        unrelated_before: The score of the unrelated prompts without a LoRA, if it is known.

    Returns:
        The scores of each tag.
    """

    def share(prompts: Sequence[str], tag: str = "") -> float:
        return shapes.share_obeyed(generate_toy_images(model, library, base, prompts, tag, on_image), prompts)

    concept_before = share(TOY_PROMPTS)
    if unrelated_before is None:
        unrelated_before = share(UNRELATED_PROMPTS)
    return [
        ToyScores(concept_before, share(TOY_PROMPTS, tag), unrelated_before, share(UNRELATED_PROMPTS, tag))
        for tag in tags
    ]


def train_toy_lora(model: StandaloneModel, out: Path, host: HostInterface | None = None, **more: Any) -> TrainingResult:
    """Generates the data set and trains; the files are in `out`."""
    return train(toy_recipe(save_toy_dataset(out / "dataset"), out, **more), model=model, host=host)

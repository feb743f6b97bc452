"""`PromptDataset`: the batches of modes without pictures. Each prompt takes the place of a picture."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...protocols import VAE_SCALE_FACTOR
from ..config.prompt_tasks import PromptTask, prompt_tasks
from ..config.recipe import Recipe
from .buckets import fit_to_bucket
from .dataset import Dataset, TrainingSample
from .dataset_scan import DatasetImage, DatasetScan
from .sample_order import ImageRepeat
from .subset import BATCHES_PER_EPOCH, Subset, bucket_rules

LATENT_CHANNELS = 4


class PromptDataset(Dataset):
    """Batches of a recipe's prompts with empty latents, to which a training step adds noise."""

    unit = "prompts"

    @classmethod
    def from_recipe(cls, recipe: Recipe, seed: int = 0, **_: Any) -> PromptDataset:
        """Lists the prompts that a recipe trains; those to keep are half of the rows, however many there are.

        Args:
            recipe: The settings.
            seed: The seed of every random choice where the recipe has none.

        Returns:
            The data set.
        """
        rules, size = bucket_rules(recipe), recipe.size()
        tasks = prompt_tasks(recipe)
        kept = [prompt for prompt, task in tasks.items() if task == PromptTask(prompt)]
        groups = [group for group in ([prompt for prompt in tasks if prompt not in kept], kept) if group]
        rows = BATCHES_PER_EPOCH * recipe.train_batch_size / len(groups)
        subsets = tuple(
            Subset(
                Path("prompts kept as they are" if group is kept else "prompts"),
                (),
                math.ceil(rows / len(group)),
                bucket_rules=rules,
                batch_size=recipe.train_batch_size,
            )
            for group in groups
        )
        prompts = [(prompt, number) for number, group in enumerate(groups) for prompt in group]
        images = tuple(
            DatasetImage(
                Path(f"prompt {number}"), subset, size, fit_to_bucket(size, rules),
                hashlib.blake2b(prompt.encode(), digest_size=16).hexdigest(), prompt, True,
            )
            for number, (prompt, subset) in enumerate(prompts, start=1)
        )  # fmt: skip
        return cls(recipe, DatasetScan(subsets, images, ()), recipe.seed if recipe.seed is not None else seed)

    def _load_sample(self, item: ImageRepeat, epoch: int, step: int, steps: int) -> TrainingSample:
        picture = self.images[item.image]
        width, height = (side // VAE_SCALE_FACTOR for side in picture.bucket_fit.bucket)
        return TrainingSample(None, torch.zeros(LATENT_CHANNELS, height, width), None, picture.caption, (0, 0))

    def cache_latents(self, encode: Callable[[Tensor], Tensor], vae: str, **_: Any) -> int:
        """Encodes nothing, since there are no pictures.

        Args:
            encode: As in `Dataset`.
            vae: As in `Dataset`.

        Returns:
            0.
        """
        return 0

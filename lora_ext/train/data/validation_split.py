"""Which pictures are kept apart for validation."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from ..config.recipe import Recipe
from .subset import Subset


def split_subsets(subsets: Sequence[Subset], recipe: Recipe, seed: int, *, validation: bool) -> list[Subset]:
    """The folders with the pictures of training, or with those of validation.

    As in kohya's scripts each folder is shuffled by the seed and its end is kept apart; regularisation pictures are
    always trained on. Pictures of validation are not varied: one repeat, no augmentation, captions as they are.

    Args:
        subsets: All folders with their pictures.
        recipe: Its `validation_split` and `validation_seed` are used.
        seed: The run's seed.
        validation: Which of the two are returned.

    Returns:
        The folders; without `validation_split` all for training, none for validation.
    """
    if not recipe.validation_split:
        return [] if validation else list(subsets)
    found = []
    for subset in subsets:
        files = list(subset.files)
        if not subset.regularisation:
            random.Random(seed if recipe.validation_seed is None else recipe.validation_seed).shuffle(files)
        count = len(files) if subset.regularisation else math.ceil(len(files) * (1 - recipe.validation_split))
        if not validation:
            found.append(replace(subset, files=tuple(sorted(files[:count], key=str))))
        elif files[count:]:
            plain = replace(
                subset.caption_rules, shuffle_caption=False, caption_dropout_rate=0.0, caption_tag_dropout_rate=0.0,
                caption_dropout_every_n_epochs=0, token_warmup_step=0.0,
            )  # fmt: skip
            still = replace(subset.augmentation, flip_aug=False, color_aug=False, random_crop=False, face_crop=None)
            found.append(
                replace(subset, files=tuple(files[count:]), repeats=1, caption_rules=plain, augmentation=still)
            )
    return found

"""Mode difference: the first pass, a LoRA that copies the original picture.

The second pass trains on the target picture with that LoRA applied, so that it learns what the original does not have
(hako-mikan's sd-webui-traintrain, `train_diff`). The result is used without the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...errors import TrainError
from ..config.recipe import Recipe
from .training_result import TrainingResult
from .training_state import find_training_state, load_training_state

FIRST_PASS_SUFFIX = "-copy"
"""Ending of the name of the first pass's files."""


def split_into_passes(recipe: Recipe) -> tuple[Recipe | None, Recipe]:
    """The runs that a recipe of mode difference needs.

    A recipe without a target picture is a first pass; one with `diff_load_1st_pass` is a second one.

    Args:
        recipe: The settings.

    Returns:
        (the first pass's recipe; None where there is nothing to do before, the other run's).

    Raises:
        TrainError: `resume` has no state, or one of a second pass whose first pass's file is missing.
    """
    if recipe.mode != "difference" or not recipe.target_image or recipe.diff_load_1st_pass:
        return None, recipe
    first = replace(recipe, target_image=None, output_name=recipe.output_name + FIRST_PASS_SUFFIX, sample_prompts=None)
    if recipe.resume:
        saved = load_training_state(find_training_state(Path(recipe.resume), recipe.output_name)).recipe
        copy = saved.get("diff_load_1st_pass")
        if copy is None:
            return first, replace(recipe, resume=None)
        if not Path(copy).is_file():
            raise TrainError(
                f"the state {recipe.resume} was trained with {copy}, which is missing; give that file as "
                "diff_load_1st_pass"
            )
        return None, replace(recipe, diff_load_1st_pass=copy)
    return first, recipe


def train_first_pass(
    recipe: Recipe, train: Callable[[Recipe], TrainingResult], notify: Callable[[str], None]
) -> tuple[TrainingResult | None, Recipe]:
    """Trains the first pass where a recipe needs one.

    Args:
        recipe: The settings.
        train: Trains the recipe of the first pass.
        notify: Called with a sentence before the first pass.

    Returns:
        (what the first pass saved, if the user stopped it, else None; the recipe of the second pass).

    Raises:
        TrainError: As `split_into_passes` and `train`.
    """
    first, second = split_into_passes(recipe)
    if first is None:
        return None, second
    notify(f"first pass: {first.output_name} copies the original picture")
    copied = train(first)
    return (copied, recipe) if copied.file is None else (None, replace(second, diff_load_1st_pass=str(copied.file)))

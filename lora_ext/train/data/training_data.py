"""Which data set a recipe's mode trains with."""

from __future__ import annotations

from ...progress import Track, no_progress
from ..config.recipe import Recipe
from .dataset import Dataset
from .dataset_folders import Notify
from .pair_dataset import PairDataset
from .prompt_dataset import PromptDataset


def load_training_data(
    recipe: Recipe, seed: int = 0, *, notify: Notify = lambda text: None, track: Track = no_progress
) -> Dataset:
    """Opens the data set of a recipe's mode: pictures, pairs of them, or prompts alone.

    Args:
        recipe: The settings.
        seed: The seed of every random choice where the recipe has none.
        notify: Called with a sentence for each folder that is left out.
        track: Shows the progress of the scan.

    Returns:
        The data set.

    Raises:
        TrainError: A folder is missing or has no images, or none of the images can be read.
    """
    kinds = {"ileco": PromptDataset, "slider": PromptDataset, "addift": PairDataset, "multi-addift": PairDataset}
    return kinds.get(recipe.mode, Dataset).from_recipe(recipe, seed, notify=notify, track=track)

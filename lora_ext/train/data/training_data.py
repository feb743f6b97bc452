"""Which data set a recipe's mode trains with."""

from __future__ import annotations

from ...progress import Track, no_progress
from ..config.recipe import Recipe
from .dataset import Dataset
from .dataset_folders import Notify, find_subsets
from .dataset_scan import scan_dataset
from .pair_dataset import PairDataset
from .prompt_dataset import PromptDataset
from .validation_split import split_subsets


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


def load_validation_data(recipe: Recipe, seed: int, *, track: Track = no_progress) -> Dataset | None:
    """Opens the data set of the pictures that are kept apart.

    Args:
        recipe: The settings.
        seed: The run's seed.
        track: Shows the progress of the scan.

    Returns:
        The data set; None where no picture is kept apart.

    Raises:
        TrainError: None of the pictures can be read.
    """
    subsets = split_subsets(find_subsets(recipe), recipe, seed, validation=True) if recipe.validation_split else []
    return Dataset(recipe, scan_dataset(subsets, track=track), seed) if subsets else None

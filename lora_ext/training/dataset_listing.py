"""What a run would train on: `train --debug_dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..counted_words import counted
from ..train.config.recipe import Recipe
from ..train.data.training_data import load_training_data
from ..train.run.preflight import run_preflight


def dataset_lines(recipe: Recipe, notify: Callable[[str], None]) -> Iterator[str]:
    """Lists every picture of a recipe as it is trained, and the report that a run begins with, without a model.

    Args:
        recipe: The settings.
        notify: Called with a sentence for each folder that is left out.

    Yields:
        Lines of text.

    Raises:
        TrainError: As a run before its first step.
    """
    data = load_training_data(recipe, recipe.seed or 0, notify=notify)
    for image in data.images:
        subset = data.subsets[image.subset]
        (width, height), (bucket_width, bucket_height) = image.size, image.bucket_fit.bucket
        more = [counted(subset.repeats, "time")] + ["regularisation"] * subset.regularisation
        more += [f"mask {image.mask}"] * (image.mask is not None)
        yield f"{image.path}: {width}x{height} in {bucket_width}x{bucket_height}, {', '.join(more)}: {image.caption!r}"
    yield run_preflight(data).text()

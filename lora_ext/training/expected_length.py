"""How many steps a run with suggested settings has, and about how long they take, before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..protocols import TrainableModel
from ..train.config.recipe_io import recipe_from_settings
from ..train.config.suggested_setting import values_of
from ..train.data.training_data import load_training_data
from ..train.run.cost_estimate import regularised_time_factor
from ..train.run.preflight import run_preflight
from .settings_for_pictures import SuggestionForPictures


@dataclass(frozen=True)
class ExpectedLength:
    """The length of a training, without what it draws: regularisation pictures, samples, a sheet.

    Attributes:
        steps: Its steps.
        least_seconds: Seconds that it takes at least, as expected; 0 where the device's speed is not known.
        most_seconds: Seconds that it takes at most, as expected.
    """

    steps: int
    least_seconds: float
    most_seconds: float


@dataclass(frozen=True)
class ExpectedLengths:
    """The length of a training with suggested settings.

    Attributes:
        plain: Without regularisation.
        regularised: With it, once its pictures are there.
    """

    plain: ExpectedLength
    regularised: ExpectedLength


def expected_lengths(folder: Path, suggested: SuggestionForPictures, model: TrainableModel) -> ExpectedLengths:
    """Estimates how long a training with suggested settings is.

    Args:
        folder: The folder of pictures.
        suggested: The settings.
        model: The model that is trained.

    Returns:
        The lengths.

    Raises:
        TrainError: The pictures cannot be trained with these settings.
    """
    values = {**values_of(suggested.settings), "train_data_dir": str(folder)}
    report = run_preflight(load_training_data(recipe_from_settings(values)), model)
    low, high = report.seconds_range
    factor = regularised_time_factor(recipe_from_settings({**values, **values_of(suggested.regularisation.settings)}))
    return ExpectedLengths(
        ExpectedLength(report.steps, low, high), ExpectedLength(2 * report.steps, factor * low, factor * high)
    )

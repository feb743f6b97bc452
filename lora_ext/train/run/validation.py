"""Validation: the loss of pictures that are not trained on, with the same noise and timesteps each time."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ...counted_words import fill_counts
from ...csv_rows import load_csv_rows
from ...progress import Track
from ...protocols import TrainableModel
from ..config.recipe import Recipe
from ..data.dataset import Dataset
from ..data.training_data import load_validation_data
from . import setup
from .output_files import remove_saved
from .process_group import ProcessGroup
from .textual_inversion import TrainableEmbedding
from .training_step import TrainingStepper

TIMESTEP_COUNT = 4
"""Timesteps of each picture, evenly spread as in kohya's scripts: 200, 400, 600, 800 of 1000."""


def validation_timesteps(recipe: Recipe, total: int) -> list[int]:
    """The timesteps at which the loss is measured.

    Args:
        recipe: Its `min_timestep` and `max_timestep` are the range.
        total: Timesteps of the model.

    Example:
        >>> validation_timesteps(Recipe(), 1000)
        [200, 400, 600, 800]
    """
    low, high = recipe.min_timestep or 0, min(recipe.max_timestep or total, total)
    return [low + (high - low) * part // (TIMESTEP_COUNT + 1) for part in range(1, TIMESTEP_COUNT + 1)]


@dataclass
class Validation:
    """Measures the loss of the validation pictures and writes it to a CSV file.

    Noise is keyed by the seed and the picture alone, so that two measurements of the same network are equal.

    Attributes:
        data: The pictures.
        stepper: The network.
        recipe: The settings.
        path: The CSV file: step, epoch, loss, and the loss at each timestep. None in processes that write nothing.
        rows: What was measured: (step, epoch, loss).
    """

    data: Dataset
    stepper: TrainingStepper
    recipe: Recipe
    path: Path | None
    rows: list[tuple[int, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        total = len(self.stepper.objective.abar)
        self.timesteps = validation_timesteps(self.recipe, total)
        self._texts: list[list[str]] = []

    def load_rows(self, step: int) -> None:
        """Continues the file of a run that is resumed at a step; later rows are dropped."""
        if self.path is not None and step:
            with suppress(OSError, ValueError, IndexError):
                for text in load_csv_rows(self.path)[1:]:
                    row = int(text[0]), int(text[1]), float(text[2])
                    if row[0] <= step:
                        self.rows.append(row)
                        self._texts.append(text)

    def is_due(self, step: int, epoch: int | None) -> bool:
        """Whether the loss is measured after a step, or after an epoch where `epoch` is its number."""
        by_steps, by_epochs = self.recipe.validate_every_n_steps, self.recipe.validate_every_n_epochs
        if epoch is None:
            return is_due(step, by_steps)
        is_measured = bool(self.rows) and self.rows[-1][0] == step
        return not is_measured and (epoch % by_epochs == 0 if by_epochs else not by_steps)

    def measure(self, step: int, epoch: int, notify: Callable[[str], None]) -> float:
        """Measures the loss of the network as it would be saved now.

        Args:
            step: Optimizer steps done.
            epoch: The epoch, from 1.
            notify: Called with a sentence that tells the loss, and whether it ends the run.

        Returns:
            The mean loss over pictures and timesteps.

        Raises:
            OSError: The file cannot be written.
        """
        losses = [self._loss_at(timestep) for timestep in self.timesteps]
        loss = math.fsum(losses) / len(losses)
        self.rows.append((step, epoch, loss))
        self._texts.append([str(step), str(epoch), f"{loss:.8g}", *(f"{value:.8g}" for value in losses)])
        if self.path is not None:
            head = ["step", "epoch", "loss", *(f"loss_at_{timestep}" for timestep in self.timesteps)]
            with self.path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([head, *self._texts])
        at, _, lowest = self.lowest()
        notify(f"validation after step {step}: loss {loss:.5f}, lowest {lowest:.5f} after step {at}")
        if self.has_stopped_improving():
            notify(f"the validation loss has not fallen since step {at}: the run ends here")
        return loss

    def _loss_at(self, timestep: int) -> float:
        objective = copy.copy(self.stepper.objective)
        objective.recipe = replace(self.recipe, min_timestep=timestep, max_timestep=timestep + 1)
        total, count = torch.zeros((), dtype=torch.float64), 0
        with self.stepper.inference(), torch.no_grad():
            for number, batch in enumerate(self.data.epoch_batches(0)):
                if number == self.recipe.max_validation_steps:
                    break
                total += objective(batch).double().cpu() * len(batch)
                count += len(batch)
        return float(total / max(1, count))

    def lowest(self) -> tuple[int, int, float]:
        """The first measurement with the lowest loss: (step, epoch, loss)."""
        return min(self.rows, key=lambda row: row[2])

    def has_stopped_improving(self) -> bool:
        """Whether the lowest loss is at least `early_stopping_patience` measurements ago."""
        patience, losses = self.recipe.early_stopping_patience, [row[2] for row in self.rows]
        return patience is not None and len(losses) - 1 - losses.index(min(losses)) >= patience


def open_validation(
    model: TrainableModel,
    stepper: TrainingStepper,
    recipe: Recipe,
    group: ProcessGroup,
    folder: Path,
    step: int,
    *,
    track: Track,
    notify: Callable[[str], None],
    embedding: TrainableEmbedding | None = None,
) -> Validation | None:
    """Opens the pictures that a recipe keeps apart, encoded where it caches latents or text-encoder outputs.

    Args:
        model: The model.
        stepper: The network.
        recipe: The settings.
        group: The processes that train together; the main one writes the CSV file.
        folder: The folder of the results.
        step: Optimizer steps done before.
        track: Shows progress.
        notify: Called with a sentence that tells how many pictures there are.
        embedding: The new token, which is put into captions without it.

    Returns:
        The validation; None where no picture is kept apart.

    Raises:
        TrainError: A picture cannot be read.
    """
    data = load_validation_data(recipe, recipe.seed or 0, track=track)
    if data is None:
        if recipe.validation_split:
            notify(f"validation_split {recipe.validation_split:g} of these pictures is none of them")
        return None
    setup.fill_latent_cache(recipe, model, data, group, track)
    if embedding is not None:
        embedding.prepare_captions(data, notify)
    setup.fill_caption_cache(recipe, model, data, stepper.objective.encode_captions, track)
    path = folder / f"{recipe.output_name}.validation.csv" if group.is_main else None
    validation = Validation(data, stepper, recipe, path)
    validation.load_rows(step)
    notify(fill_counts("{0} pictures are kept apart for validation", len(data.images)))
    return validation


def report_best(
    validation: Validation | None, best: Path, last: Path | None, step: int, notify: Callable[[str], None]
) -> None:
    """Tells at the end of a run which file has the lowest loss, and removes it where the last one is the same.

    Args:
        validation: What was measured; None without validation.
        best: The file that was saved when the lowest loss was measured.
        last: The file of all steps.
        step: Optimizer steps done.
        notify: Called with the sentence.
    """
    if validation is None or validation.path is None or last is None or not validation.rows:
        return
    at, _, loss = validation.lowest()
    if at == step:
        remove_saved(best)
    elif best.exists():
        notify(f"{best.name} has the lowest validation loss, {loss:.5f} after step {at}; {last.name} has all steps")


def is_due(number: int, every: int | None) -> bool:
    """Whether something that happens every so many steps or epochs happens after this one; never without a number."""
    return bool(every) and number % int(every or 1) == 0

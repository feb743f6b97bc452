"""Where a run begins that `initial_epoch` or `initial_step` moves, as in kohya's `train_network.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...errors import TrainError
from ..data.dataset import Dataset
from .training_state import TrainingState

_OPTIONS = ("initial_epoch", "initial_step", "skip_until_initial_step")


class StartPosition(NamedTuple):
    """Where the first batch lies.

    Attributes:
        epoch: Its epoch, from 0.
        batch: Its place in the epoch, from 0.
        step: Optimizer steps that count as done.
        left_out: Optimizer steps of the whole run that are neither done nor counted.
    """

    epoch: int
    batch: int
    step: int
    left_out: int


def find_start_position(data: Dataset, world_size: int) -> StartPosition | None:
    """Where the recipe's `initial_epoch` or `initial_step` lets a run begin.

    `initial_step` wins over `initial_epoch`. Without `skip_until_initial_step` the run begins with the first batch of
    the epoch and counts its steps from 0; with it, at exactly that step, which keeps its number. The steps before are
    not trained, so the run is that much shorter. The schedule of the learning rate begins at 0 in either case.

    Args:
        data: The data.
        world_size: Number of processes.

    Returns:
        The position; None where the recipe begins at the beginning.

    Raises:
        TrainError: No step would be left.
    """
    recipe = data.recipe
    if recipe.initial_step is None and recipe.initial_epoch is None:
        return None
    first = recipe.initial_step
    if first is None:
        first = data.step_count_before(int(recipe.initial_epoch or 1) - 1, world_size)
    _, steps = data.run_length(world_size)
    if first >= steps:
        name = "initial_step" if recipe.initial_step is not None else "initial_epoch"
        more = "max_train_epochs" if recipe.max_train_epochs else "max_train_steps"
        raise TrainError(
            f"{name} {getattr(recipe, name)} leaves no step of the {steps:,}; make it smaller, or raise {more}"
        )
    epoch = 0
    while data.step_count_before(epoch + 1, world_size) <= first:
        epoch += 1
    if not recipe.skip_until_initial_step:
        return StartPosition(epoch, 0, 0, first)
    batch = (first - data.step_count_before(epoch, world_size)) * recipe.gradient_accumulation_steps
    return StartPosition(epoch, batch, first, 0)


def find_length(
    data: Dataset, world_size: int, state: TrainingState, notify: Callable[[str], None]
) -> tuple[int, int, int]:
    """Computes how long a run is, and moves its state to where `find_start_position` says.

    A resumed run whose state was saved with the same options began there already; it continues where the state is.

    Args:
        data: The data.
        world_size: Number of processes.
        state: The state that the run begins with, new or resumed; its position is set.
        notify: Called with a sentence where a resumed state's position is replaced.

    Returns:
        (epochs, optimizer steps, further steps over which the schedule of the learning rate is spread).
    """
    recipe, start = data.recipe, find_start_position(data, world_size)
    if start is not None and any(state.recipe.get(name) != getattr(recipe, name) for name in _OPTIONS):
        if state.recipe:
            name = "initial_step" if recipe.initial_step is not None else "initial_epoch"
            notify(f"resuming: the state is at step {state.step}, but the run begins where {name} says")
        state.epoch, state.batch, state.step = start.epoch, start.batch, start.step
    left_out = 0 if start is None else start.left_out
    epochs, steps = data.run_length(world_size, epoch=state.epoch, batch=state.batch, step=state.step + left_out)
    return epochs, steps - left_out, left_out

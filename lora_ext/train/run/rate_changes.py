"""Learning rates that are changed while a run is at work: by a factor, which its log, its files and its states have."""

from __future__ import annotations

import json
from collections.abc import Callable

from .training_state import TrainingState
from .training_step import TrainingStepper


def change_rates(
    stepper: TrainingStepper, state: TrainingState, factor: float | None, notify: Callable[[str], None]
) -> None:
    """Sets the factor on the recipe's learning rates from the next step on.

    Args:
        stepper: The optimizer and its schedule.
        state: The run's state; the change is added to it.
        factor: The factor, whatever was set before; None changes nothing.
        notify: Called with a sentence that has the new rates.
    """
    if factor is None or factor == stepper.rate_factor:
        return
    stepper.set_rate_factor(factor)
    state.rate_changes.append((state.step, factor))
    rates = ", ".join(f"{part} {rate:.3g}" for part, rate in stepper.learning_rates.items())
    notify(f"learning rates x {factor:g} from step {state.step + 1}: now {rates}")


def rate_metadata(state: TrainingState) -> dict[str, str]:
    """The metadata entry of the changes, (step, factor from then on) each; none where there was no change."""
    return {"ss_learning_rate_changes": json.dumps(state.rate_changes)} if state.rate_changes else {}

"""Reasons why a file in a prompt has no effect: all its weights are 0, or its range of steps is empty."""

from __future__ import annotations

from collections.abc import Iterable

from .adapter_spec import AdapterSpec, is_step_in_range
from .counted_words import counted
from .layer_names import UNET, LayerId


def no_effect_reason(spec: AdapterSpec, layers: Iterable[LayerId], total: int | None = None) -> str:
    """Explains why a file, or its U-Net part, is never applied.

    Args:
        spec: the file with its weights and schedule.
        layers: the layers of the file that the model has.
        total: number of denoiser calls; None where it is not known. A range such as `start=50` is empty for 20 steps,
            but not for 60.

    Returns:
        A sentence; "" where the file acts.
    """
    layers = list(layers)
    if not layers:
        return ""  # the fit report says that none applies
    acting = [layer_id for layer_id in layers if spec.weight_at(layer_id)]
    parts = {layer_id.part for layer_id in acting}
    if not acting:
        why = "its weight is 0" if not spec.te and not spec.unet else "its weight is 0 in every layer of the file"
        return f"{spec.display_name} changes nothing: {why}"
    if UNET not in parts:
        return ""
    empty = empty_step_range_reason(spec.start, spec.stop, total)
    what = "its U-Net part never acts" if len(parts) > 1 else "it never acts"
    return f"{spec.display_name}: {what}, because {empty}" if empty else ""


def empty_step_range_reason(start: float | None, stop: float | None, total: int | None = None) -> str:
    """Explains why a range contains no step. Whole numbers are steps, fractions are shares of all steps.

    Args:
        start: the first step; None from the beginning.
        stop: the step before which it ends; None for the end.
        total: number of denoiser calls; None where it is not known.

    Returns:
        A part of a sentence; "" where the range contains a step.

    Example:
        >>> empty_step_range_reason(10, 10)
        'it starts at step 10 and stops before step 10'
    """
    if isinstance(start, float) and start >= 1:
        return "it starts after the last step"
    if stop is not None and stop <= 0:
        return "it stops before the first step"
    if start is not None and stop is not None and type(start) is type(stop) and start >= stop:
        advice = "" if start == stop else f"; swap them: step={stop!r}-{start!r}"
        return f"it starts at {_format_step(start)} and stops before {_format_step(stop)}{advice}"
    if total is None or any(is_step_in_range(start, stop, step, total) for step in range(total)):
        return ""
    first = "" if start is None else f"starts at {_format_step(start)}"
    last = "" if stop is None else f"stops before {_format_step(stop)}"
    return (
        f"it {' and '.join(filter(None, (first, last)))}, and the image has {counted(total, 'step')} (0 to {total - 1})"
    )


def _format_step(value: float) -> str:
    return f"{value:.0%} of the steps" if isinstance(value, float) else f"step {value}"

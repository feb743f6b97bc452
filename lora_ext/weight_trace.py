"""`WeightTrace`: the weights that scheduled files really had at each U-Net call of an image, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_MOST_CALLS = 60
"""Calls that a line shows; of more it shows so many, evenly spread."""


class WeightTrace:
    """Records weights call by call, pass by pass.

    Example:
        >>> trace = WeightTrace()
        >>> for step, weight in enumerate((0.0, 0.5, 1.0)):
        ...     trace.record(step, [("cat", weight)])
        >>> trace.lines()
        ['cat: weight at each of 3 U-Net calls ▁▅█ 0, 0.5, 1']
    """

    def __init__(self) -> None:
        self._passes: list[list[tuple[str, list[float]]]] = []

    def record(self, step: int, weights: Sequence[tuple[str, float]]) -> None:
        """Notes the weights of one call.

        Args:
            step: the call's number; 0 begins a pass.
            weights: (name of the file, its weight in the U-Net), one for each scheduled file.
        """
        if step == 0 or not self._passes or [name for name, _ in self._passes[-1]] != [name for name, _ in weights]:
            self._passes.append([(name, []) for name, _ in weights])
        for (_, values), (_, weight) in zip(self._passes[-1], weights, strict=True):
            values.append(weight)

    def lines(self) -> list[str]:
        """Returns a line for each file and pass; equal ones, of further batches, once."""
        return list(dict.fromkeys(_format_weights(*row) for one_pass in self._passes for row in one_pass))


def _format_weights(name: str, weights: Sequence[float]) -> str:
    count = min(len(weights), _MOST_CALLS)
    shown = [weights[i * (len(weights) - 1) // max(count - 1, 1)] for i in range(count)]
    low, high = min(0.0, *shown), max(0.0, *shown)
    top = len(_BARS) - 1
    bars = "".join(_BARS[int((weight - low) / (high - low or 1) * top + 0.5)] for weight in shown)
    numbers = ", ".join(f"{weight:.3g}" for weight in shown)
    if len(weights) == 1:
        return f"{name}: weight at the only U-Net call {bars} {numbers}"
    return f"{name}: weight at each of {len(weights)} U-Net calls {bars} {numbers}"

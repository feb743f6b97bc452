"""Measures how much of ΔW remains when W + ΔW is rounded to its storage dtype."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

_SAMPLE = 1 << 14
"""Numbers of a block that are measured, spread over its rows and columns; smaller blocks are measured whole. Measured:
2^14 of 2^20 numbers give the fraction of a layer to about 1 %, of a file to 0.1 %, in a sixth of the time of the
block's sum in fp16."""
_RUN = 16

ROUNDING_WARNING_SHARE = 0.9
"""Remaining fraction of ΔW below which the user is warned."""


def is_lossy_dtype(dtype: torch.dtype) -> bool:
    """Whether rounding to a dtype can lose ΔW.

    Args:
        dtype: the dtype.

    Returns:
        True for 8-bit floats, bf16 and fp16.
    """
    return dtype.is_floating_point and torch.finfo(dtype).eps > torch.finfo(torch.float32).eps


def measuring_stride(size: int) -> int:
    """Returns the stride of the sample on which rounding is measured.

    It is no multiple of 2, 3 or 5, as lengths of rows are, so that the sample covers all columns.

    Args:
        size: how many numbers the weight has.

    Returns:
        The stride; 1 for small weights.
    """
    step = max(1, size // _SAMPLE)
    while step > 1 and not (step % 2 and step % 3 and step % 5):
        step += 1
    return step


def sample_numbers(matrix: Tensor) -> Tensor:
    """Samples runs of 16 numbers over a matrix; single numbers would load a cache line each."""
    flat, step = matrix.flatten(), measuring_stride(matrix.numel())
    run = _RUN * step
    return flat if step == 1 else flat[: len(flat) // run * run].view(-1, run)[:, :_RUN].reshape(-1)


class Rounding:
    """The fraction of ΔW that remains in one stored weight W': ⟨W' − W, ΔW⟩ / ⟨ΔW, ΔW⟩, measured on a sample.

    It says how strongly the change acts on average. A value above 1 counts like one as far below 1. 0 means W' = W.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[float, Tensor, Tensor]] = []
        self._values: tuple[float, float] | None = None

    def measure(self, weight: Tensor, total: Tensor, dtype: torch.dtype) -> None:
        """Measures a block.

        Args:
            weight (Tensor): (rows, columns) of W.
            total (Tensor): (rows, columns) of W + ΔW, float32.
            dtype: the dtype that `total` will be rounded to.
        """
        exact = sample_numbers(total)
        delta = exact - sample_numbers(weight).to(exact.dtype)
        self.add_measured(delta, exact.to(dtype).to(exact.dtype).sub_(exact), total.numel())

    def add_measured(self, delta: Tensor, error: Tensor, size: int) -> None:
        """Adds a measured block.

        Args:
            delta (Tensor): a sample of ΔW.
            error (Tensor): the rounding error at the same places.
            size: numbers of the whole block.
        """
        flat = delta.flatten()
        self._sums.append((size / max(1, flat.numel()), flat.dot(flat), flat.dot(error.flatten())))
        self._values = None

    def _totals(self) -> tuple[float, float]:
        """(⟨ΔW, ΔW⟩, ⟨rounding error, ΔW⟩). Synchronises with the device once, not at every block."""
        if self._values is None:
            found = torch.stack([t.float() for _, *pair in self._sums for t in pair]).tolist() if self._sums else []
            scales = [scale for scale, _, _ in self._sums]
            squared_norm, lost = (sum(s * x for s, x in zip(scales, found[i::2], strict=True)) for i in (0, 1))
            self._values = squared_norm, lost
        return self._values

    @property
    def squared_norm(self) -> float:
        """‖ΔW‖²; 0 where nothing was measured, since float32 loses nothing."""
        return self._totals()[0]

    @property
    def share(self) -> float:
        """The remaining fraction, from 0 to 1."""
        squared_norm, lost = self._totals()
        if not squared_norm:
            return 1.0
        share = 1.0 - abs(lost) / squared_norm
        return max(0.0, share) if math.isfinite(share) else 0.0


class MeasuredRounding(Protocol):
    """The measured rounding of one weight, as `Rounding` has it."""

    @property
    def share(self) -> float:
        """The remaining fraction, from 0 to 1."""
        ...

    @property
    def squared_norm(self) -> float:
        """‖ΔW‖²."""
        ...


def combined_surviving_share(found: Iterable[MeasuredRounding]) -> float:
    """Combines the shares of several weights, weighted by their ‖ΔW‖².

    Args:
        found: the measurements.

    Returns:
        The share of ΔW that remains, 0 to 1; 1 where nothing was measured.
    """
    rows = [(one.share, one.squared_norm) for one in found]
    total = sum(squared_norm for _, squared_norm in rows)
    return sum(share * squared_norm for share, squared_norm in rows) / total if total else 1.0

"""How much of ΔW is left when W + ΔW is rounded to the dtype that it is stored in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

_SAMPLE = 1 << 14
"""Numbers of a block that are looked at, spread over its rows and columns. 2^14 of 2^20 give the share of a layer to
about one percent, of a file to a tenth of that, and cost a sixth of the block's sum in fp16; blocks up to that size are
measured whole."""
_RUN = 16

ROUNDING_WARNING_SHARE = 0.9
"""Share of ΔW below which its loss is worth a warning."""


def is_lossy_dtype(dtype: torch.dtype) -> bool:
    """Whether rounding to `dtype` can lose ΔW: 8-bit floats, bf16, fp16."""
    return dtype.is_floating_point and torch.finfo(dtype).eps > torch.finfo(torch.float32).eps


def measuring_stride(size: int) -> int:
    """Of `size` numbers every which is looked at. No multiple of 2, 3 or 5, as the lengths of rows are, so that all
    columns have their turn."""
    step = max(1, size // _SAMPLE)
    while step > 1 and not (step % 2 and step % 3 and step % 5):
        step += 1
    return step


def sample_numbers(matrix: Tensor) -> Tensor:
    """Runs of 16 numbers spread over the matrix; single ones would cost a cache line each."""
    flat, step = matrix.flatten(), measuring_stride(matrix.numel())
    run = _RUN * step
    return flat if step == 1 else flat[: len(flat) // run * run].view(-1, run)[:, :_RUN].reshape(-1)


class Rounding:
    """The share of ΔW that survives, of one weight: ⟨W' − W, ΔW⟩ / ⟨ΔW, ΔW⟩ for the stored W', which is how strongly
    the change acts on average; as much above 1 counts as below it. 0: W' is W. Measured on a sample of W."""

    def __init__(self) -> None:
        self._sums: list[tuple[float, Tensor, Tensor]] = []
        self._values: tuple[float, float] | None = None

    def measure(self, weight: Tensor, total: Tensor, dtype: torch.dtype) -> None:
        """Some numbers of W and of W + ΔW (float32), before it is rounded to `dtype`."""
        exact = sample_numbers(total)
        delta = exact - sample_numbers(weight).to(exact.dtype)
        self.add_measured(delta, exact.to(dtype).to(exact.dtype).sub_(exact), total.numel())

    def add_measured(self, delta: Tensor, error: Tensor, size: int) -> None:
        """Some numbers of a ΔW of `size` numbers, and what is in the result there beside it."""
        flat = delta.flatten()
        self._sums.append((size / max(1, flat.numel()), flat.dot(flat), flat.dot(error.flatten())))
        self._values = None

    def _totals(self) -> tuple[float, float]:
        """(⟨ΔW, ΔW⟩, ⟨rounding error, ΔW⟩); waits for the device once, not at every block."""
        if self._values is None:
            found = torch.stack([t.float() for _, *pair in self._sums for t in pair]).tolist() if self._sums else []
            scales = [scale for scale, _, _ in self._sums]
            asked, lost = (sum(s * x for s, x in zip(scales, found[i::2], strict=True)) for i in (0, 1))
            self._values = asked, lost
        return self._values

    @property
    def squared_norm(self) -> float:
        """‖ΔW‖²; 0 where nothing was measured: in float32 nothing is lost."""
        return self._totals()[0]

    @property
    def share(self) -> float:
        """From 0 (nothing of the change is there) to 1."""
        asked, lost = self._totals()
        if not asked:
            return 1.0
        share = 1.0 - abs(lost) / asked
        return max(0.0, share) if math.isfinite(share) else 0.0


class MeasuredRounding(Protocol):
    """What is known of one weight: see `Rounding`."""

    @property
    def share(self) -> float:
        """From 0 to 1."""
        ...

    @property
    def squared_norm(self) -> float:
        """‖ΔW‖²."""
        ...


def combined_surviving_share(found: Iterable[MeasuredRounding]) -> float:
    """The share of several weights together, each by its ‖ΔW‖²."""
    rows = [(one.share, one.squared_norm) for one in found]
    total = sum(asked for _, asked in rows)
    return sum(share * asked for share, asked in rows) / total if total else 1.0

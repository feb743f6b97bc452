"""Computes W + ΔW for baking and merging."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..lowrank import LowRank, concat
from .applied_adapter import AppliedAdapter, split_low_rank_and_dense
from .rounding import Rounding

_BLOCK = 1 << 20
"""Numbers of a weight that are summed at a time on a CPU. They fit its last-level cache, and limit the memory that a
half-precision weight needs in float32. Measured: of 2^15 to 2^20 the largest was the fastest."""


class _Scratch(threading.local):
    """Temporary memory of a sum, kept for each thread.

    Allocated and freed at every layer it would fragment the heap, which grows by megabytes a layer (glibc 2.36).
    """

    def __init__(self) -> None:
        self.memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def copy(self, name: str, source: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Copies `source` into the memory called `name`; into new memory off the CPU or where it is very large."""
        size = source.numel()
        if device.type != "cpu" or size > 4 * _BLOCK:
            return source.to(device, dtype, copy=True)
        if (name, dtype) not in self.memory or len(self.memory[name, dtype]) < size:
            with torch.inference_mode(False):  # it is kept, and written again outside of inference mode
                self.memory[name, dtype] = torch.empty(size, dtype=dtype)
        return self.memory[name, dtype][:size].view(source.shape).copy_(source)


_SCRATCH = _Scratch()
OnBakedRows = Callable[[Tensor], object]
"""Called with each finished block of rows of the result, while it is still in the cache."""


def add_delta(
    weight: Tensor,
    applied: tuple[AppliedAdapter, ...],
    out: Tensor | None = None,
    on_rows: OnBakedRows | None = None,
    rounding: Rounding | None = None,
) -> Tensor:
    """Computes W + Σ weight·ΔW, summed in float32 (float64 where W is) and rounded once to the dtype of the result.

    Baking into a model and merging into a checkpoint both use this function, so that they give the same bits.

    Args:
        weight (Tensor): W, (out, in) or (out, in, kh, kw) or (n,), any float dtype.
        applied: the adapters with their weights (numbers).
        out (Tensor): receives the result; may be `weight` itself. None makes a new tensor of W's dtype.
        on_rows: called with each finished block of rows.
        rounding: measures the fraction of ΔW that remains after rounding.

    Returns:
        The result, `out` where it was given.

    Raises:
        FitError: an adapter does not fit W.
    """
    if out is not None and out.dim() > 2 and not out.is_contiguous():  # channels-last has no view as a matrix
        return out.copy_(add_delta(weight, applied, None, on_rows, rounding))
    if out is None:
        out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for rows in sorted({one.rows for one in applied}, key=lambda r: r or (0, 0)):
        part = slice(*rows) if rows else slice(None)
        acting = tuple(replace(p, rows=None) if rows else p for p in applied if p.rows == rows)
        _add_rows(weight[part], acting, out[part], on_rows, rounding)
    if out is not weight:
        for first, last in _uncovered_rows({one.rows for one in applied}, weight.shape[0]):
            out[first:last].copy_(weight[first:last])
    return out


def _uncovered_rows(spans: set[tuple[int, int] | None], size: int) -> Iterator[tuple[int, int]]:
    """Yields the rows of 0..size that no span covers."""
    if None in spans:
        return
    at = 0
    for first, last in sorted(span for span in spans if span):
        if at < first:
            yield at, first
        at = max(at, last)
    if at < size:
        yield at, size


def _add_rows(
    weight: Tensor,
    applied: tuple[AppliedAdapter, ...],
    out: Tensor,
    on_rows: OnBakedRows | None,
    rounding: Rounding | None,
) -> None:
    """`out` = weight + Σ weight·ΔW of adapters that cover all rows."""
    lows, dense = split_low_rank_and_dense(applied, weight.shape)
    low = concat([one.scale_by_weight(low) for one, low in lows]) if lows else None
    if low is not None and not dense:
        _add_low(weight, low, out, on_rows, rounding)
        return
    deltas = [(one.acting_adapter.delta(weight), one.weight) for one in dense]
    total = weight.to(_wide(weight))
    if low is not None:
        total = _add_low(weight, low, torch.empty(weight.shape, dtype=total.dtype, device=weight.device))
    for delta, factor in deltas:
        total = total + delta.to(total.dtype) * factor
    if rounding is not None and out.dtype != total.dtype:
        rounding.measure(weight, total, out.dtype)
    out.copy_(total)
    if on_rows is not None:
        on_rows(out)


def _wide(weight: Tensor) -> torch.dtype:
    """The dtype in which sums are computed."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _add_low(
    weight: Tensor, low: LowRank, out: Tensor, on_rows: OnBakedRows | None = None, rounding: Rounding | None = None
) -> Tensor:
    """`out` = weight + low, a block of rows at a time."""
    wide = _wide(weight)
    flat, into = weight.flatten(1), out.flatten(1)
    target = (wide, weight.device)
    up, down = _SCRATCH.copy("up", low.up, *target), _SCRATCH.copy("down", low.down.flatten(1), *target)
    up *= low.gain.to(up)
    direct = into.dtype == wide and (into.stride(1) == 1 or into.shape[1] == 1) and into.stride(0) >= into.shape[1]
    step = max(64, _BLOCK // max(1, flat.shape[1]) // 64 * 64) if flat.device.type == "cpu" else len(flat)
    for first in range(0, len(flat), step):
        rows = slice(first, first + step)
        if direct:
            torch.addmm(flat[rows].to(wide), up[rows], down, out=into[rows])
        else:
            total = _SCRATCH.copy("sum", flat[rows], *target).addmm_(up[rows], down)
            if rounding is not None and into.dtype != wide:
                rounding.measure(flat[rows], total, into.dtype)
            into[rows].copy_(total)
        if on_rows is not None:
            on_rows(into[rows])
    return out

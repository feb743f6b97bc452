"""W + ΔW as new values, for swapping in."""

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
"""Numbers of a weight that are summed at a time on a CPU: little enough to stay in its last cache, which is also all
the memory that a half-precision weight needs in float32. Of 2^15 … 2^20 the largest was the fastest."""


class _Scratch(threading.local):
    """Memory for what a sum needs for a moment, kept by each thread.

    Asked for and freed at every layer, it scatters over the heap, which then grows by megabytes a layer (seen with
    glibc 2.36).
    """

    def __init__(self) -> None:
        self.memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def copy(self, name: str, source: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """`source` in other memory, that of `name` where it is on the CPU and not unusually large."""
        size = source.numel()
        if device.type != "cpu" or size > 4 * _BLOCK:
            return source.to(device, dtype, copy=True)
        if (name, dtype) not in self.memory or len(self.memory[name, dtype]) < size:
            self.memory[name, dtype] = torch.empty(size, dtype=dtype)
        return self.memory[name, dtype][:size].view(source.shape).copy_(source)


_SCRATCH = _Scratch()
OnBakedRows = Callable[[Tensor], object]
"""Is shown each block of the result when it is done, still in the cache."""


def add_delta(
    weight: Tensor,
    applied: tuple[AppliedAdapter, ...],
    out: Tensor | None = None,
    on_rows: OnBakedRows | None = None,
    rounding: Rounding | None = None,
) -> Tensor:
    """W + Σ weight·ΔW, summed in float32 (float64 where W is) and rounded once to the dtype of the result.

    Written into `out` where given, which may be W itself. rounding: measures how much of ΔW is left after that. The
    only place that adds ΔW to a weight: what is baked into a model and what is merged into a checkpoint are the same
    bits.
    """
    if out is not None and out.dim() > 2 and not out.is_contiguous():  # moved to channels-last: no matrix of rows
        return out.copy_(add_delta(weight, applied, None, on_rows, rounding))
    if out is None:
        out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for rows in sorted({piece.rows for piece in applied}, key=lambda r: r or (0, 0)):
        part = slice(*rows) if rows else slice(None)
        acting = tuple(replace(p, rows=None) if rows else p for p in applied if p.rows == rows)
        _add_rows(weight[part], acting, out[part], on_rows, rounding)
    if out is not weight:
        for first, last in _uncovered_rows({piece.rows for piece in applied}, weight.shape[0]):
            out[first:last].copy_(weight[first:last])
    return out


def _uncovered_rows(spans: set[tuple[int, int] | None], size: int) -> Iterator[tuple[int, int]]:
    """The rows of 0..size that no span covers."""
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
    """`out` = weight + Σ weight·ΔW of pieces that cover all of it."""
    lows, dense = split_low_rank_and_dense(applied, weight.shape)
    low = concat([piece.scale_by_weight(low) for piece, low in lows]) if lows else None
    if low is not None and not dense:
        _add_low(weight, low, out, on_rows, rounding)
        return
    deltas = [(piece.acting_adapter.delta(weight), piece.weight) for piece in dense]
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
    """The dtype that sums are made in."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _add_low(
    weight: Tensor, low: LowRank, out: Tensor, on_rows: OnBakedRows | None = None, rounding: Rounding | None = None
) -> Tensor:
    """`out` = weight + low, a block of rows at a time."""
    wide = _wide(weight)
    flat, into = weight.flatten(1), out.flatten(1)
    place = (wide, weight.device)
    up, down = _SCRATCH.copy("up", low.up, *place), _SCRATCH.copy("down", low.down.flatten(1), *place)
    up *= low.gain.to(up)
    direct = into.dtype == wide and (into.stride(1) == 1 or into.shape[1] == 1) and into.stride(0) >= into.shape[1]
    step = max(64, _BLOCK // max(1, flat.shape[1]) // 64 * 64) if flat.device.type == "cpu" else len(flat)
    for first in range(0, len(flat), step):
        rows = slice(first, first + step)
        if direct:
            torch.addmm(flat[rows].to(wide), up[rows], down, out=into[rows])
        else:
            total = _SCRATCH.copy("sum", flat[rows], *place).addmm_(up[rows], down)
            if rounding is not None and into.dtype != wide:
                rounding.measure(flat[rows], total, into.dtype)
            into[rows].copy_(total)
        if on_rows is not None:
            on_rows(into[rows])
    return out

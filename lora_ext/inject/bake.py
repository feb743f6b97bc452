"""W + ΔW as new values, for swapping in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..lowrank import concat
from .pieces import Piece, split


def add_delta(weight: Tensor, pieces: tuple[Piece, ...], out: Tensor | None = None) -> Tensor:
    """W + Σ weight·ΔW, summed in float32 and rounded once to W's dtype; written into `out` where given."""
    if out is None:
        out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for rows in sorted({piece.rows for piece in pieces}, key=lambda r: r or (0, 0)):
        part = slice(*rows) if rows else slice(None)
        _add_rows(weight[part], tuple(p for p in pieces if p.rows == rows), out[part])
    untouched = _complement({piece.rows for piece in pieces}, weight.shape[0])
    for first, last in untouched:
        out[first:last].copy_(weight[first:last])
    return out


def _complement(spans: set[tuple[int, int] | None], size: int) -> Iterator[tuple[int, int]]:
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


def _add_rows(weight: Tensor, pieces: tuple[Piece, ...], out: Tensor) -> None:
    """`out` = weight + Σ weight·ΔW of pieces that cover all of it."""
    total = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    lows, dense = split(pieces, weight.shape)
    if lows:
        low = concat([piece.times_weight(low) for piece, low in lows])
        up = (low.up.to(weight.device, total.dtype) * low.gain.to(weight.device, total.dtype)).contiguous()
        down = low.down.to(weight.device, total.dtype).flatten(1)
        direct = out.dtype == total.dtype and out.is_contiguous() and not dense
        flat = torch.addmm(total.flatten(1), up, down, out=out.view(out.shape[0], -1) if direct else None)
        if direct:
            return
        total = flat.view(weight.shape)
    for piece in dense:
        total = total + piece.acting.delta(weight).to(total.dtype) * piece.weight
    out.copy_(total)

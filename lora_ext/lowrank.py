"""The one idea: every low-rank file is, at every layer, ΔW = U · diag(g) · D.

U has shape (out, r), g (r,) or (batch, r), D (r, in/groups, *kernel). Everything that a user can turn
(alpha/rank, a prompt's weight, a block weight, a step schedule, a DyLoRA rank) touches only g.
This is the only place that holds the formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import FitError


@dataclass(frozen=True)
class LowRank:
    """ΔW = up · diag(gain) · down.

    up: (out, r). gain: (r,), or (batch, r) where each picture of a batch has its own weights.
    down: (r, in) for Linear, (r, in/groups, kh, kw) for Conv2d.
    Raises FitError when the ranks of the three disagree.
    """

    up: Tensor
    gain: Tensor
    down: Tensor

    def __post_init__(self) -> None:
        up, gain, down = self.up.shape, self.gain.shape, self.down.shape
        if len(up) != 2 or len(down) < 2 or not up[1] == gain[-1] == down[0]:
            shapes = ", ".join(str(tuple(t.shape)) for t in (self.up, self.gain, self.down))
            raise FitError(f"up, gain and down do not share one rank: {shapes}")

    @property
    def rank(self) -> int:
        """r, the number of columns of U."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW: (out, in/groups, *kernel)."""
        return (self.up.shape[0], *self.down.shape[1:])

    @classmethod
    def from_factors(
        cls, up: Tensor, down: Tensor, *, alpha: float | None = None, mid: Tensor | None = None
    ) -> LowRank:
        """From stored factors: up (out, r[, 1, 1]), down (r, in[, kh, kw]), alpha (None means r).

        A Tucker core mid (r, r, kh, kw) folds into D (format: LyCORIS, `lora_mid`); the gain is alpha/r.
        """
        up = up.flatten(1)
        rank = down.shape[0]
        if mid is not None:
            down = torch.einsum("nm...,mi->ni...", mid.float(), down.flatten(1).float())
        gain = torch.full((up.shape[1],), 1.0 if alpha is None else alpha / rank)
        return cls(up, gain, down)

    def delta(self) -> Tensor:
        """ΔW in float32, shape `self.shape`; (batch, *shape) for a batched gain."""
        up, down = self.up.float(), self.down.flatten(1).float()
        scaled = up * self.gain.float().unsqueeze(-2)
        return (scaled @ down).unflatten(-1, self.down.shape[1:])

    def times(self, factor: float | Tensor) -> LowRank:
        """factor · ΔW; factor is a number, or a (batch, 1) column with one number a picture."""
        return replace(self, gain=self.gain * factor)

    def truncated(self, rank: int) -> LowRank:
        """The first `rank` columns, gains kept: a DyLoRA prefix, or `dyn` in a prompt."""
        return LowRank(self.up[:, :rank], self.gain[..., :rank], self.down[:rank])

    def to_tensors(self, alpha: float | None = None) -> dict[str, Tensor]:
        """Suffix → float32 tensor for a file: `of(up, down, alpha=alpha)` is this ΔW. alpha: None means r.

        |gain| goes into both factors by its square root, which keeps them away from fp16's limits, its sign into U.
        Where all gains are alpha/r the factors are the very ones. A layer without alpha could not be merged by
        kohya's scripts, so one is always written.
        """
        alpha = float(self.rank) if alpha is None else alpha
        gain = self.gain.double() * (self.rank / alpha)
        root = torch.where((gain.abs() - 1).abs() < 1e-7, 1.0, gain.abs().sqrt())
        up = (self.up.double() * (root * gain.sign())).float()
        down = (self.down.flatten(1).double() * root[:, None]).float().reshape(self.down.shape)
        up = up.reshape(*up.shape, *[1] * (down.dim() - 2))
        return {
            "lora_up.weight": up.contiguous(),
            "lora_down.weight": down.contiguous(),
            "alpha": torch.tensor(alpha),
        }

    def reshaped(self, shape: Sequence[int]) -> LowRank:
        """The same ΔW for a layer weight of `shape`: a 1x1 kernel is added or dropped.

        Raises FitError when the numbers cannot be laid out so.
        """
        shape = tuple(shape)
        if self.shape == shape:
            return self
        if self.up.shape[0] != shape[0] or self.down[0].numel() != torch.Size(shape[1:]).numel():
            raise FitError(f"ΔW has shape {self.shape}, the layer's weight {shape}")
        return replace(self, down=self.down.reshape(self.rank, *shape[1:]))

    def frobenius(self) -> float:
        """‖ΔW‖ without forming ΔW: sqrt of ⟨UᵀU, g·(DDᵀ)·g⟩, two r×r Gram matrices, in float64."""
        up = (self.up.float() * self.gain.float()).double()
        down = self.down.flatten(1).double()
        return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())


def concat(parts: Sequence[LowRank]) -> LowRank:
    """ΣΔW as one LowRank: ranks add, and one pass through the layer applies all of them.

    Factors of different dtypes become float32. Raises FitError on different layer shapes.
    """
    if len(parts) == 1:
        return parts[0]
    if len({p.shape for p in parts}) != 1:
        raise FitError(f"cannot concatenate ΔW of shapes {sorted({p.shape for p in parts})}")
    batch = max(p.gain.dim() for p in parts)
    gains = [p.gain if p.gain.dim() == batch else p.gain.unsqueeze(0) for p in parts]
    if batch == 2:
        size = max(g.shape[0] for g in gains)
        gains = [g.expand(size, -1) for g in gains]
    return LowRank(
        _joined([p.up for p in parts], dim=1),
        torch.cat(gains, dim=-1),
        _joined([p.down for p in parts], dim=0),
    )


def _joined(factors: Sequence[Tensor], dim: int) -> Tensor:
    """Side by side; torch promotes no 8-bit floats, so different dtypes go through float32."""
    mixed = len({f.dtype for f in factors}) > 1
    return torch.cat([f.float() if mixed else f for f in factors], dim=dim)


def mean_factors(parts: Sequence[LowRank], scales: Sequence[float]) -> LowRank:
    """(Σ|sᵢ|Uᵢ)·(ΣsᵢDᵢ) of parts of one shape and rank: the older scripts' merge, with its cross terms UᵢDⱼ."""
    up = torch.stack([part.up.float() * abs(s) for part, s in zip(parts, scales, strict=True)]).sum(0)
    down = torch.stack([part.down.float() * s for part, s in zip(parts, scales, strict=True)]).sum(0)
    return LowRank(up, torch.ones(up.shape[1]), down)


def clamped(low: LowRank, quantile: float) -> LowRank:
    """U·diag(g) and D clipped to ± the quantile of all their (signed) entries, as kohya's scripts clip them."""
    up, down = low.up.float() * low.gain.float(), low.down.float()
    entries = torch.cat([up.flatten(), down.flatten()]).sort().values
    # as torch.quantile, which takes no more than 2^24 entries
    place = quantile * (len(entries) - 1)
    at = min(math.floor(place), len(entries) - 2)
    bound = abs(float(torch.lerp(entries[at], entries[at + 1], place - at)))
    return LowRank(up.clamp(-bound, bound), torch.ones_like(low.gain), down.clamp(-bound, bound))


# --- best approximations ---------------------------------------------------------------------------------------------

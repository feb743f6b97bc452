"""`LowRank`: the change of a layer's weight as ΔW = U · diag(g) · D. Only this module multiplies the three.

U has shape (out, r), g (r,) or (batch, r), D (r, in/groups, *kernel). Everything that scales a LoRA (alpha/rank, the
prompt's weight, block weights, step schedules, a DyLoRA rank) changes only g.
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

    Attributes:
        up (Tensor): (out, r).
        gain (Tensor): (r,), or (batch, r) where each image of a batch has its own weights.
        down (Tensor): (r, in) for Linear, (r, in/groups, kh, kw) for Conv2d.

    Raises:
        FitError: the three do not share one rank.

    Example:
        >>> low = LowRank(torch.ones(4, 2), torch.tensor([1.0, 0.5]), torch.ones(2, 3))
        >>> low.rank, low.shape, low.delta()[0, 0].item()
        (2, (4, 3), 1.5)
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
        """The rank r, the number of columns of U."""
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of ΔW: (out, in/groups, *kernel)."""
        return (self.up.shape[0], *self.down.shape[1:])

    @classmethod
    def from_factors(
        cls,
        up: Tensor,
        down: Tensor,
        *,
        alpha: float | None = None,
        scale: float | None = None,
        mid: Tensor | None = None,
    ) -> LowRank:
        """Makes a `LowRank` from the factors of a file. The gain is alpha/r, or `scale`.

        Args:
            up (Tensor): (out, r) or (out, r, 1, 1).
            down (Tensor): (r, in) or (r, in, kh, kw); with `mid` (r, in) or (r, in, 1, 1).
            alpha: the LoRA alpha; None means r.
            scale: the gain itself, in place of alpha/r.
            mid (Tensor): (r, r, kh, kw), the Tucker core of LyCORIS (`lora_mid`), which is multiplied into D.

        Returns:
            ΔW of rank r.
        """
        up = up.flatten(1)
        rank = down.shape[0]
        if mid is not None:
            down = torch.einsum("nm...,mi->ni...", mid.float(), down.flatten(1).float())
        if scale is None:
            scale = 1.0 if alpha is None else alpha / rank
        return cls(up, torch.full((up.shape[1],), scale), down)

    def delta(self) -> Tensor:
        """Computes ΔW.

        Returns:
            Float32 tensor of shape `self.shape`, or (batch, *self.shape) for a gain of shape (batch, r).
        """
        up, down = self.up.float(), self.down.flatten(1).float()
        scaled = up * self.gain.float().unsqueeze(-2)
        return (scaled @ down).unflatten(-1, self.down.shape[1:])

    def times(self, factor: float | Tensor) -> LowRank:
        """Scales ΔW.

        Args:
            factor (float | Tensor): a number, or (batch, 1) with one number for each image.

        Returns:
            The scaled ΔW; with a tensor its gain has shape (batch, r).
        """
        return replace(self, gain=self.gain * factor)

    def truncated(self, rank: int) -> LowRank:
        """Keeps the first columns with their gains: a DyLoRA prefix, or `dyn` in a prompt.

        Args:
            rank: how many columns to keep.

        Returns:
            ΔW of at most this rank.
        """
        return LowRank(self.up[:, :rank], self.gain[..., :rank], self.down[:rank])

    def to_tensors(self, alpha: float | None = None) -> dict[str, Tensor]:
        """Makes the tensors that a file stores: `from_factors(up, down, alpha=alpha)` gives this ΔW again.

        The square root of |gain| is multiplied into both factors, which keeps them within the range of fp16; its sign
        is multiplied into U. Where all gains are alpha/r the factors do not change. Alpha is always written, since
        kohya's scripts cannot merge a layer without it.

        Args:
            alpha: the LoRA alpha to write; None means r.

        Returns:
            Suffix → float32 tensor: `lora_up.weight` (out, r) or (out, r, 1, 1), `lora_down.weight` (r, in, *kernel),
            `alpha` ().
        """
        alpha = float(self.rank) if alpha is None else alpha
        gains = self.gain.cpu().double() * (self.rank / alpha)
        sizes = gains.abs()
        roots = torch.where((sizes - 1).abs() < 1e-7, 1.0, sizes.sqrt())
        up = self.up.float() * roots.copysign(gains).float().to(self.up.device)
        down = self.down.float() * roots.float().to(self.down.device).view(-1, *[1] * (self.down.dim() - 1))
        up = up.reshape(*up.shape, *[1] * (down.dim() - 2))
        return {
            "lora_up.weight": up.contiguous(),
            "lora_down.weight": down.contiguous(),
            "alpha": torch.tensor(alpha),
        }

    def reshaped(self, shape: Sequence[int]) -> LowRank:
        """Gives ΔW the shape of a layer's weight: a 1x1 kernel is added or dropped.

        Args:
            shape: shape of the layer's weight.

        Returns:
            The same ΔW in that shape.

        Raises:
            FitError: ΔW has another number of rows or columns.
        """
        shape = tuple(shape)
        if self.shape == shape:
            return self
        if self.up.shape[0] != shape[0] or self.down[0].numel() != torch.Size(shape[1:]).numel():
            raise FitError(f"ΔW has shape {self.shape}, but the layer's weight has {shape}")
        return replace(self, down=self.down.reshape(self.rank, *shape[1:]))

    def frobenius(self) -> float:
        """Computes the Frobenius norm ‖ΔW‖ without forming ΔW.

        ‖ΔW‖² = ⟨gUᵀUg, DDᵀ⟩, a product of two r×r Gram matrices, computed in float64.
        """
        up = (self.up.float() * self.gain.float()).double()
        down = self.down.flatten(1).double()
        return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())


def concat(parts: Sequence[LowRank]) -> LowRank:
    """Concatenates several ΔW of one layer along the rank: the result's ΔW is their sum.

    Args:
        parts: at least one `LowRank`; factors of different dtypes become float32.

    Returns:
        One `LowRank` whose rank is the sum of ranks.

    Raises:
        FitError: the shapes of ΔW differ.
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
    """Concatenates factors; different dtypes go through float32, since torch cannot promote 8-bit floats."""
    mixed = len({f.dtype for f in factors}) > 1
    return torch.cat([f.float() if mixed else f for f in factors], dim=dim)


def mean_factors(parts: Sequence[LowRank], scales: Sequence[float]) -> LowRank:
    """Computes (Σ|sᵢ|Uᵢ)·(ΣsᵢDᵢ), as older merge scripts do; the product contains cross terms UᵢDⱼ.

    Args:
        parts: `LowRank`s of one shape and rank.
        scales: sᵢ, one for each part.

    Returns:
        ΔW of the same shape and rank, with gains of 1.
    """
    up = torch.stack([part.up.float() * abs(s) for part, s in zip(parts, scales, strict=True)]).sum(0)
    down = torch.stack([part.down.float() * s for part, s in zip(parts, scales, strict=True)]).sum(0)
    return LowRank(up, torch.ones(up.shape[1]), down)


def clamped(low: LowRank, quantile: float) -> LowRank:
    """Clips U·diag(g) and D to ± a quantile of all their signed entries (kohya's `extract_lora_from_models.py`).

    Args:
        low: the ΔW.
        quantile: from 0 to 1, such as 0.99.

    Returns:
        ΔW of the same shape and rank, with gains of 1.
    """
    up, down = low.up.float() * low.gain.float(), low.down.float()
    entries = torch.cat([up.flatten(), down.flatten()]).sort().values
    # linear interpolation as in torch.quantile, which accepts at most 2^24 entries
    position = quantile * (len(entries) - 1)
    index = min(math.floor(position), len(entries) - 2)
    bound = abs(float(torch.lerp(entries[index], entries[index + 1], position - index)))
    return LowRank(up.clamp(-bound, bound), torch.ones_like(low.gain), down.clamp(-bound, bound))


# --- best approximations ---------------------------------------------------------------------------------------------

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

from .errors import FitError, ToolError, did_you_mean
from .singular_values import accurate_dtype, eigen, frobenius, krylov, leading_eigenpairs, left_singular_vectors


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

DYNAMIC_RANK_METHODS = ("sv_ratio", "sv_fro", "sv_cumulative")
"""Rules that choose a rank from the singular values (kohya's `resize_lora.py`)."""


@dataclass(frozen=True)
class RankRule:
    """How many singular values to keep: `rank` of them, or as many as `method` says with `param`, at most `rank`.

    sv_ratio: those above S₀/param; sv_fro: until the share of the Frobenius norm is param; sv_cumulative: until the
    share of their sum is param. Each keeps one more than that and at least two, as kohya's script does; a zero matrix
    keeps one. Raises ToolError for what cannot be meant.
    """

    rank: int
    method: str | None = None
    param: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ToolError(f"a rank is at least 1, not {self.rank}")
        if self.method is None:
            return
        if self.method not in DYNAMIC_RANK_METHODS:
            raise ToolError(f"unknown dynamic method {self.method!r}{did_you_mean(self.method, DYNAMIC_RANK_METHODS)}")
        if self.method == "sv_ratio":
            if not self.param > 1:
                raise ToolError(f"sv_ratio takes a number above 1, such as 5, not {self.param:g}")
        elif not 0 < self.param <= 1:
            raise ToolError(f"{self.method} takes a share between 0 and 1, not {self.param:g}")

    def choose_rank(self, values: Tensor, size: int | None = None) -> int:
        """How many of `values` (singular, falling) to keep; `size`: min(out, in·kh·kw) where the zeros are left out."""
        size, values = size or len(values), values.float()
        if self.method is None:
            return min(self.rank, len(values)) if float(values[0]) else 1
        if not float(values[0]) > 1e-6:
            return 1
        if self.method == "sv_ratio":
            index = int((values > values[0] / self.param).sum())
        else:
            powers, share = (values, self.param) if self.method == "sv_cumulative" else (values**2, self.param**2)
            index = int(torch.searchsorted(powers.cumsum(0) / float(powers.sum()), share)) + 1
        return min(max(1, min(index, size - 1)) + 1, self.rank, len(values))


@dataclass(frozen=True)
class LowRankApproximation:
    """The best approximation of a ΔW at its rank: gains are the singular values, U and D have orthonormal vectors.

    values: the singular values that were computed (all of them, or the first for a fixed rank of a large matrix).
    norm: ‖ΔW‖ (Frobenius). kept: ‖approximation‖/‖ΔW‖; 1 for a zero ΔW.
    """

    low_rank: LowRank
    values: Tensor
    norm: float
    kept: float


def reduce_rank(low: LowRank, rule: RankRule | int) -> LowRankApproximation:
    """The best approximation of U·diag(g)·D at a rank, by r×r matrices; ΔW is never formed.

    With ΔW = L·Rᵀ, L = Q·R_l and G = RᵀR: R_l·G·R_lᵀ has the squared singular values, and for its eigenvectors y the
    columns of R·W, W = R_lᵀ·y/s, are right singular vectors, those of L·(G·W) left ones times s (Golub & Van Loan
    §5.4; Eckart–Young). For a small fixed rank R_l and G come from products in float32 where these are exact enough,
    else from QR's. Time O(r²(m+n)), memory O(r(m+n)). The rank is at most min(r, m, n). Raises ToolError for NaN or
    infinity.
    """
    rule = RankRule(rule) if isinstance(rule, int) else rule
    left, gain, right = low.up.float(), low.gain.float(), low.down.flatten(1).float().T
    size = min(left.shape[0], right.shape[0])
    core = None
    if rule.method is None and 2 * rule.rank <= min(low.rank, size):
        core = _quick_core(_gram(left) * gain.outer(gain), _gram(right), rule, size)
    if core is None:
        r_left, r_right = (torch.linalg.qr(side, mode="r")[1].to(accurate_dtype(side)) for side in (left * gain, right))
        core = _core(r_left, r_right.T @ r_right, rule, size)
    up, down = left @ (gain[:, None] * core.left.float()), core.right.float().T @ right.T
    return _approximation(up, core.values, down.reshape(-1, *low.shape[1:]), core.norm)


@dataclass(frozen=True)
class _Core:
    """ΔW ≈ (L·left)·diag(values)·(R·right)ᵀ of ΔW = L·Rᵀ; `values` may hold more than are used. norm: ‖ΔW‖."""

    values: Tensor
    left: Tensor
    right: Tensor
    norm: float


def _quick_core(gram_left: Tensor, gram_right: Tensor, rule: RankRule, size: int) -> _Core | None:
    """The core from LᵀL and RᵀR in float32; None where what they round away counts in the error, or is all of it."""
    r_left, failed = torch.linalg.cholesky_ex(gram_left, upper=True)
    reach = float((gram_left.diagonal() * gram_right.diagonal()).sqrt().sum()) ** 2
    if int(failed) or not reach < 1e30:
        return None
    core = _core(r_left, gram_right, rule, size)
    lost = core.norm**2 - float(core.values[: core.left.shape[1]].double().square().sum())
    return core if 6e-8 * reach <= 3e-4 * lost else None


def _core(r_left: Tensor, gram: Tensor, rule: RankRule, size: int) -> _Core:
    """The core of R_l and G = RᵀR (`reduce_rank`). size: min(m, n). Raises ToolError for NaN or infinity."""
    square = r_left @ gram @ r_left.T
    if not math.isfinite(float(square.sum())):
        raise ToolError("NaN or infinity")
    norm = math.sqrt(max(float(square.diagonal().sum()), 0.0))
    squares, vectors = eigen(square) if rule.method is not None else leading_eigenpairs(square, rule.rank)
    values = squares.sqrt()[:size]
    rank = rule.choose_rank(values, size)
    # what is zero but for rounding has no direction
    least = max(1e-7 * float(values[0]), torch.finfo(torch.float32).tiny)
    right = r_left.T @ (vectors[:, :rank].to(square) / values[:rank].to(square).clamp(min=least))
    # whatever the vectors, what is best among them is exact
    left = gram @ right
    image = r_left @ left
    squares, turn = eigen(image.T @ image)
    gains, turn = squares.sqrt(), turn.to(square)
    left = left @ turn / gains.to(square).clamp(min=least)
    return _Core(torch.cat([gains, values[rank:]]), left, right @ turn, norm)


def _gram(side: Tensor) -> Tensor:
    """AᵀA, wide ones by halves, where one corner is the other's transpose."""
    half = side.shape[1] // 2
    if half < 64:
        return side.T @ side
    one, two = side[:, :half], side[:, half:]
    corner = one.T @ two
    return torch.cat([torch.cat([_gram(one), corner], dim=1), torch.cat([corner.T, _gram(two)], dim=1)])


def approximate_delta(delta: Tensor, rule: RankRule | int) -> LowRankApproximation:
    """The best approximation of a dense ΔW (out, in, *kernel) at a rank.

    Large matrices at a small fixed rank: block Krylov subspaces (Musco & Musco 2015, arXiv 1504.05477) until the
    error is within 1e-4 of the least. Else the eigenvectors of the Gram matrix of the shorter side: in
    float32 as near, in float64 with singular values right to 1e-8 of the largest. Raises ToolError for NaN or infinity.
    """
    rule = RankRule(rule) if isinstance(rule, int) else rule
    matrix = delta.flatten(1).float()
    norm = frobenius(matrix)
    if not math.isfinite(norm):
        raise ToolError("NaN or infinity")
    turned = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if turned else matrix
    rest: Tensor | None = None
    if rule.method is None and matrix.shape[0] >= 512 and rule.rank * 6 <= matrix.shape[0]:
        basis, thin = krylov(matrix, rule.rank, norm)
        rank = rule.rank if norm else 1
    else:
        rest, basis = _all_left(matrix, rule, norm)
        rank = rule.choose_rank(rest, matrix.shape[0])
        basis = basis[:, :rank].to(matrix)
        thin = basis.T @ matrix
    # whatever the basis, the SVD of the thin projection is exact
    values, turn = left_singular_vectors(thin)
    turn = turn[:, :rank].to(matrix)
    short, long = basis @ turn, turn.T @ thin
    long = long / values[:rank, None].to(matrix).clamp(min=torch.finfo(torch.float32).tiny)
    up, down = (long.T, short.T) if turned else (short, long)
    values = values[:rank] if rest is None else torch.cat([values[:rank], rest[rank:].to(values)])
    return _approximation(up, values, down.reshape(-1, *delta.shape[1:]), norm)


def _all_left(matrix: Tensor, rule: RankRule, norm: float) -> tuple[Tensor, Tensor]:
    """(singular values, left singular vectors) of M; in float32 where a fixed rank leaves out far more than it."""
    if rule.method is None:
        squares, vectors = eigen(matrix @ matrix.T)
        if float(squares[rule.rank :].double().sum()) > 1e-3 * rule.rank * norm**2:
            return squares.sqrt(), vectors
    return left_singular_vectors(matrix)


def _approximation(up: Tensor, values: Tensor, down: Tensor, norm: float) -> LowRankApproximation:
    rank = up.shape[1]
    kept = float(torch.linalg.vector_norm(values[:rank])) / norm if norm else 1.0
    return LowRankApproximation(LowRank(up, values[:rank].float(), down), values.float(), norm, min(1.0, kept))

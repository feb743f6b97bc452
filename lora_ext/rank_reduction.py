"""Best approximations of a low rank: truncated SVD of U·diag(g)·D without forming it, and of a dense ΔW."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ToolError, did_you_mean
from .lowrank import LowRank
from .singular_values import accurate_dtype, eigen, frobenius, krylov, leading_eigenpairs, left_singular_vectors

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

"""Best approximations of a low rank: truncated SVD of U·diag(g)·D without forming it, and of a dense ΔW."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import ToolError, did_you_mean
from .lowrank import LowRank
from .singular_values import accurate_dtype, eigen, frobenius, krylov, leading_eigenpairs, left_singular_vectors

DYNAMIC_RANK_METHODS = ("sv_ratio", "sv_fro", "sv_cumulative")
"""Rules that choose a rank from the singular values (kohya's `resize_lora.py`)."""


@dataclass(frozen=True)
class RankRule:
    """How many singular values to keep (kohya's `resize_lora.py`).

    A dynamic method keeps one value more than its rule says, and at least two, as kohya's script does. A zero matrix
    keeps one.

    Attributes:
        rank: the number of values, or with a method the largest number.
        method: None for a fixed rank; "sv_ratio": values above S₀/param; "sv_fro": as many as hold the fraction
            `param` of the Frobenius norm; "sv_cumulative": as many as hold the fraction `param` of the sum.
        param: above 1 for sv_ratio, above 0 and at most 1 for the others.

    Raises:
        ToolError: a value is not accepted.

    Example:
        >>> RankRule(4).choose_rank(torch.tensor([4.0, 2.0, 1.0]))
        3
    """

    rank: int
    method: str | None = None
    param: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ToolError(f"the rank is {self.rank}; it must be at least 1")
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
        """Chooses the rank to keep.

        Args:
            values (Tensor): (n,) singular values in falling order.
            size: min(out, in·kh·kw) of the layer, where `values` leaves out zeros; by default n.

        Returns:
            A rank from 1 to `rank`.
        """
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
    """The best approximation of a ΔW at some rank.

    Attributes:
        low_rank: the approximation. Its gains are singular values; the columns of U and the rows of D are orthonormal.
        values (Tensor): (n,) the computed singular values of ΔW: all of them, or the first ones for a fixed rank of a
            large matrix.
        norm: ‖ΔW‖ (Frobenius).
        kept: ‖approximation‖/‖ΔW‖; 1 for a zero ΔW.
    """

    low_rank: LowRank
    values: Tensor
    norm: float
    kept: float


def reduce_rank(low: LowRank, rule: RankRule | int) -> LowRankApproximation:
    """Computes the best approximation of U·diag(g)·D at a rank, from r×r matrices; ΔW is never formed.

    With ΔW = L·Rᵀ, L = Q·R_l and G = RᵀR, the matrix R_l·G·R_lᵀ has the squared singular values s². For its
    eigenvectors y and W = R_lᵀ·y/s, the columns of R·W are the right singular vectors, and those of L·(G·W) are the
    left ones times s (Golub & Van Loan §5.4; Eckart–Young). For a small fixed rank, R_l and G come from products in
    float32 where these are exact enough, otherwise from QR. Time O(r²(m+n)), memory O(r(m+n)).

    Args:
        low: a ΔW of rank r with m outputs and n inputs (times kernel); its gain is (r,).
        rule: the rule, or a fixed rank.

    Returns:
        The approximation; its rank is at most min(r, m, n).

    Raises:
        ToolError: ΔW contains NaN or infinity.
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
    """ΔW ≈ (L·left)·diag(values)·(R·right)ᵀ for ΔW = L·Rᵀ. `values` may have more entries than are used.

    left, right: (r, rank); norm: ‖ΔW‖.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    norm: float


def _quick_core(gram_left: Tensor, gram_right: Tensor, rule: RankRule, size: int) -> _Core | None:
    """Computes the core from LᵀL and RᵀR in float32; None where their rounding would count in the error."""
    r_left, failed = torch.linalg.cholesky_ex(gram_left, upper=True)
    reach = float((gram_left.diagonal() * gram_right.diagonal()).sqrt().sum()) ** 2
    if int(failed) or not reach < 1e30:
        return None
    core = _core(r_left, gram_right, rule, size, is_quick=True)
    lost = core.norm**2 - float(core.values[: core.left.shape[1]].double().square().sum())
    # 6e-8 is float32's rounding: it may be at most 3e-4 of the squared error that the rank leaves anyway
    return core if 6e-8 * reach <= 3e-4 * lost else None


def _core(r_left: Tensor, gram: Tensor, rule: RankRule, size: int, *, is_quick: bool = False) -> _Core:
    """Computes the core from R_l and G = RᵀR (see `reduce_rank`). size: min(m, n). Raises ToolError for NaN."""
    square = _product_around(r_left, gram)
    if not math.isfinite(float(square.sum())):
        raise ToolError("NaN or infinity")
    norm = math.sqrt(max(float(square.diagonal().sum()), 0.0))
    squares, vectors = eigen(square) if rule.method is not None else leading_eigenpairs(square, rule.rank)
    values = squares.sqrt()[:size]
    rank = rule.choose_rank(values, size)
    # a singular value that is zero except for rounding has no direction: do not divide by it
    least = max(1e-7 * float(values[0]), torch.finfo(torch.float32).tiny)
    right = r_left.T @ (vectors[:, :rank].to(square) / values[:rank].to(square).clamp(min=least))
    left = gram @ right
    if is_quick and len(squares) == len(square):  # all eigenpairs, and those that are kept are far from zero
        return _Core(values, left / values[:rank].clamp(min=least), right, norm)
    # whatever these vectors miss, the best combination of them is exact (Rayleigh–Ritz)
    image = r_left @ left
    squares, rotation = eigen(image.T @ image)
    gains, rotation = squares.sqrt(), rotation.to(square)
    left = left @ rotation / gains.to(square).clamp(min=least)
    return _Core(torch.cat([gains, values[rank:]]), left, right @ rotation, norm)


_BLOCK = 128
"""Rows of a symmetric matrix that are computed at a time, from the diagonal on. Fewer rows make slower products."""


def _gram(side: Tensor) -> Tensor:
    """AᵀA. NumPy computes one side of the diagonal only (BLAS's syrk, of which torch has no call)."""
    if side.device.type != "cpu":
        return side.T @ side
    array = side.numpy()
    with np.errstate(all="ignore"):  # NaN and infinity are found in the result
        return torch.from_numpy(array.T @ array)


def _product_around(upper: Tensor, gram: Tensor) -> Tensor:
    """R·G·Rᵀ of an upper triangular R and a symmetric G."""
    size = len(upper)
    if size <= _BLOCK:
        return upper @ gram @ upper.T
    product = gram.new_empty(size, size)
    for start in range(0, size, _BLOCK):
        end = start + _BLOCK
        rows = upper[start:end, start:] @ gram[start:, start:]
        torch.mm(rows, upper[start:, start:].T, out=product[start:end, start:])
        product[end:, start:end] = product[start:end, end:].T
    return product


def approximate_delta(delta: Tensor, rule: RankRule | int) -> LowRankApproximation:
    """Computes the best approximation of a dense ΔW at a rank.

    Large matrices at a small fixed rank use block Krylov subspaces (Musco & Musco 2015, arXiv 1504.05477) until the
    error is within 1e-4 of the least possible. Others use the eigenvectors of the Gram matrix of the shorter side: in
    float32 where that is as close, otherwise in float64, with singular values exact to 1e-8 of the largest.

    Args:
        delta (Tensor): (out, in) or (out, in, kh, kw).
        rule: the rule, or a fixed rank.

    Returns:
        The approximation.

    Raises:
        ToolError: ΔW contains NaN or infinity.
    """
    rule = RankRule(rule) if isinstance(rule, int) else rule
    matrix = delta.flatten(1).float()
    norm = frobenius(matrix)
    if not math.isfinite(norm):
        raise ToolError("NaN or infinity")
    is_transposed = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if is_transposed else matrix
    rest: Tensor | None = None
    if rule.method is None and matrix.shape[0] >= 512 and rule.rank * 6 <= matrix.shape[0]:
        basis, thin = krylov(matrix, rule.rank, norm)
        rank = rule.rank if norm else 1
    else:
        rest, basis = _all_left(matrix, rule, norm)
        rank = rule.choose_rank(rest, matrix.shape[0])
        basis = basis[:, :rank].to(matrix)
        thin = basis.T @ matrix
    # whatever the basis misses, the SVD of the projection onto it is exact
    values, rotation = left_singular_vectors(thin)
    rotation = rotation[:, :rank].to(matrix)
    short, long = basis @ rotation, rotation.T @ thin
    long = long / values[:rank, None].to(matrix).clamp(min=torch.finfo(torch.float32).tiny)
    up, down = (long.T, short.T) if is_transposed else (short, long)
    values = values[:rank] if rest is None else torch.cat([values[:rank], rest[rank:].to(values)])
    return _approximation(up, values, down.reshape(-1, *delta.shape[1:]), norm)


def _all_left(matrix: Tensor, rule: RankRule, norm: float) -> tuple[Tensor, Tensor]:
    """(singular values, left singular vectors) of M; in float32 where the rank leaves out far more than it rounds."""
    if rule.method is None:
        squares, vectors = eigen(matrix @ matrix.T)
        if float(squares[rule.rank :].double().sum()) > 1e-3 * rule.rank * norm**2:
            return squares.sqrt(), vectors
    return left_singular_vectors(matrix)


def _approximation(up: Tensor, values: Tensor, down: Tensor, norm: float) -> LowRankApproximation:
    rank = up.shape[1]
    kept = float(torch.linalg.vector_norm(values[:rank])) / norm if norm else 1.0
    return LowRankApproximation(LowRank(up, values[:rank].float(), down), values.float(), norm, min(1.0, kept))

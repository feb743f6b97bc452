"""Best approximations of a low rank: truncated SVD of U·diag(g)·D without forming it, and of a dense ΔW."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    """Computes the best approximation of U·diag(g)·D at a rank: see `reduce_ranks`.

    Args:
        low: a ΔW of rank r with m outputs and n inputs (times kernel); its gain is (r,).
        rule: the rule, or a fixed rank.

    Returns:
        The approximation; its rank is at most min(r, m, n).

    Raises:
        ToolError: ΔW contains NaN or infinity.
    """
    return next(reduce_ranks([low], [rule]))


def reduce_ranks(lows: Sequence[LowRank], rules: Sequence[RankRule | int]) -> Iterator[LowRankApproximation]:
    """Computes the best approximations of several U·diag(g)·D from r×r matrices; no ΔW is formed.

    With ΔW = L·Rᵀ, L = Q·R_l and G = RᵀR, the matrix R_l·G·R_lᵀ has the squared singular values s². For its
    eigenvectors y and W = R_lᵀ·y/s, the columns of R·W are the right singular vectors, and those of L·(G·W) are the
    left ones times s (Golub & Van Loan §5.4; Eckart–Young). For a small fixed rank, R_l and G come from products in
    float32 where these are exact enough, otherwise from QR; all ΔW of one rank go through LAPACK and the small products
    together. Time O(r²(m+n)), memory O(r(m+n)) of all of them.

    Args:
        lows: as in `reduce_rank`, on one device.
        rules: the rule of each, or a fixed rank.

    Yields:
        The approximation of each, in order.

    Raises:
        ToolError: the next ΔW contains NaN or infinity.
    """
    wanted = [RankRule(rule) if isinstance(rule, int) else rule for rule in rules]
    sides = [(low.up.float(), low.gain.float(), low.down.flatten(1).float().T) for low in lows]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (low, rule) in enumerate(zip(lows, wanted, strict=True)):
        if rule.method is None and 2 * rule.rank <= min(low.rank, *(len(side) for side in sides[index][::2])):
            groups.setdefault((low.rank, rule.rank), []).append(index)
    cores: dict[int, _Core | None] = {}
    for (_, rank), indices in groups.items():
        lefts, gains, rights = zip(*(sides[index] for index in indices), strict=True)
        gain = torch.stack(gains)
        gram_left = _grams(lefts) * (gain[:, :, None] * gain[:, None, :])
        cores.update(zip(indices, _quick_cores(gram_left, _grams(rights), rank), strict=True))
    for index, (low, (left, gain, right)) in enumerate(zip(lows, sides, strict=True)):
        core = cores.get(index) or _accurate_core(left * gain, right, wanted[index])
        up, down = left @ (gain[:, None] * core.left.float()), core.right.float().T @ right.T
        yield _approximation(up, core.values, down.reshape(-1, *low.shape[1:]), core.norm)


class _Core(NamedTuple):
    """ΔW ≈ (L·left)·diag(values)·(R·right)ᵀ for ΔW = L·Rᵀ. `values` may have more entries than are used.

    left, right: (r, rank); norm: ‖ΔW‖.
    """

    values: Tensor
    left: Tensor
    right: Tensor
    norm: float


def _quick_cores(gram_left: Tensor, gram_right: Tensor, rank: int) -> list[_Core | None]:
    """Cores from LᵀL and RᵀR, (batch, r, r), in float32; None where their rounding would count in the error."""
    r_left, failed = torch.linalg.cholesky_ex(gram_left, upper=True)
    lengths = gram_left.diagonal(dim1=1, dim2=2) * gram_right.diagonal(dim1=1, dim2=2)
    accurate = accurate_dtype(gram_left)
    reach = lengths.sqrt().sum(1).to(accurate).square()
    square = _products_around(r_left, gram_right)
    norms = square.diagonal(dim1=1, dim2=2).to(accurate).sum(1)
    usable = (failed == 0) & (reach < 1e30) & (norms > 0) & square.sum((1, 2)).isfinite()
    if not bool(usable.all()):
        square[~usable] = torch.eye(square.shape[1]).to(square)  # LAPACK fails for all where it gets NaN
    squares, vectors = (found.to(square) for found in leading_eigenpairs(square, rank))
    squares, vectors, is_exact = squares[:, :rank], vectors[:, :, :rank], squares.shape[1] > rank
    values = squares.sqrt()
    # a singular value that is zero except for rounding has no direction: do not divide by it
    least = (1e-7 * values[:, :1]).clamp(min=torch.finfo(torch.float32).tiny)
    right = r_left.mT @ (vectors / torch.maximum(values, least)[:, None])
    left = gram_right @ right
    if is_exact:  # all eigenpairs, and those that are kept are far from zero
        left = left / torch.maximum(values, least)[:, None]
    else:
        values, left, right = _rotated(r_left, left, right, least)
    lost = norms - values.to(accurate).square().sum(1)
    # 6e-8 is float32's rounding: it may be at most 3e-4 of the squared error that the rank leaves anyway
    usable &= 6e-8 * reach <= 3e-4 * lost
    rows = zip(usable.tolist(), values, left, right, norms.sqrt().tolist(), strict=True)
    return [_Core(*row) if is_usable else None for is_usable, *row in rows]


def _accurate_core(left: Tensor, right: Tensor, rule: RankRule) -> _Core:
    """Computes the core from QR in float32 and everything else in float64. Raises ToolError for NaN."""
    r_left, r_right = (torch.linalg.qr(side, mode="r")[1].to(accurate_dtype(side)) for side in (left, right))
    gram, size = r_right.T @ r_right, min(len(left), len(right))
    square = _products_around(r_left[None], gram[None])[0]
    if not math.isfinite(float(square.sum())):
        raise ToolError("NaN or infinity")
    norm = math.sqrt(max(float(square.diagonal().sum()), 0.0))
    pairs = eigen(square) if rule.method is not None else leading_eigenpairs(square, rule.rank)
    squares, vectors = (found.to(square) for found in pairs)
    values = squares.sqrt()[:size]
    rank = rule.choose_rank(values, size)
    least = (1e-7 * values[:1]).clamp(min=torch.finfo(torch.float32).tiny)
    basis = r_left.T @ (vectors[:, :rank] / torch.maximum(values[:rank], least))
    # whatever these vectors miss, the best combination of them is exact (Rayleigh–Ritz)
    gains, ups, downs = _rotated(r_left[None], (gram @ basis)[None], basis[None], least[None])
    return _Core(torch.cat([gains[0], values[rank:]]), ups[0], downs[0], norm)


def _rotated(r_left: Tensor, left: Tensor, right: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(singular values, left, right) of R_l·left·rightᵀ, whose right side is orthonormal."""
    image = r_left @ left
    squares, rotation = (found.to(image) for found in eigen(image.mT @ image))
    gains = squares.sqrt()
    return gains, left @ (rotation / torch.maximum(gains, least)[:, None]), right @ rotation


_BLOCK = 128
"""Rows of a symmetric matrix that are computed at a time, from the diagonal on. Fewer rows make slower products."""


def _grams(sides: Sequence[Tensor]) -> Tensor:
    """AᵀA of each, (batch, r, r). NumPy computes one side of the diagonal only (BLAS's syrk, which torch lacks)."""
    rank = sides[0].shape[1]
    found = sides[0].new_empty(len(sides), rank, rank)
    for side, gram in zip(sides, found, strict=True):
        if side.device.type != "cpu":
            torch.mm(side.T, side, out=gram)
            continue
        array = side.numpy()
        with np.errstate(all="ignore"):  # NaN and infinity are found in the result
            np.matmul(array.T, array, out=gram.numpy())
    return found


def _products_around(upper: Tensor, gram: Tensor) -> Tensor:
    """R·G·Rᵀ of upper triangular matrices R and symmetric ones G, (batch, r, r)."""
    size = upper.shape[1]
    if size <= _BLOCK:
        return upper @ gram @ upper.mT
    product = gram.new_empty(len(gram), size, size)
    for start in range(0, size, _BLOCK):
        end = start + _BLOCK
        rows = upper[:, start:end, start:] @ gram[:, start:, start:]
        product[:, start:end, start:] = rows @ upper[:, start:, start:].mT
        product[:, end:, start:end] = product[:, start:end, end:].mT
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

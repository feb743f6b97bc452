"""Leading eigenvectors and singular vectors: all by a dense solver, or few of a large matrix by products alone."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

TRACE_TOLERANCE = 1.5e-3
"""Largest error of `leading_eigenpairs`, as a share of the trace that the best choice leaves out (half of that in its
root).
"""

_MORE, _DEGREE, _TURNS = 24, 10, 2


def accurate_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the most accurate dtype of a tensor's device.

    Args:
        tensor: a tensor.

    Returns:
        float64; float32 on Apple's MPS, which has no float64.
    """
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def frobenius(matrix: Tensor) -> float:
    """Computes the Frobenius norm ‖M‖.

    Each row's norm is computed in float32 and their sum in float64. This is as accurate as all in float64 (1e-8) and as
    fast as all in float32, whose sums of millions of squares have errors of 1e-3.

    Args:
        matrix (Tensor): (m, n) float32.

    Returns:
        The norm.
    """
    rows = torch.linalg.vector_norm(matrix, dim=1)
    return float(torch.linalg.vector_norm(rows.to(accurate_dtype(rows))))


def eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Computes all eigenpairs of a positive semi-definite matrix.

    Args:
        gram (Tensor): (n, n), symmetric.

    Returns:
        (eigenvalues (n,) in falling order, eigenvectors (n, n) as columns), in the dtype of `gram`.
    """
    weights, vectors = torch.linalg.eigh(gram.cpu() if gram.device.type == "mps" else gram)
    return weights.clamp(min=0).flip(0), vectors.flip(1)


def leading_eigenpairs(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Computes the largest eigenpairs of a positive semi-definite matrix.

    For few pairs of a large matrix, subspaces are filtered by Chebyshev polynomials (Zhou, Saad, Tiago & Chelikowsky
    2006). These are accepted only when the trace outside of them is proven to be within `TRACE_TOLERANCE` of the least
    possible. Otherwise `eigen` computes all pairs.

    Args:
        gram (Tensor): (n, n), symmetric.
        count: how many pairs are needed.

    Returns:
        (eigenvalues in falling order, eigenvectors as columns), at least `count` of them.
    """
    width, total = count + _MORE, float(gram.diagonal().sum())
    if gram.shape[0] >= 160 and width <= 0.4 * gram.shape[0] and 0 < total < float("inf"):
        scaled = gram / total
        single = scaled.float()
        values, vectors, images = _ritz(single, single @ _start(gram.shape[0], width).to(single))
        for _ in range(_TURNS):
            filtered = _filtered(single, vectors.to(single), images.to(single), values)
            values, vectors, images = _ritz(scaled, filtered.to(scaled))
            if _proven(scaled, values, vectors, images, count):
                return values[:count] * total, vectors[:, :count]
    return eigen(gram)


def left_singular_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Computes all singular values and left singular vectors of a matrix from M·Mᵀ.

    Args:
        matrix (Tensor): (m, n).

    Returns:
        (singular values (m,) in falling order, vectors (m, m) as columns), in `accurate_dtype`.
    """
    matrix = matrix.to(accurate_dtype(matrix))
    squares, vectors = eigen(matrix @ matrix.T)
    return squares.sqrt(), vectors


@lru_cache(maxsize=8)
def _start(size: int, width: int) -> Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(0))


def _ritz(gram: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(θ falling, Y, M·Y): the eigenpairs of M as far as the columns of `basis` hold them; Y orthonormal."""
    basis = torch.linalg.qr(basis)[0]
    images = gram @ basis
    values, rotation = eigen(basis.T @ images)
    rotation = rotation.to(basis)
    return values.to(basis), basis @ rotation, images @ rotation


def _filtered(gram: Tensor, vectors: Tensor, images: Tensor, values: Tensor) -> Tensor:
    """T(M)·Y, columns of length 1: T, a Chebyshev polynomial, is at most 1 up to the least θ and grows fast above."""
    largest, cut = float(values[0]), max(float(values[-1]), 1e-6 * float(values[0]))
    # T of the largest is near exp(degree · arcosh): its square has to stay a float32
    degree = min(_DEGREE, int(40 / math.acosh(2 * largest / cut - 1 + 1e-6)))
    before, now = vectors, images * (2 / cut) - vectors
    twice = gram * (4 / cut)
    twice.diagonal().sub_(2)
    for _ in range(degree - 1):
        before, now = now, torch.addmm(before, twice, now, beta=-1)
    return now / torch.linalg.vector_norm(now, dim=0)


def _proven(gram: Tensor, values: Tensor, vectors: Tensor, images: Tensor, count: int) -> bool:
    """Whether no `count` eigenvalues of M, of trace 1, can add up to more than Σθ + NEAR·(1 − Σθ).

    Their sum is at most count·t + Σz wherever M ≤ t·I + Y·diag(z)·Yᵀ, z ≥ 0 (Ky Fan 1949, by duality), which one
    Cholesky factorisation decides. What is left of the allowance goes to where Y is furthest from an eigenvector.
    """
    spare = TRACE_TOLERANCE * (1 - float(values[:count].sum()))
    level = float(values[count - 1]) + spare / (4 * count)
    unrest = (images - vectors * values).square().sum(0)
    share = 0.5 * unrest / unrest.sum().clamp(min=1e-30) + 0.25 / len(values)
    weights = (values - level).clamp(min=0) + spare * share
    rest = torch.addmm(gram, vectors * weights, vectors.T, beta=-1)
    rest.diagonal().add_(level)
    return spare > 0 and int(torch.linalg.cholesky_ex(rest)[1]) == 0


def krylov(matrix: Tensor, rank: int, norm: float) -> tuple[Tensor, Tensor]:
    """Computes a basis that nearly contains the first left singular vectors of a matrix.

    The blocks Ω, (MMᵀ)Ω, (MMᵀ)²Ω … are all kept and made orthogonal. The error of the best `rank` directions in them
    falls by a steady factor or faster. The iteration ends when less than 1.5e-4 of the squared error can still be
    gained by that factor.

    Args:
        matrix (Tensor): M, (m, n) with m ≤ n, float32.
        rank: how many singular vectors are needed.
        norm: ‖M‖.

    Returns:
        (B (m, b) with orthonormal columns, Bᵀ·M (b, n)), b ≥ rank.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], rank + 8, generator=generator).to(matrix)
    basis = torch.linalg.qr(matrix @ start)[0]
    thin, width = basis.T @ matrix, basis.shape[1]
    gram, errors = thin @ thin.T, [math.inf]
    while basis.shape[1] + width <= matrix.shape[0]:
        if basis.shape[1] >= 3 * width:
            captured = float(torch.linalg.eigvalsh(gram.cpu())[-rank:].double().sum())
            errors.append(max(norm**2 - captured, 0.0))
            gain, before = errors[-2] - errors[-1], errors[-3] - errors[-2] if len(errors) > 3 else math.inf
            factor = min(max(gain / before if before > 0 and math.isfinite(before) else 0.5, 0.1), 0.9)
            if errors[-1] <= 1e-11 * norm**2 or gain * factor / (1 - factor) <= 1.5e-4 * errors[-1]:
                break
        block = matrix @ thin[-width:].T
        for _ in range(2):  # twice is enough to be orthogonal (Giraud et al. 2005)
            block = torch.linalg.qr(block - basis @ (basis.T @ block))[0]
        rows = block.T @ matrix
        cross = thin @ rows.T
        gram = torch.cat([torch.cat([gram, cross], dim=1), torch.cat([cross.T, rows @ rows.T], dim=1)])
        basis, thin = torch.cat([basis, block], dim=1), torch.cat([thin, rows])
    # the few directions that matter: the caller's float64 then works on these alone
    rotation = torch.linalg.eigh(gram.cpu())[1][:, -width:].to(matrix)
    return basis @ rotation, rotation.T @ thin

"""Leading eigenvectors and singular vectors: all by a dense solver, or few of a large matrix by products alone."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

TRACE_TOLERANCE = 1.5e-3
"""What `leading_eigenpairs` may miss, as a share of the trace that the best choice leaves out (half of that in its
root).
"""

_MORE, _DEGREE, _TURNS = 24, 10, 2


def accurate_dtype(tensor: Tensor) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def frobenius(matrix: Tensor) -> float:
    """‖M‖ (Frobenius) of a float32 M (m, n): a row at a time, which is as near as all in float64 (1e-8) and as fast as
    all in float32, whose sums of millions of squares are right to 1e-3 only.
    """
    rows = torch.linalg.vector_norm(matrix, dim=1)
    return float(torch.linalg.vector_norm(rows.to(accurate_dtype(rows))))


def eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(eigenvalues, eigenvectors) of a symmetric M without negative ones, falling, in M's dtype."""
    weights, vectors = torch.linalg.eigh(gram.cpu() if gram.device.type == "mps" else gram)
    return weights.clamp(min=0).flip(0), vectors.flip(1)


def leading_eigenpairs(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At least the first `count` eigenpairs of a symmetric M (n, n) without negative eigenvalues, falling.

    Few of a large M: subspaces filtered by Chebyshev polynomials (Zhou, Saad, Tiago & Chelikowsky 2006). They count
    only when the trace outside of them is proven to be within `TRACE_TOLERANCE` of the least possible. Else `eigen`,
    of all.
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
    """(singular values, left singular vectors) of M (m, n), falling, float64 where there is one, by M·Mᵀ."""
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
    values, turn = eigen(basis.T @ images)
    turn = turn.to(basis)
    return values.to(basis), basis @ turn, images @ turn


def _filtered(gram: Tensor, vectors: Tensor, images: Tensor, values: Tensor) -> Tensor:
    """T(M)·Y, columns of length 1: T, a Chebyshev polynomial, is at most 1 up to the least θ and grows fast above."""
    largest, cut = float(values[0]), max(float(values[-1]), 1e-6 * float(values[0]))
    # T of the largest is near exp(degree · arcosh): its square has to stay a float32
    degree = min(_DEGREE, int(40 / math.acosh(2 * largest / cut - 1 + 1e-6)))
    before, now = vectors, images * (2 / cut) - vectors
    for _ in range(degree - 1):
        before, now = now, torch.addmm(before, gram, now, beta=-1, alpha=4 / cut).sub_(now, alpha=2)
    return now / torch.linalg.vector_norm(now, dim=0)


def _proven(gram: Tensor, values: Tensor, vectors: Tensor, images: Tensor, count: int) -> bool:
    """Whether no `count` eigenvalues of M, of trace 1, can add up to more than Σθ + NEAR·(1 − Σθ).

    Their sum is at most count·t + Σz wherever M ≤ t·I + Y·diag(z)·Yᵀ, z ≥ 0 (Ky Fan 1949, by duality), which one
    Cholesky factorisation tells. What is left of the allowance goes to where Y is furthest from an eigenvector.
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
    """Orthonormal B (m, b) that nearly holds the first `rank` left singular vectors of M (m, n), m ≤ n; and Bᵀ·M.

    Blocks Ω, (MMᵀ)Ω, (MMᵀ)²Ω … are all kept and made orthogonal. What the best `rank` directions in them miss falls by
    a steady factor or faster; ends when by that factor less than 1.5e-4 of the squared error is left to gain.
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
    turn = torch.linalg.eigh(gram.cpu())[1][:, -width:].to(matrix)
    return basis @ turn, turn.T @ thin

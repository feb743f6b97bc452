"""Leading eigenvectors and singular vectors: all by a dense solver, or few of a large matrix by products alone."""

from __future__ import annotations

import math
import statistics
from functools import lru_cache

import torch
from torch import Tensor

TRACE_TOLERANCE = 1.5e-3
"""Largest error of `leading_eigenpairs`, as a share of the trace that the best choice leaves out (half of that in its
root).
"""

_MORE, _TURNS = 24, 3
_GROWTH, _RANGE = math.log(2e3), 10.0
"""A filter makes the wanted vectors exp(_GROWTH) times as long. Of random vectors, it may make the first one at most
exp(_RANGE) times as long as the last one that is wanted, which float32 would lose otherwise."""

_ROUNDING = 32 * torch.finfo(torch.float32).eps
"""Share of ‖M‖·‖row‖ below which a number of M·rowᵀ may be rounding."""


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
        gram (Tensor): (n, n) or (batch, n, n), symmetric.

    Returns:
        (eigenvalues (…, n) in falling order, eigenvectors (…, n, n) as columns), in the dtype of `gram`.
    """
    weights, vectors = torch.linalg.eigh(gram.cpu() if gram.device.type == "mps" else gram)
    return weights.clamp(min=0).flip(-1), vectors.flip(-1)


def leading_eigenpairs(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Computes the largest eigenpairs of positive semi-definite matrices.

    For few pairs of large matrices, subspaces are filtered by Chebyshev polynomials (Zhou, Saad, Tiago & Chelikowsky
    2006). These are accepted only when the trace outside of them is proven to be within `TRACE_TOLERANCE` of the least
    possible. Otherwise `eigen` computes all pairs.

    Args:
        gram (Tensor): (n, n) or (batch, n, n), symmetric.
        count: how many pairs are needed.

    Returns:
        (eigenvalues in falling order, eigenvectors as columns), at least `count` of them.
    """
    if gram.dim() == 2:
        values, vectors = leading_eigenpairs(gram[None], count)
        return values[0], vectors[0]
    size, width = gram.shape[-1], count + _MORE
    if size < 160 or width > 0.4 * size:
        return eigen(gram)
    total = gram.diagonal(dim1=1, dim2=2).sum(1)
    found = gram.new_empty(len(gram), count), gram.new_empty(len(gram), size, count)
    left = ((total > 0) & (total < math.inf)).nonzero()[:, 0]
    if len(left):
        scaled = _rows(gram, left) / total[left, None, None]
        indices, values, vectors = _filtered_pairs(scaled, count, width)
        found[0][left[indices]], found[1][left[indices]] = values * total[left[indices], None], vectors
        total[left[indices]] = -1
    for index in (total != -1).nonzero()[:, 0].tolist():
        values, vectors = eigen(gram[index])
        found[0][index], found[1][index] = values[:count], vectors[:, :count]
    return found


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


def _rows(batch: Tensor, indices: Tensor) -> Tensor:
    """These matrices of a batch; not copied where they are all of it."""
    return batch if len(indices) == len(batch) else batch[indices]


def _filtered_pairs(gram: Tensor, count: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(indices of the matrices whose pairs are proven, θ (matrices, count), Y (matrices, n, count)); their trace is 1.

    Random vectors are filtered first, by what the matrix's moments tell of its eigenvalues; then what was found.
    """
    cut, degree = _first_filter(gram, count, width)
    basis = _start(gram.shape[1], width).to(gram.device).expand(len(gram), -1, -1)
    left, found = torch.arange(len(gram), device=gram.device), []
    for _ in range(_TURNS):
        open_ones = []
        for power in degree.unique().tolist():  # one after the other would be as many small products
            rows = (degree == power).nonzero()[:, 0]
            chosen = _rows(gram, left[rows])
            filtered = _filtered(chosen.float(), _rows(basis, rows).float(), _rows(cut, rows).float(), power)
            values, vectors, images = _ritz(chosen, filtered.to(gram))
            proven = _proven(chosen, values, vectors, images, count)
            found.append((left[rows[proven]], values[proven, :count], vectors[proven, :, :count]))
            open_ones.append((left[rows[~proven]], values[~proven], vectors[~proven]))
        left, values, basis = (torch.cat(parts) for parts in zip(*open_ones, strict=True))
        if not len(left):
            break
        cut = torch.maximum(values[:, -1], 1e-6 * values[:, 0])
        most = 40 / (2 * values[:, 0] / cut - 1 + 1e-6).acosh()  # the largest one's square has to stay a float32
        degree = _degrees(torch.minimum(_GROWTH / (2 * values[:, count - 1] / cut - 1).clamp(min=1.1).acosh(), most))
    indices, values, vectors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return indices, values, vectors


def _first_filter(gram: Tensor, count: int, width: int) -> tuple[Tensor, Tensor]:
    """(where the unwanted eigenvalues end, degree) for random vectors, from Σλ = 1 and Σλ² alone.

    Flat spectra are near to a gamma distribution, which is near to a cube of a normal one (Wilson & Hilferty 1931). Of
    steep ones random vectors can be filtered by λ² only.
    """
    size = gram.shape[1]
    squares = gram.square().sum((1, 2))
    ninth = (size * squares - 1).clamp(min=1e-6) / 9  # of the variance over the squared mean

    def upper(share: float) -> Tensor:
        normal = statistics.NormalDist().inv_cdf(1 - share)
        return (1 - ninth + normal * ninth.sqrt()).clamp(min=0.05) ** 3 / size

    is_steep = squares * size > 4
    cut = upper((count + width) / 2 / size)
    growth = (2 * upper(count / size) / cut - 1).clamp(min=1.05).acosh()
    span = ((2 * upper(0.5 / size) / cut - 1).acosh() - growth).clamp(min=0.1)
    degree = torch.minimum(_GROWTH / growth, _RANGE / span)
    return torch.where(is_steep, 1e-4 / size, cut), _degrees(torch.where(is_steep, 2.0, degree))


def _degrees(degree: Tensor) -> Tensor:
    """Even numbers from 2 to 12: few, so that matrices share one."""
    return (2 * (degree / 2).ceil()).clamp(2, 12).int()


def _ritz(gram: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(θ falling, Y, M·Y): the eigenpairs of M as far as the columns of `basis` hold them; Y orthonormal."""
    basis = torch.linalg.qr(basis)[0]
    images = gram @ basis
    values, rotation = eigen(basis.mT @ images)
    rotation = rotation.to(basis)
    return values.to(basis), basis @ rotation, images @ rotation


def _filtered(gram: Tensor, vectors: Tensor, cut: Tensor, degree: int) -> Tensor:
    """T(M)·Y, columns of length 1: T, a Chebyshev polynomial, is at most 1 up to `cut` and grows fast above."""
    twice = gram * (4 / cut[:, None, None])
    twice.diagonal(dim1=1, dim2=2).sub_(2)
    before, now = vectors, (twice @ vectors) / 2
    for _ in range(degree - 1):
        before, now = now, torch.baddbmm(before, twice, now, beta=-1)
    return now / torch.linalg.vector_norm(now, dim=1, keepdim=True)


def _proven(gram: Tensor, values: Tensor, vectors: Tensor, images: Tensor, count: int) -> Tensor:
    """Whether no `count` eigenvalues of M, of trace 1, can add up to more than Σθ + NEAR·(1 − Σθ).

    Their sum is at most count·t + Σz wherever M ≤ t·I + Y·diag(z)·Yᵀ, z ≥ 0 (Ky Fan 1949, by duality), which one
    Cholesky factorisation decides. What is left of the allowance goes to where Y is furthest from an eigenvector.
    """
    spare = TRACE_TOLERANCE * (1 - values[..., :count].sum(-1, keepdim=True))
    level = values[..., count - 1 : count] + spare / (4 * count)
    unrest = (images - vectors * values.unsqueeze(-2)).square().sum(-2)
    share = 0.5 * unrest / unrest.sum(-1, keepdim=True).clamp(min=1e-30) + 0.25 / values.shape[-1]
    weights = (values - level).clamp(min=0) + spare * share
    rest = (vectors * weights.unsqueeze(-2)) @ vectors.mT - gram
    rest.diagonal(dim1=-2, dim2=-1).add_(level)
    return (spare[..., 0] > 0) & (torch.linalg.cholesky_ex(rest)[1] == 0)


def _new_directions(block: Tensor, basis: Tensor, noise: Tensor) -> Tensor:
    """Orthonormal columns for what a block (m, w) has beside the basis; none for a column that adds its noise only.

    Where M has few directions, most of a block is in the basis already. What is left of it is rounding, of which QR
    would make columns within the basis: a basis that is none, and then a ΔW that is another one.
    """
    q, r = torch.linalg.qr(block - basis @ (basis.T @ block))
    q = q[:, r.diagonal().abs() > noise]
    if not q.shape[1]:  # not every device has a QR of no column
        return q
    # twice is enough to be orthogonal (Giraud et al. 2005)
    return torch.linalg.qr(q - basis @ (basis.T @ q))[0]


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
    newest, gram, errors, blocks = thin, thin @ thin.T, [math.inf], 1
    while basis.shape[1] + width <= matrix.shape[0]:
        if blocks >= 3:
            captured = float(torch.linalg.eigvalsh(gram.cpu())[-rank:].double().sum())
            errors.append(max(norm**2 - captured, 0.0))
            gain, before = errors[-2] - errors[-1], errors[-3] - errors[-2] if len(errors) > 3 else math.inf
            factor = min(max(gain / before if before > 0 and math.isfinite(before) else 0.5, 0.1), 0.9)
            if errors[-1] <= 1e-11 * norm**2 or gain * factor / (1 - factor) <= 1.5e-4 * errors[-1]:
                break
        block = _new_directions(matrix @ newest.T, basis, _ROUNDING * norm * torch.linalg.vector_norm(newest, dim=1))
        if block.shape[1] == 0:  # the basis has all that M has
            break
        rows = block.T @ matrix
        cross = thin @ rows.T
        gram = torch.cat([torch.cat([gram, cross], dim=1), torch.cat([cross.T, rows @ rows.T], dim=1)])
        basis, thin, newest, blocks = torch.cat([basis, block], dim=1), torch.cat([thin, rows]), rows, blocks + 1
    # the few directions that matter: the caller's float64 then works on these alone
    rotation = torch.linalg.eigh(gram.cpu())[1][:, -width:].to(matrix)
    return basis @ rotation, rotation.T @ thin

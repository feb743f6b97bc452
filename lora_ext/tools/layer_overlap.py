"""How much the changes of two files have in common at one layer: inner product, shared energy and principal angles.

A change ΔW reads from its row space (directions of the layer's input) and writes to its column space (directions of
the layer's output). Two changes interfere where both spaces have directions in common. Everything is computed from an
SVD of thin factors, in float64; a ΔW without low-rank form is compared by its strongest directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FitError
from ..lowrank import LowRank
from ..rank_reduction import approximate_delta
from .layer_changes import LayerChange

DENSE_DIRECTIONS = 64
"""How many directions of a ΔW without low-rank form are compared; every other file would lie within all of them."""

_LEAST_VALUE = 1e-6
"""Singular values below this share of the largest are rounding of float32 factors and have no direction."""


@dataclass(frozen=True)
class ChangeDirections:
    """The directions of a layer's ΔW: ΔW = columns · diag(values) · rowsᵀ, exactly where ΔW is low-rank.

    Attributes:
        columns (Tensor): (out, k) float64, orthonormal: what ΔW writes to.
        values (Tensor): (k,) the singular values, falling.
        rows (Tensor): (in·kh·kw, k) float64, orthonormal: what ΔW reads from.
        dense (Tensor): ΔW as a float64 matrix (out, in·kh·kw) where it has no low-rank form, else None.
    """

    columns: Tensor
    values: Tensor
    rows: Tensor
    dense: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs (times kernel) of the layer."""
        return self.columns.shape[0], self.rows.shape[0]

    @property
    def energy(self) -> float:
        """‖ΔW‖², the squared Frobenius norm."""
        return float((self.values if self.dense is None else self.dense).square().sum())

    def projected(self, other: ChangeDirections) -> Tensor:
        """Computes ΔW in the directions of another change: C'ᵀ · ΔW · R', (k', k')."""
        if self.dense is not None:
            return other.columns.T @ self.dense @ other.rows
        return (other.columns.T @ self.columns * self.values) @ (self.rows.T @ other.rows)


def change_directions(change: LayerChange) -> ChangeDirections:
    """Computes the directions of a ΔW: QR of the thin factors and an SVD of an r×r matrix.

    Args:
        change: ΔW of a layer at weight 1.

    Returns:
        Its directions; none (k = 0) for a ΔW of zeros.

    Raises:
        ToolError: a dense ΔW contains NaN or infinity.
    """
    low = change.low
    if low is not None:
        return ChangeDirections(*_thin_svd(low))
    assert change.dense is not None
    matrix = change.dense.reshape(len(change.dense), -1)  # the ΔW of a norm layer is a vector
    found = approximate_delta(matrix, min(DENSE_DIRECTIONS, *matrix.shape))
    return ChangeDirections(*_thin_svd(found.low_rank), matrix.double())


def _thin_svd(low: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """(U, s, V) with U·diag(s)·Vᵀ = ΔW and every s above 0."""
    q_up, r_up = torch.linalg.qr(low.up.double() * low.gain.double())
    q_down, r_down = torch.linalg.qr(low.down.flatten(1).double().T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    used = int((values > _LEAST_VALUE * values[0]).sum()) if len(values) else 0
    return q_up @ left[:, :used], values[:used], q_down @ right[:used].T


@dataclass(frozen=True)
class LayerOverlap:
    """What the changes of two files, a and b, have in common at one layer.

    Attributes:
        energies: ‖ΔWa‖² and ‖ΔWb‖².
        inner: ⟨ΔWa, ΔWb⟩, above 0 where the changes add up and below 0 where they cancel.
        inside: the part of ‖ΔWa‖² inside the column and row space of ΔWb, and the other way round.
        chance: `inside` as it is expected for directions drawn at random: ‖ΔWa‖² · (k_b/out) · (k_b/in).
        column_cosines (Tensor): cosines of the principal angles between the column spaces, falling.
        row_cosines (Tensor): the same of the row spaces.
    """

    energies: tuple[float, float]
    inner: float
    inside: tuple[float, float]
    chance: tuple[float, float]
    column_cosines: Tensor
    row_cosines: Tensor


def layer_overlap(first: ChangeDirections, second: ChangeDirections) -> LayerOverlap:
    """Compares two changes of one layer.

    The principal angles are those of Björck & Golub 1973: the singular values of Qaᵀ·Qb are their cosines.

    Args:
        first: directions of ΔWa.
        second: directions of ΔWb.

    Returns:
        What they have in common.

    Raises:
        FitError: the layers have different shapes, as of different base models.
    """
    if first.shape != second.shape:
        sizes = " and ".join(f"{rows}×{columns}" for rows, columns in (first.shape, second.shape))
        raise FitError(f"ΔW has the sizes {sizes}; the files are for different base models")
    one, other = first.projected(second), second.projected(first)
    return LayerOverlap(
        (first.energy, second.energy),
        _inner(first, second, one, other),
        (float(one.square().sum()), float(other.square().sum())),
        (first.energy * _chance(second), second.energy * _chance(first)),
        _cosines(first.columns, second.columns),
        _cosines(first.rows, second.rows),
    )


def _inner(first: ChangeDirections, second: ChangeDirections, one: Tensor, other: Tensor) -> float:
    """⟨ΔWa, ΔWb⟩ by the factors of whichever is low-rank."""
    if second.dense is None:
        return float((one.diagonal() * second.values).sum())
    if first.dense is None:
        return float((other.diagonal() * first.values).sum())
    return float((first.dense * second.dense).sum())


def _chance(directions: ChangeDirections) -> float:
    """The share of the energy of a ΔW with random directions that lies in these: (k/out)·(k/in)."""
    rank = len(directions.values)
    return rank**2 / math.prod(directions.shape)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of the principal angles between the spaces that orthonormal columns span."""
    if not first.shape[1] or not second.shape[1]:
        return first.new_zeros(0)
    return torch.linalg.svdvals(first.T @ second).clamp(max=1)

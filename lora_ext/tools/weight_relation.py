"""What one file's ΔW is to another's: the same, rounded, or of a lower rank. Both files are compared whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..file.lora_file import LoraFile
from .layer_changes import LayerChange, change_of, sum_changes
from .weight_sketch import chosen_layers

_TOLERANCES = {32: 1e-5, 64: 1e-5}
_HALF, _BFLOAT, _BYTE = 4e-3, 2e-2, 0.15
"""How much rounding two factors to a dtype changes ΔW at most, as a share of ‖ΔW‖."""
_RESIZE = 0.02
"""The error of a resize as a share of its ‖ΔW‖: the SVDs of some tools are not exact, and round."""


@dataclass(frozen=True)
class WeightRelation:
    """What a file is to the file that is kept.

    Attributes:
        kind: "kept" (the file itself), "identical" (the same bytes but for metadata), "same" (the same ΔW in other keys
            or factors), "precision" (rounded to another dtype), "resize" (some of its directions alone).
        share: ‖ΔW‖ of it as a share of the kept file's.
        dtype: Of its numbers.
    """

    kind: str
    share: float
    dtype: str


def file_dtype(file: LoraFile) -> torch.dtype:
    """The commonest dtype of a file's layers; float32 where it has none."""
    dtypes = [adapter.dtype for adapter in file.adapters.values()]
    return max(set(dtypes), key=dtypes.count) if dtypes else torch.float32


def weight_relation(kept: LoraFile, other: LoraFile) -> WeightRelation | None:
    """Compares the ΔW of two files, exactly: norms and inner products of all layers from their thin factors.

    Args:
        kept: the file with the higher rank and precision.
        other: the other file.

    Returns:
        What `other` is to `kept`; None where its ΔW is another one, or depends on the base model's weights.
    """
    sums = [0.0, 0.0, 0.0]
    for layer_id in kept.adapters.keys() | other.adapters.keys():
        changes = [change_of(file, layer_id) if layer_id in file.adapters else None for file in (kept, other)]
        if any(
            change is None and layer_id in file.adapters for change, file in zip(changes, (kept, other), strict=True)
        ):
            return None
        for i, (one, two) in enumerate(((0, 0), (1, 1), (0, 1))):
            first, second = changes[one], changes[two]
            if first is not None and second is not None:
                if math.prod(first.shape) != math.prod(second.shape):
                    return None
                sums[i] += inner_product(first, second)
    kept_energy, energy, inner = sums
    if not (kept_energy > 0 and energy > 0 and all(map(math.isfinite, sums))):
        return None
    dtypes = [file_dtype(file) for file in (kept, other)]
    tolerance, dtype = max(map(_tolerance, dtypes)), str(dtypes[1]).removeprefix("torch.")
    share = math.sqrt(energy / kept_energy)
    if math.sqrt(max(0.0, kept_energy + energy - 2 * inner) / kept_energy) <= tolerance:
        return WeightRelation("same" if dtypes[0] == dtypes[1] else "precision", share, dtype)
    if _is_part(kept, other, max(tolerance, _RESIZE)):
        return WeightRelation("resize", share, dtype)
    return None


def _tolerance(dtype: torch.dtype) -> float:
    if dtype == torch.bfloat16:
        return _BFLOAT
    bits = dtype.itemsize * 8
    return _TOLERANCES.get(bits, _HALF if bits == 16 else _BYTE)


def inner_product(first: LayerChange, second: LayerChange) -> float:
    """⟨A, B⟩ of two ΔW, in float64: of low-rank ones ⟨U_AᵀU_B scaled by both gains, D_A·D_Bᵀ⟩."""
    if first.low is not None and second.low is not None:
        ups, downs = zip(
            *((low.up.double() * low.gain.double(), low.down.flatten(1).double()) for low in (first.low, second.low)),
            strict=True,
        )
        return float(((ups[0].T @ ups[1]) * (downs[0] @ downs[1].T)).sum())
    if first.low is not None or second.low is not None:
        low, dense = (first.low, second.dense) if first.low is not None else (second.low, first.dense)
        assert low is not None and dense is not None
        up, matrix = low.up.double() * low.gain.double(), dense.reshape(len(low.up), -1).double()
        return float(((up.T @ matrix) * low.down.flatten(1).double()).sum())
    assert first.dense is not None and second.dense is not None
    return float((first.dense.double().flatten() * second.dense.double().flatten()).sum())


def _is_part(kept: LoraFile, other: LoraFile, tolerance: float) -> bool:
    """Whether `other` is some of the directions of the kept ΔW; the layers of a sketch are looked at.

    Taking r directions out of a ΔW of rank R leaves rank R − r, whatever directions they are; of other weights the
    difference has rank R + r. What it has beyond its first R − r singular values is therefore the error. A kept ΔW
    without a rank has no such end: there the part must hold as much of it as its best approximation does.
    """
    error = energy = 0.0
    for layer_id in chosen_layers(other.adapters.keys() & kept.adapters.keys()):
        change, part = change_of(kept, layer_id), change_of(other, layer_id)
        whole, rank = kept.adapters[layer_id].rank, other.adapters[layer_id].rank
        if change is None or part is None or rank is None:
            return False
        own = part.norm() ** 2
        energy += own
        if whole is None:
            best = change.best_approximation(rank).values[:rank].double().square().sum()
            error += max(abs(own - float(best)), abs(inner_product(change, part) - own)) * tolerance
            continue
        rest = sum_changes([change, part.times(-1)])
        left = whole - rank
        taken = float(rest.best_approximation(left).values[:left].double().square().sum()) if left > 0 else 0.0
        error += max(0.0, rest.norm() ** 2 - taken)
    return energy > 0 and math.sqrt(error / energy) <= tolerance

"""Merge one layer of several files: as the exact sum, its best approximation, or kohya's average of factors."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch

from ..adapters import Adapter, Lora, Norm
from ..errors import ToolError, did_you_mean
from ..layer_names import LayerId
from ..lowrank import clamped, mean_factors
from ..rank_reduction import LowRankApproximation, RankRule
from .layer_batches import ApproximationPlan, LayerPlan
from .layer_changes import (
    LayerChange,
    is_wide_kernel_shape,
    kept_share,
    make_lora_adapter,
    make_stored_adapter,
    sum_changes,
)
from .report import LayerReport, ToolReport

MERGE_METHODS = ("concat", "svd", "factors")
"""concat: the exact sum. svd: its best approximation at a rank. factors: kohya's average of the factors."""


@dataclass(frozen=True)
class MergeOptions:
    """How files are merged.

    Attributes:
        method: one of `MERGE_METHODS`.
        new_rank: rank of the result with "svd".
        new_conv_rank: its rank for kernels above 1x1; None for `new_rank`.
        clamp_quantile: with "svd", clips the factors at this quantile of their entries, as kohya's scripts do at
            0.99; it doubles the error.
        dtype: of the result; None for the widest among the files.
        device: where decompositions are computed.

    Raises:
        ToolError: an unknown method, a quantile or rank out of range.
    """

    method: str = "concat"
    new_rank: int = 4
    new_conv_rank: int | None = None
    clamp_quantile: float | None = None
    dtype: torch.dtype | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        if self.method not in MERGE_METHODS:
            raise ToolError(f"unknown method {self.method!r}{did_you_mean(self.method, MERGE_METHODS)}")
        if self.clamp_quantile is not None and not 0 < self.clamp_quantile <= 1:
            raise ToolError(f"clamp_quantile must be between 0 and 1, not {self.clamp_quantile:g}")
        for rank in (self.new_rank, self.conv_rank):
            RankRule(rank)

    @property
    def conv_rank(self) -> int:
        """Rank of the method "svd" for kernels above 1x1."""
        return self.new_rank if self.new_conv_rank is None else self.new_conv_rank

    def rank_for(self, shape: tuple[int, ...]) -> int:
        """Rank of the method "svd" for a weight of `shape`."""
        return self.conv_rank if is_wide_kernel_shape(shape) else self.new_rank


@dataclass(frozen=True)
class LayerContribution:
    """One file's share of one layer.

    Attributes:
        label: what messages call the file.
        adapter: the file's adapter of the layer.
        weight: ratio times block weight.
        change: ΔW, or None where it needs the base model's weights (or the weight is 0).
    """

    label: str
    adapter: Adapter
    weight: float
    change: LayerChange | None


def merge_layer(
    layer_id: LayerId, parts: list[LayerContribution], options: MergeOptions, dtype: torch.dtype, report: ToolReport
) -> Adapter | None:
    """Merges one layer and adds its line to the report.

    Args:
        layer_id: the layer.
        parts: the files' shares with weights other than 0.
        options: how to merge.
        dtype: of the result's factors.
        report: gets the layer's line, or a note on why it is left out.

    Returns:
        The adapter of the result; None where nothing is left that can be merged.

    Raises:
        FitError: the shapes differ.
        ToolError: layers that the method cannot merge, or a number that `dtype` cannot hold.
    """
    without_change = [part for part in parts if part.change is None]
    if without_change:
        kept = parts[0].adapter.times(parts[0].weight) if len(parts) == 1 else _norms(parts)
        if kept is not None:
            report.layers.append(LayerReport(str(layer_id), kept.rank, kept.rank, note=kept.kind))
            return make_stored_adapter(
                kept.tensors, options.dtype or torch.promote_types(dtype, kept.dtype), layer_id, report
            )
        for part in without_change:
            report.left_out.setdefault(part.label, []).append(str(layer_id))
            kind = part.adapter.kind if part.adapter.magnitude() is None else "DoRA"
            report.add_note(
                f"{kind} layers need the base model's weights and are left out; merge --sd_model can merge them"
            )
        parts = [part for part in parts if part.change is not None]
    if not parts:
        return None
    if options.method == "factors":
        return _factors(layer_id, parts, dtype, report)
    total = _sum(parts, options)
    if options.method == "svd":
        best = total.best_approximation(options.rank_for(total.shape))
        return _svd(layer_id, parts, total, options, dtype, report, best)
    return _concat(layer_id, parts, total, dtype, report)


def plan_layer(
    layer_id: LayerId, parts: list[LayerContribution], options: MergeOptions, dtype: torch.dtype, report: ToolReport
) -> LayerPlan:
    """Prepares `merge_layer`, whose arguments these are: with the method "svd", layers are approximated in batches.

    Raises:
        FitError: the shapes differ.
    """
    changes = [part.change for part in parts if part.change is not None]
    if options.method != "svd" or not parts or len(changes) < len(parts):
        return functools.partial(merge_layer, layer_id, parts, options, dtype, report)
    total = _sum(parts, options)
    rule = RankRule(options.rank_for(total.shape))
    return ApproximationPlan(total, rule, functools.partial(_svd, layer_id, parts, total, options, dtype, report))


def _sum(parts: list[LayerContribution], options: MergeOptions) -> LayerChange:
    """Σ weight · ΔW."""
    changes = [part.change.times(part.weight) for part in parts if part.change is not None]
    return sum_changes(changes).to(options.device)


def _concat(
    layer_id: LayerId, parts: list[LayerContribution], total: LayerChange, dtype: torch.dtype, report: ToolReport
) -> Adapter:
    """The exact sum: all ranks side by side, or a full matrix where that is smaller or a bias changes too."""
    old = sum(part.adapter.rank or 0 for part in parts) or None
    rows, columns = total.shape[0], torch.Size(total.shape[1:]).numel()
    biases = [part.adapter.bias_delta() for part in parts]
    shifts = [part.weight * bias for part, bias in zip(parts, biases, strict=True) if bias is not None]
    low = total.low
    if low is None and not any(b is not None for b in biases):
        best = total.best_approximation(min(rows, columns))
        # singular values below 1e-6 of the largest are rounding errors of float32
        exact = int((best.values > best.values[0] * 1e-6).sum())
        if 0 < exact * (rows + columns) < rows * columns:
            low = best.low_rank.truncated(exact)
    if low is None:
        report.layers.append(LayerReport(str(layer_id), old, None, note="full matrix"))
        assert total.dense is not None
        tensors = {"diff": total.dense}
        if shifts:
            tensors["diff_b"] = torch.stack(shifts).sum(0)
        return make_stored_adapter(tensors, dtype, layer_id, report)
    # the largest gain becomes alpha / rank, so that the factors of that file stay as they were
    scale = float(low.gain.abs().max()) or 1.0
    if low.rank > min(rows, columns):
        report.add_note("the ranks add up to more than some layers can have; those were capped without loss")
        low = total.best_approximation(min(rows, columns)).low_rank
    report.layers.append(LayerReport(str(layer_id), old, low.rank))
    made = make_lora_adapter(low, scale * low.rank, dtype, layer_id, report)
    return (
        make_stored_adapter({**made.tensors, "diff_b": torch.stack(shifts).sum(0)}, dtype, layer_id, report)
        if shifts
        else made
    )


def _svd(
    layer_id: LayerId,
    parts: list[LayerContribution],
    total: LayerChange,
    options: MergeOptions,
    dtype: torch.dtype,
    report: ToolReport,
    best: LowRankApproximation,
) -> Adapter:
    """The best approximation at the given rank (a truncated SVD), with alpha = rank."""
    wanted = options.rank_for(total.shape)
    if best.low_rank.rank < wanted and best.norm:
        report.add_note(f"rank {wanted} is more than some layers can have; those get their full rank (capped)")
    if any(part.adapter.bias_delta() is not None for part in parts):
        report.add_note("changes of biases are left out: a LoRA layer cannot hold them")
    low, kept, note = best.low_rank, best.kept, ""
    if options.clamp_quantile is not None:
        low, note = clamped(low, options.clamp_quantile), f"clamped at quantile {options.clamp_quantile:g}"
        kept = kept_share(low, total)
    old = sum(part.adapter.rank or 0 for part in parts) or None
    report.layers.append(LayerReport(str(layer_id), old, low.rank, kept, best.norm, note))
    return make_lora_adapter(low, None, dtype, layer_id, report)


def _factors(layer_id: LayerId, parts: list[LayerContribution], dtype: torch.dtype, report: ToolReport) -> Adapter:
    """The average of the factors: (Σ|sᵢ|Uᵢ)(Σ sᵢDᵢ) with sᵢ = √(αᵢ/α₁)·ratioᵢ and alpha α₁.

    Source: kohya's `merge_lora.py` without --concat. It is not the sum of ΔW: the products UᵢDⱼ are mixed.
    """
    loras = [(part.adapter, part.weight) for part in parts if isinstance(part.adapter, Lora)]
    ranks = [adapter.rank for adapter, _ in loras]
    if len(loras) != len(parts) or any(part.change is None or part.change.low is None for part in parts):
        kinds = ", ".join(sorted({part.adapter.kind for part in parts}))
        raise ToolError(f"the method 'factors' takes plain LoRA layers, not {kinds}; use concat or svd")
    if len(set(ranks)) != 1:
        raise ToolError(f"the method 'factors' needs equal ranks, not {ranks}; use concat or svd")
    alphas = [adapter.scaling() * adapter.rank for adapter, _ in loras]
    if any(alpha / alphas[0] < 0 for alpha in alphas if alphas[0]):
        raise ToolError("the method 'factors' needs alphas of the same sign; use concat or svd")
    scales = [(a / alphas[0]) ** 0.5 * w if alphas[0] else w for a, (_, w) in zip(alphas, loras, strict=True)]
    low = mean_factors([adapter.factors() for adapter, _ in loras], scales)
    low = low.times(alphas[0] / low.rank)
    total = sum_changes([part.change.times(part.weight) for part in parts if part.change is not None])
    kept, norm = kept_share(low, total), total.norm()
    report.layers.append(LayerReport(str(layer_id), sum(ranks), low.rank, kept, norm, "factors averaged"))
    return make_lora_adapter(low, alphas[0] or 1.0, dtype, layer_id, report)


def _norms(parts: list[LayerContribution]) -> Adapter | None:
    """The weighted sum of the changes of a norm layer's weight and bias; None for other kinds."""
    if not all(isinstance(part.adapter, Norm) for part in parts):
        return None
    tensors = {}
    for name in ("w_norm", "b_norm"):
        weighted = [p.weight * p.adapter.tensors[name].float() for p in parts if name in p.adapter.tensors]
        if weighted:
            tensors[name] = torch.stack(weighted).sum(0)
    return Norm(tensors)

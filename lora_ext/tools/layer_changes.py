"""One layer of one file, as the tools need it: its ΔW without a model, its shape, and what is written for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapters import Adapter, Full, LoHa, LoKr, Lora, adapter_from_tensors
from ..command_line import cast_tensor
from ..errors import ToolError
from ..file import peft_metadata
from ..file.cloneofsimo import TOKEN_METADATA_VALUE
from ..file.key_formats import format_keys
from ..file.loading import assemble_lora_file
from ..file.lora_file import LoraFile
from ..inject.rounding import Rounding, is_lossy_dtype, measuring_stride
from ..layer_names import UNET, LayerId
from ..lowrank import LowRank, concat
from ..rank_reduction import LowRankApproximation, RankRule, approximate_delta, reduce_rank
from ..singular_values import frobenius
from .report import ToolReport

SCALAR_SUFFIXES = frozenset({"alpha", "scale", "on_input", "bias_indices", "bias_size"})
"""Suffixes whose dtype stays: numbers, not factors."""

_WIDE = ("conv1", "conv2", "sampler.conv", "conv_in", "conv_out")
_POINT = ("conv_shortcut", "attention.proj_in", "attention.proj_out")


@dataclass(frozen=True)
class LayerChange:
    """A layer's ΔW at weight 1: of low rank, or dense (float32). One of the two is None."""

    low: LowRank | None
    dense: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in[, kh, kw])"""
        return self.low.shape if self.low is not None else tuple(self.dense.shape)  # type: ignore[union-attr]

    def times(self, factor: float) -> LayerChange:
        """factor · ΔW."""
        if self.low is not None:
            return LayerChange(self.low.times(factor))
        assert self.dense is not None
        return LayerChange(None, self.dense * factor)

    def to(self, device: torch.device) -> LayerChange:
        """On another device."""
        low = self.low and LowRank(*(t.to(device) for t in (self.low.up, self.low.gain, self.low.down)))
        return LayerChange(low, None if self.dense is None else self.dense.to(device))

    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        here = self.to(torch.device("cpu"))  # for float64
        if here.low is not None:
            return here.low.frobenius()
        assert here.dense is not None
        return frobenius(here.dense.flatten(1))

    def best_approximation(self, rule: RankRule | int) -> LowRankApproximation:
        """Its best approximation at a rank."""
        if self.low is not None and self.low.rank <= min(self.shape[0], self.low.down[0].numel()):
            return reduce_rank(self.low, rule)
        return approximate_delta(self.low.delta() if self.low is not None else self.dense, rule)  # type: ignore[arg-type]


def sum_changes(changes: list[LayerChange]) -> LayerChange:
    """ΣΔW: of low rank where all are. Raises FitError on different shapes."""
    lows = [c.low for c in changes if c.low is not None]
    if len(lows) == len(changes):
        return LayerChange(concat([low.reshaped(changes[0].shape) for low in lows]))
    shape = max((c.shape for c in changes), key=len)
    total = torch.zeros(shape, device=next(c.dense for c in changes if c.dense is not None).device)
    for change in changes:
        total += (change.low.delta() if change.low is not None else change.dense).reshape(shape)  # type: ignore[union-attr]
    return LayerChange(None, total)


def kept_share(low: LowRank, asked: LayerChange) -> float:
    """√(1 − e²) of the relative error e = ‖asked − low‖/‖asked‖: what a best approximation with that error keeps."""
    missed = sum_changes([asked, LayerChange(low.times(-1))])
    lost, norm = (change.norm() for change in (missed, asked))
    return math.sqrt(max(0.0, 1 - (lost / norm) ** 2)) if norm else 1.0


def change_of(file: LoraFile, layer_id: LayerId) -> LayerChange | None:
    """ΔW of one layer, or None where it needs the base model's weights (DoRA, IA3, OFT, GLoRA) or is no matrix."""
    adapter = file.adapters[layer_id]
    low = adapter.low_rank()
    if low is not None:
        return LayerChange(low)
    shape = shape_of(file, layer_id)
    return None if shape is None else LayerChange(None, adapter.delta(torch.zeros(shape)))


def shape_of(file: LoraFile, layer_id: LayerId) -> tuple[int, ...] | None:
    """The shape of the layer's weight, where the file alone tells ΔW; None where it does not."""
    adapter = file.adapters[layer_id]
    if adapter.magnitude() is not None:
        return None
    if isinstance(adapter, Lora):
        return adapter.factors().shape
    if isinstance(adapter, Full):
        return tuple(adapter.stored_shape("diff")) if len(adapter.stored_shape("diff")) > 1 else None
    if isinstance(adapter, LoHa):
        a, b = adapter.stored_shape("hada_w1_a"), adapter.stored_shape("hada_w1_b")
        if "hada_t1" in adapter.tensors:
            return (a[1], b[1], *adapter.stored_shape("hada_t1")[2:])
        return weight_shape_by_name(file, layer_id, a[0], b[1:].numel())
    if isinstance(adapter, LoKr):
        rows, columns = adapter.unscaled_delta(torch.zeros(())).shape
        return weight_shape_by_name(file, layer_id, rows, columns)
    return None


def weight_shape_by_name(file: LoraFile, layer_id: LayerId, rows: int, columns: int) -> tuple[int, ...]:
    """The shape of the weight that a (rows, columns) matrix belongs to: Linear, or Conv2d by the layer's name."""
    if layer_id.part == UNET and layer_id.layer.endswith(_WIDE) and columns % 9 == 0:
        return (rows, columns // 9, 3, 3)
    linear = layer_id.layer.endswith("proj_in") or layer_id.layer.endswith("proj_out")
    if layer_id.part == UNET and layer_id.layer.endswith(_POINT) and not (linear and file.family in ("SD2", "SDXL")):
        return (rows, columns, 1, 1)
    return (rows, columns)


def make_lora_adapter(
    low: LowRank, alpha: float | None, dtype: torch.dtype, where: object, report: ToolReport
) -> Adapter:
    """A LoRA layer with the given alpha (None: the rank). Raises ToolError naming a layer that dtype cannot hold."""
    return make_stored_adapter(low.to_tensors(alpha), dtype, where, report)


def make_stored_adapter(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, where: object, report: ToolReport
) -> Adapter:
    """The adapter of these tensors, factors as `dtype`; reports how much of ΔW survives that. Raises ToolError naming
    layer and tensor."""
    kept = {name: t for name, t in tensors.items() if name in SCALAR_SUFFIXES or not t.is_floating_point()}
    made = {name: cast_tensor(t, dtype, f"{where}.{name}") for name, t in tensors.items() if name not in kept}
    adapter = adapter_from_tensors({name: kept.get(name, made.get(name)) for name in tensors})  # type: ignore[misc]
    assert adapter is not None, "tensors of a known kind"
    if any(made[name].dtype != tensors[name].dtype for name in made):
        report_rounding(report, where, replace(adapter, tensors=tensors), adapter)
    return adapter


def report_rounding(report: ToolReport, where: object, exact: Adapter, stored: Adapter) -> None:
    """Reports the share of ΔW that is left in `stored`: of the LoRA itself where it is one, else of its tensors."""
    if not is_lossy_dtype(stored.dtype):
        return
    rounding = Rounding()
    lows = exact.low_rank(), stored.low_rank()
    if lows[0] is not None and lows[1] is not None:
        size = torch.Size(lows[0].shape).numel()
        rows = [replace(low, up=low.up[:: measuring_stride(size)]).delta().cpu() for low in lows if low is not None]
        rounding.add_measured(rows[0], rows[1] - rows[0], size)
        report.add_rounding(str(where), rounding.share, rounding.squared_norm, stored.dtype)
        return
    share, asked = 1.0, 1.0  # a product of factors: of each what is left of it
    for name in exact.tensors.keys() - SCALAR_SUFFIXES:
        one = Rounding()
        before = exact.tensors[name].float().cpu()
        one.add_measured(before, stored.tensors[name].float() - before, before.numel())
        share, asked = share * one.share, asked * one.squared_norm
    report.add_rounding(str(where), share, asked, stored.dtype)


def is_wide_kernel_shape(shape: tuple[int, ...]) -> bool:
    """Whether a weight of `shape` is a convolution with a kernel larger than 1x1."""
    return len(shape) > 2 and any(size > 1 for size in shape[2:])


def check_usable(file: LoraFile) -> None:
    """Raises ToolError: a file that is not for SD1, SD2 or SDXL, NaN or infinity (naming the file and the layer)."""
    if file.foreign_architecture is not None:
        raise ToolError(file.foreign_architecture.sentence(file.name))
    if file.first_non_finite_key is not None:
        raise ToolError(f"{file.path or file.name} contains NaN or infinity (first in {file.first_non_finite_key!r})")


def open_source(verb: str, file: LoraFile) -> tuple[LoraFile, ToolReport]:
    """The file without its damaged layers, and a report that names them and the keys not understood. Raises ToolError
    as `check_usable`."""
    sound = file.without_damaged()
    check_usable(sound)
    report = ToolReport(verb, not_understood={file.name: file.unrecognized_keys} if file.unrecognized_keys else {})
    report.add_source_notes(file.name, file)
    return sound, report


def with_adapters(file: LoraFile, adapters: Mapping[LayerId, Adapter], metadata: Mapping[str, str]) -> LoraFile:
    """The file with other adapters and metadata, in the spelling it had; kohya's for those that hold no alpha."""
    changed = replace(file, adapters=dict(adapters), metadata=dict(metadata))
    return in_kohya_format(changed) if file.key_format in ("cloneofsimo", "processor") else changed


def in_kohya_format(file: LoraFile) -> LoraFile:
    """The file in kohya's spelling, without the metadata by which another spelling is read."""
    metadata = {name: value for name, value in file.metadata.items() if not is_key_format_entry(name, value)}
    bare = replace(file, metadata=metadata, adapters_as_loaded={}, path=None)
    made = assemble_lora_file(format_keys(bare, "kohya"), metadata)
    return replace(made, path=file.path)


def is_key_format_entry(name: str, value: str) -> bool:
    """Whether a metadata entry is part of a spelling: PEFT's alphas, cloneofsimo's classes, ranks and tokens."""
    return (
        name == peft_metadata.PEFT_METADATA_KEY
        or bool(re.fullmatch(r"unet|text_encoder|\w+:\d+:rank", name))
        or value == TOKEN_METADATA_VALUE
    )


__all__ = [
    "LayerChange",
    "change_of",
    "check_usable",
    "in_kohya_format",
    "is_key_format_entry",
    "is_wide_kernel_shape",
    "kept_share",
    "make_lora_adapter",
    "make_stored_adapter",
    "open_source",
    "report_rounding",
    "shape_of",
    "sum_changes",
    "weight_shape_by_name",
    "with_adapters",
]

"""One layer of a LoRA file for the tools: its ΔW without a model, its shape, and the adapter that is written for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapters import Adapter, adapter_from_tensors
from ..command_line import cast_tensor
from ..errors import ToolError
from ..file import peft_metadata
from ..file.cloneofsimo import TOKEN_METADATA_VALUE
from ..file.key_formats import format_keys
from ..file.loading import assemble_lora_file
from ..file.lora_file import LoraFile, is_tensor_finite
from ..inject.rounding import Rounding, is_lossy_dtype, measuring_stride
from ..layer_names import UNET, LayerId
from ..lowrank import LowRank, concat
from ..rank_reduction import LowRankApproximation, RankRule, approximate_delta, reduce_rank
from ..singular_values import frobenius
from .report import ToolReport

SCALAR_SUFFIXES = frozenset(
    {"alpha", "scale", "on_input", "bias_indices", "bias_size", "oft_R.scaled_oft", "oft_terms"}
)
"""Suffixes of tensors that are numbers and not factors; their dtype never changes."""

_WIDE_KERNEL_NAMES = ("conv1", "conv2", "sampler.conv", "conv_in", "conv_out")
_POINTWISE_NAMES = ("conv_shortcut", "attention.proj_in", "attention.proj_out")


@dataclass(frozen=True)
class LayerChange:
    """A layer's ΔW at weight 1, either as low-rank factors or as a dense tensor.

    Attributes:
        low: the factors, or None.
        dense: ΔW as float32, (out, in[, kh, kw]), or None.
    """

    low: LowRank | None
    dense: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW, (out, in[, kh, kw])."""
        return self.low.shape if self.low is not None else tuple(self.dense.shape)  # type: ignore[union-attr]

    def times(self, factor: float) -> LayerChange:
        """Factor · ΔW."""
        if self.low is not None:
            return LayerChange(self.low.times(factor))
        assert self.dense is not None
        return LayerChange(None, self.dense * factor)

    def to(self, device: torch.device) -> LayerChange:
        """The same ΔW on another device."""
        tensor = self.dense if self.low is None else self.low.up
        if tensor is not None and tensor.device == device:
            return self
        low = self.low and LowRank(*(t.to(device) for t in (self.low.up, self.low.gain, self.low.down)))
        return LayerChange(low, None if self.dense is None else self.dense.to(device))

    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        on_cpu = self.to(torch.device("cpu"))  # norms are summed in float64, which MPS does not have
        if on_cpu.low is not None:
            return on_cpu.low.frobenius()
        assert on_cpu.dense is not None
        return frobenius(on_cpu.dense.flatten(1))

    @property
    def has_thin_factors(self) -> bool:
        """Whether ΔW has factors whose rank is at most its rows and columns."""
        return self.low is not None and self.low.rank <= min(self.shape[0], self.low.down[0].numel())

    def best_approximation(self, rule: RankRule | int) -> LowRankApproximation:
        """The best approximation of ΔW at a rank (a truncated SVD), or at the rank that a rule chooses."""
        if self.low is not None and self.has_thin_factors:
            return reduce_rank(self.low, rule)
        return approximate_delta(self.low.delta() if self.low is not None else self.dense, rule)  # type: ignore[arg-type]


def sum_changes(changes: list[LayerChange]) -> LayerChange:
    """The sum of the changes: in factors where all are, else dense.

    Raises:
        FitError: their shapes differ.
    """
    lows = [c.low for c in changes if c.low is not None]
    if len(lows) == len(changes):
        return LayerChange(concat([low.reshaped(changes[0].shape) for low in lows]))
    shape = max((c.shape for c in changes), key=len)
    total = torch.zeros(shape, device=next(c.dense for c in changes if c.dense is not None).device)
    for change in changes:
        total += (change.low.delta() if change.low is not None else change.dense).reshape(shape)  # type: ignore[union-attr]
    return LayerChange(None, total)


def kept_share(low: LowRank, change: LayerChange) -> float:
    """The share of ‖change‖ that a best approximation with the error of `low` would keep, 0 to 1.

    With the relative error e = ‖change − low‖ / ‖change‖ that is √(1 − e²): a truncated SVD is orthogonal to its error.
    """
    missed = sum_changes([change, LayerChange(low.times(-1))])
    lost, norm = missed.norm(), change.norm()
    return math.sqrt(max(0.0, 1 - (lost / norm) ** 2)) if norm else 1.0


def change_of(file: LoraFile, layer_id: LayerId) -> LayerChange | None:
    """Returns ΔW of one layer of a file.

    Args:
        file: the file.
        layer_id: the layer.

    Returns:
        ΔW; None where it depends on the base model's weights (DoRA, IA3, OFT, GLoRA) or is not a matrix.
    """
    adapter = file.adapters[layer_id]
    low = adapter.low_rank()
    if low is not None:
        return LayerChange(low)
    shape = shape_of(file, layer_id)
    return None if shape is None else LayerChange(None, adapter.delta(torch.zeros(shape)))


def shape_of(file: LoraFile, layer_id: LayerId) -> tuple[int, ...] | None:
    """The shape of a layer's weight, (out, in[, kh, kw]); None where ΔW depends on the base model's weights."""
    adapter = file.adapters[layer_id]
    shape = None if adapter.magnitude() is not None else adapter.delta_shape()
    if shape is None or len(shape) > 2 or not adapter.flattens_kernel:
        return shape
    return weight_shape_by_name(file, layer_id, *shape)


def weight_shape_by_name(file: LoraFile, layer_id: LayerId, rows: int, columns: int) -> tuple[int, ...]:
    """The shape of the weight that a (rows, columns) matrix belongs to.

    LoHa and LoKr files store ΔW as a matrix, so that only the layer's name tells a Conv2d from a Linear. SD2 and SDXL
    have Linear layers as proj_in and proj_out of attention, SD1 has 1x1 convolutions.
    """
    if layer_id.part == UNET and layer_id.layer.endswith(_WIDE_KERNEL_NAMES) and columns % 9 == 0:
        return (rows, columns // 9, 3, 3)
    if layer_id.part != UNET or not layer_id.layer.endswith(_POINTWISE_NAMES):
        return (rows, columns)
    is_linear = layer_id.layer.endswith(("proj_in", "proj_out")) and file.family in ("SD2", "SDXL")
    return (rows, columns) if is_linear else (rows, columns, 1, 1)


def make_lora_adapter(
    low: LowRank, alpha: float | None, dtype: torch.dtype, where: object, report: ToolReport
) -> Adapter:
    """The LoRA layer with these factors.

    Args:
        low: the factors of ΔW.
        alpha: the layer's alpha; None for its rank, so that the scale is 1.
        dtype: of the factors that are stored.
        where: the layer, for messages and the report.
        report: gets how much of ΔW survives rounding to `dtype`.

    Raises:
        ToolError: a number that `dtype` cannot hold (naming the layer).
    """
    return make_stored_adapter(low.to_tensors(alpha), dtype, where, report)


def make_stored_adapter(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, where: object, report: ToolReport
) -> Adapter:
    """The adapter with these tensors, its factors rounded to `dtype`.

    Args:
        tensors: suffix → tensor, of a known adapter kind.
        dtype: of the factors; the numbers of `SCALAR_SUFFIXES` and integers stay as they are.
        where: the layer, for messages and the report.
        report: gets how much of ΔW survives rounding.

    Raises:
        ToolError: NaN, or a number that `dtype` cannot hold (naming the layer and the tensor).
    """
    kept = {name: t for name, t in tensors.items() if name in SCALAR_SUFFIXES or not t.is_floating_point()}
    for name, tensor in kept.items():
        if not is_tensor_finite(tensor):
            raise ToolError(f"{where}.{name} contains NaN or infinity")
    cast = {name: cast_tensor(t, dtype, f"{where}.{name}") for name, t in tensors.items() if name not in kept}
    adapter = adapter_from_tensors({name: kept.get(name, cast.get(name)) for name in tensors})  # type: ignore[misc]
    assert adapter is not None, "tensors of a known kind"
    if any(cast[name].dtype != tensors[name].dtype for name in cast):
        report_rounding(report, where, type(adapter)(tensors), adapter)
    return adapter


def report_rounding(report: ToolReport, where: object, exact: Adapter, stored: Adapter) -> None:
    """Adds the share of ΔW that survived rounding in `stored` to the report, measured against `exact`.

    LoRA layers are measured by their ΔW (every n-th row of a large one), other kinds by their tensors.
    """
    if not is_lossy_dtype(stored.dtype):
        return
    rounding = Rounding()
    low, rounded = exact.low_rank(), stored.low_rank()
    if low is not None and rounded is not None:
        size = torch.Size(low.shape).numel()
        step = measuring_stride(size)
        up, down = _sampled_factors(low, step)
        delta = up @ down
        # what is stored less what is exact, without a second ΔW: this is done for each layer of each file
        error = torch.addmm(delta, *_sampled_factors(rounded, step), beta=-1)
        rounding.add_measured(delta, error, size)
        report.add_rounding(str(where), rounding.share, rounding.squared_norm, stored.dtype)
        return
    share, squared_norm = (
        1.0,
        1.0,
    )  # ΔW is a product of the factors, so what is left of it is about the product of their shares
    for name in exact.tensors.keys() - SCALAR_SUFFIXES:
        one = Rounding()
        before = exact.tensors[name].float().cpu()
        one.add_measured(before, stored.tensors[name].float() - before, before.numel())
        share, squared_norm = share * one.share, squared_norm * one.squared_norm
    report.add_rounding(str(where), share, squared_norm, stored.dtype)


def _sampled_factors(low: LowRank, step: int) -> tuple[Tensor, Tensor]:
    """U·diag(g) of every `step`-th row, and D as a matrix: their product is these rows of ΔW."""
    return low.up[::step].float().cpu() * low.gain.float().cpu(), low.down.flatten(1).float().cpu()


def is_wide_kernel_shape(shape: tuple[int, ...]) -> bool:
    """Whether a weight of `shape` is a convolution with a kernel larger than 1x1.

    Example:
        >>> is_wide_kernel_shape((320, 320, 3, 3)), is_wide_kernel_shape((320, 320, 1, 1))
        (True, False)
    """
    return len(shape) > 2 and any(size > 1 for size in shape[2:])


def check_usable(file: LoraFile) -> None:
    """Checks that a tool can work with a file.

    Args:
        file: the file.

    Raises:
        ToolError: it is not for SD1, SD2 or SDXL, or contains NaN or infinity (naming the file and the layer).
    """
    if file.foreign_architecture is not None:
        raise ToolError(file.foreign_architecture.sentence(file.name))
    if file.first_non_finite_key is not None:
        raise ToolError(f"{file.path or file.name} contains NaN or infinity (first in {file.first_non_finite_key!r})")


def check_usable_beside_layers(file: LoraFile) -> None:
    """As `check_usable`, for tools that find NaN and infinity in layers while they compute with these.

    Such a tool calls `check_usable` after an error, whose message names the file.
    """
    check_usable(replace(file, adapters={}))


def open_source(verb: str, file: LoraFile, *, finds_non_finite: bool = False) -> tuple[LoraFile, ToolReport]:
    """The file without its damaged layers, and a new report that names them and the keys that were not understood.

    Args:
        verb: the command's name.
        file: the file.
        finds_non_finite: whether the tool checks layers itself: see `check_usable_beside_layers`.

    Raises:
        ToolError: as `check_usable`.
    """
    sound = file.without_damaged()
    (check_usable_beside_layers if finds_non_finite else check_usable)(sound)
    report = ToolReport(verb, not_understood={file.name: file.unrecognized_keys} if file.unrecognized_keys else {})
    report.add_source_notes(file.name, file)
    return sound, report


def with_adapters(file: LoraFile, adapters: Mapping[LayerId, Adapter], metadata: Mapping[str, str]) -> LoraFile:
    """The file with other adapters and metadata, in the key format that it had.

    Key formats without an alpha (cloneofsimo's, diffusers' attention processors) become kohya's.
    """
    changed = replace(file, adapters=dict(adapters), metadata=dict(metadata))
    return in_kohya_format(changed) if file.key_format in ("cloneofsimo", "processor") else changed


def in_kohya_format(file: LoraFile) -> LoraFile:
    """The file in kohya's key format, without the metadata that belongs to another key format."""
    metadata = {name: value for name, value in file.metadata.items() if not is_key_format_entry(name, value)}
    bare = replace(file, metadata=metadata, adapters_as_loaded={}, path=None)
    cast = assemble_lora_file(format_keys(bare, "kohya"), metadata)
    return replace(cast, path=file.path)


def is_key_format_entry(name: str, value: str) -> bool:
    """Whether a metadata entry belongs to a key format: PEFT's alphas, cloneofsimo's classes, ranks and tokens."""
    return (
        name == peft_metadata.PEFT_METADATA_KEY
        or bool(re.fullmatch(r"unet|text_encoder|\w+:\d+:rank", name))
        or value == TOKEN_METADATA_VALUE
    )


__all__ = [
    "LayerChange",
    "change_of",
    "check_usable",
    "check_usable_beside_layers",
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

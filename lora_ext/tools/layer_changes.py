"""One layer of one file, as the tools need it: its ΔW without a model, its shape, and what is written for it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adapters import Adapter, Full, LoHa, LoKr, Lora, adapter_of
from ..command_line import cast
from ..errors import ToolError
from ..file import peft_metadata
from ..file.cloneofsimo import EMBED
from ..file.key_formats import spell
from ..file.loading import assemble
from ..file.lora_file import LoraFile
from ..inject.rounding import Rounding, coarse, sample_step
from ..layer_names import UNET, Site
from ..lowrank import Best, LowRank, Rule, concat, from_delta, shrink
from ..singular_values import frobenius
from .report import Report

NUMBERS = frozenset({"alpha", "scale", "on_input", "bias_indices", "bias_size"})
"""Suffixes whose dtype stays: numbers, not factors."""

_WIDE = ("conv1", "conv2", "sampler.conv", "conv_in", "conv_out")
_POINT = ("conv_shortcut", "attention.proj_in", "attention.proj_out")


@dataclass(frozen=True)
class Change:
    """A layer's ΔW at weight 1: of low rank, or dense (float32). One of the two is None."""

    low: LowRank | None
    dense: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in[, kh, kw])"""
        return self.low.shape if self.low is not None else tuple(self.dense.shape)  # type: ignore[union-attr]

    def times(self, factor: float) -> Change:
        """factor · ΔW."""
        if self.low is not None:
            return Change(self.low.times(factor))
        assert self.dense is not None
        return Change(None, self.dense * factor)

    def to(self, device: torch.device) -> Change:
        """On another device."""
        low = self.low and LowRank(*(t.to(device) for t in (self.low.up, self.low.gain, self.low.down)))
        return Change(low, None if self.dense is None else self.dense.to(device))

    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        here = self.to(torch.device("cpu"))  # for float64
        if here.low is not None:
            return here.low.frobenius()
        assert here.dense is not None
        return frobenius(here.dense.flatten(1))

    def best(self, rule: Rule | int) -> Best:
        """Its best approximation at a rank."""
        if self.low is not None and self.low.rank <= min(self.shape[0], self.low.down[0].numel()):
            return shrink(self.low, rule)
        return from_delta(self.low.delta() if self.low is not None else self.dense, rule)  # type: ignore[arg-type]


def added(changes: list[Change]) -> Change:
    """ΣΔW: of low rank where all are. Raises FitError on different shapes."""
    lows = [c.low for c in changes if c.low is not None]
    if len(lows) == len(changes):
        return Change(concat([low.reshaped(changes[0].shape) for low in lows]))
    shape = max((c.shape for c in changes), key=len)
    total = torch.zeros(shape, device=next(c.dense for c in changes if c.dense is not None).device)
    for change in changes:
        total += (change.low.delta() if change.low is not None else change.dense).reshape(shape)  # type: ignore[union-attr]
    return Change(None, total)


def kept_by(low: LowRank, asked: Change) -> float:
    """√(1 − e²) of the relative error e = ‖asked − low‖/‖asked‖: what a best approximation with that error keeps."""
    missed = added([asked, Change(low.times(-1))])
    lost, norm = (change.norm() for change in (missed, asked))
    return math.sqrt(max(0.0, 1 - (lost / norm) ** 2)) if norm else 1.0


def change_of(file: LoraFile, site: Site) -> Change | None:
    """ΔW of one layer, or None where it needs the base model's weights (DoRA, IA3, OFT, GLoRA) or is no matrix."""
    adapter = file.adapters[site]
    low = adapter.low_rank()
    if low is not None:
        return Change(low)
    shape = shape_of(file, site)
    return None if shape is None else Change(None, adapter.delta(torch.zeros(shape)))


def shape_of(file: LoraFile, site: Site) -> tuple[int, ...] | None:
    """The shape of the layer's weight, where the file alone tells ΔW; None where it does not."""
    adapter = file.adapters[site]
    if adapter.magnitude() is not None:
        return None
    if isinstance(adapter, Lora):
        return adapter.factors().shape
    if isinstance(adapter, Full):
        return tuple(adapter.shape("diff")) if len(adapter.shape("diff")) > 1 else None
    if isinstance(adapter, LoHa):
        a, b = adapter.shape("hada_w1_a"), adapter.shape("hada_w1_b")
        if "hada_t1" in adapter.tensors:
            return (a[1], b[1], *adapter.shape("hada_t1")[2:])
        return laid_out(file, site, a[0], b[1:].numel())
    if isinstance(adapter, LoKr):
        rows, columns = adapter.raw(torch.zeros(())).shape
        return laid_out(file, site, rows, columns)
    return None


def laid_out(file: LoraFile, site: Site, rows: int, columns: int) -> tuple[int, ...]:
    """The shape of the weight that a (rows, columns) matrix belongs to: Linear, or Conv2d by the layer's name."""
    if site.part == UNET and site.leaf.endswith(_WIDE) and columns % 9 == 0:
        return (rows, columns // 9, 3, 3)
    linear = site.leaf.endswith("proj_in") or site.leaf.endswith("proj_out")
    if site.part == UNET and site.leaf.endswith(_POINT) and not (linear and file.family in ("SD2", "SDXL")):
        return (rows, columns, 1, 1)
    return (rows, columns)


def lora_of(low: LowRank, alpha: float | None, dtype: torch.dtype, where: object, report: Report) -> Adapter:
    """A LoRA layer with the given alpha (None: the rank). Raises ToolError naming a layer that dtype cannot hold."""
    return stored_as(low.stored(alpha), dtype, where, report)


def stored_as(tensors: Mapping[str, Tensor], dtype: torch.dtype, where: object, report: Report) -> Adapter:
    """The adapter of these tensors, factors as `dtype`; reports how much of ΔW survives that. Raises ToolError naming
    layer and tensor."""
    kept = {name: t for name, t in tensors.items() if name in NUMBERS or not t.is_floating_point()}
    made = {name: cast(t, dtype, f"{where}.{name}") for name, t in tensors.items() if name not in kept}
    adapter = adapter_of({name: kept.get(name, made.get(name)) for name in tensors})  # type: ignore[misc]
    assert adapter is not None, "tensors of a known kind"
    if any(made[name].dtype != tensors[name].dtype for name in made):
        report_rounding(report, where, replace(adapter, tensors=tensors), adapter)
    return adapter


def report_rounding(report: Report, where: object, exact: Adapter, stored: Adapter) -> None:
    """Reports the share of ΔW that is left in `stored`: of the LoRA itself where it is one, else of its tensors."""
    if not coarse(stored.dtype):
        return
    rounding = Rounding()
    lows = exact.low_rank(), stored.low_rank()
    if lows[0] is not None and lows[1] is not None:
        size = torch.Size(lows[0].shape).numel()
        rows = [replace(low, up=low.up[:: sample_step(size)]).delta().cpu() for low in lows if low is not None]
        rounding.add(rows[0], rows[1] - rows[0], size)
        report.rounded(str(where), rounding.share, rounding.asked, stored.dtype)
        return
    share, asked = 1.0, 1.0  # a product of factors: of each what is left of it
    for name in exact.tensors.keys() - NUMBERS:
        one = Rounding()
        before = exact.tensors[name].float().cpu()
        one.add(before, stored.tensors[name].float() - before, before.numel())
        share, asked = share * one.share, asked * one.asked
    report.rounded(str(where), share, asked, stored.dtype)


def wide_kernel(shape: tuple[int, ...]) -> bool:
    """Whether a weight of `shape` is a convolution with a kernel larger than 1x1."""
    return len(shape) > 2 and any(size > 1 for size in shape[2:])


def check_usable(file: LoraFile) -> None:
    """Raises ToolError: a file that is not for SD1, SD2 or SDXL, NaN or infinity (naming the file and the layer)."""
    if file.other is not None:
        raise ToolError(file.other.sentence(file.name))
    if file.first_bad is not None:
        raise ToolError(f"{file.path or file.name} contains NaN or infinity (first in {file.first_bad!r})")


def opened(verb: str, file: LoraFile) -> tuple[LoraFile, Report]:
    """The file without its damaged layers, and a report that names them and the keys not understood. Raises ToolError
    as `check_usable`."""
    sound = file.without_damaged()
    check_usable(sound)
    report = Report(verb, unread={file.name: file.unknown} if file.unknown else {})
    report.source(file.name, file)
    return sound, report


def with_adapters(file: LoraFile, adapters: Mapping[Site, Adapter], metadata: Mapping[str, str]) -> LoraFile:
    """The file with other adapters and metadata, in the spelling it had; kohya's for those that hold no alpha."""
    changed = replace(file, adapters=dict(adapters), metadata=dict(metadata))
    return in_kohya(changed) if file.dialect in ("cloneofsimo", "processor") else changed


def in_kohya(file: LoraFile) -> LoraFile:
    """The file in kohya's spelling, without the metadata by which another spelling is read."""
    metadata = {name: value for name, value in file.metadata.items() if not describes_keys(name, value)}
    bare = replace(file, metadata=metadata, described={}, path=None)
    made = assemble(spell(bare, "kohya"), metadata)
    return replace(made, path=file.path)


def describes_keys(name: str, value: str) -> bool:
    """Whether a metadata entry is part of a spelling: PEFT's alphas, cloneofsimo's classes, ranks and tokens."""
    return name == peft_metadata.KEY or bool(re.fullmatch(r"unet|text_encoder|\w+:\d+:rank", name)) or value == EMBED


__all__ = [
    "Change",
    "added",
    "change_of",
    "check_usable",
    "describes_keys",
    "in_kohya",
    "kept_by",
    "laid_out",
    "lora_of",
    "opened",
    "report_rounding",
    "shape_of",
    "stored_as",
    "wide_kernel",
    "with_adapters",
]

"""The report of a tool, layer by layer: a text table for people, JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from ..console import print_text
from ..counted_words import counted
from ..file.lora_file import LoraFile
from ..inject.rounding import ROUNDING_WARNING_SHARE, combined_surviving_share
from ..json_text import dataclass_fields

_VERBS_WITH_SEVERAL_SOURCES = ("merge", "svd-merge", "extract")

NO_CHANGE = 1e-6
"""‖ΔW‖ of a layer that was trained to nothing; `RankRule` keeps one rank of those."""

MAX_TABLE_ROWS = 10
"""Rows of the text's table without `verbose`. A file has 200 to 1000 layers, and after a resize each row differs."""


@dataclass(frozen=True)
class LayerRounding:
    """How much of a layer's ΔW survived rounding to the dtype that was written.

    Attributes:
        share: the share that survived, 0 to 1.
        squared_norm: ‖ΔW‖², the layer's weight in the total; 0 if unknown.
        dtype: the dtype that was written.
    """

    share: float
    squared_norm: float
    dtype: torch.dtype


@dataclass(frozen=True)
class LayerReport:
    """One layer of a tool's result.

    Attributes:
        name: the layer.
        old: rank before, or the sum of the sources' ranks; None for a full matrix.
        new: rank after; None for a full matrix.
        kept: share of the Frobenius norm that a best approximation kept, ‖result‖ / ‖exact ΔW‖; 1 is exact. Of other
            results (clamped, factors averaged) the share that a best one with the same error would keep.
        norm: ‖exact ΔW‖, the layer's weight in the total; None where it was not computed.
        note: a remark for the table.
    """

    name: str
    old: int | None
    new: int | None
    kept: float = 1.0
    norm: float | None = None
    note: str = ""

    @property
    def loss(self) -> float:
        """The relative error ‖ΔW − result‖ / ‖ΔW‖, 0 to 1.

        Example:
            >>> LayerReport("unet.MID", old=16, new=4, kept=0.6).loss
            0.8
        """
        return math.sqrt(max(0.0, 1.0 - self.kept**2))

    @property
    def changes_nothing(self) -> bool:
        """Whether its ΔW is known and nothing."""
        return self.norm is not None and self.norm <= NO_CHANGE

    @property
    def kept_of_change(self) -> float:
        """`kept` where the layer changes anything, else 1: of a ΔW that is nothing nothing is lost."""
        return 1.0 if self.changes_nothing else self.kept

    @property
    def remark(self) -> str:
        """The note; without one that the layer changes nothing, where it does not: its rank in the result is 1."""
        return self.note or ("changes nothing" if self.changes_nothing else "")


@dataclass(frozen=True)
class ReportRow:
    """One layer in a report's JSON; `survived` is the share of ΔW that survived rounding."""

    layer: str
    old_rank: int | None
    new_rank: int | None
    kept: float
    norm: float | None
    note: str
    survived: float


@dataclass(frozen=True)
class ReportTotals:
    """All layers together in a report's JSON; see `ToolReport.kept` and `ToolReport.survived`."""

    layers: int
    rank_before: int
    rank_after: int
    kept: float
    survived: float


@dataclass(frozen=True)
class LargestLoss:
    """The layer that lost most, in a report's JSON."""

    layer: str
    kept: float
    loss: float


@dataclass(frozen=True)
class ReportData:
    """A report's JSON.

    Attributes:
        verb: The command's name.
        matched: Number of layers in the result that every source has.
        only_in: Source → layers that only it has.
        not_understood: Source → keys of it that were not understood.
        left_out: Source → layers of it that are not in the result.
        unchanged: Layers that are as they were.
        layers: The layers of the result.
        totals: All layers together.
        largest_loss: The layer that lost most; null where nothing was lost.
        notes: Sentences for the user.
        outputs: Paths that were written.
    """

    verb: str
    matched: int
    only_in: dict[str, list[str]]
    not_understood: dict[str, list[str]]
    left_out: dict[str, list[str]]
    unchanged: list[str]
    layers: list[ReportRow]
    totals: ReportTotals
    largest_loss: LargestLoss | None
    notes: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class SplitReportData(ReportData):
    """The JSON of a report of split-dylora.

    Attributes:
        alpha: The rule by which alpha was chosen.
    """

    alpha: str


@dataclass
class ToolReport:
    """The report of a tool; it is filled while the tool works.

    Attributes:
        verb: the command's name.
        layers: the layers of the result.
        only_in: source → layers that only it has.
        not_understood: source → keys of it that were not understood.
        left_out: source → layers of it that are not in the result.
        unchanged: layers that are as they were.
        notes: sentences for the user.
        outputs: paths that were written.
        alpha: the rule by which split-dylora chose alpha; None for other tools.
        rounding: layer → how much of its ΔW survived rounding.
    """

    verb: str
    layers: list[LayerReport] = field(default_factory=list)
    only_in: dict[str, list[str]] = field(default_factory=dict)
    not_understood: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    alpha: str | None = None
    rounding: dict[str, LayerRounding] = field(default_factory=dict)

    @property
    def matched(self) -> int:
        """Number of layers in the result that every source has."""
        alone = {name for names in self.only_in.values() for name in names}
        return sum(layer.name not in alone for layer in self.layers)

    @property
    def kept(self) -> float:
        """Share of the Frobenius norm of all layers together that is kept: √(Σ(kept·norm)² / Σnorm²)."""
        measured = [(layer.kept, layer.norm) for layer in self.layers if layer.norm]
        total = sum(norm**2 for _, norm in measured)
        return math.sqrt(sum((kept * norm) ** 2 for kept, norm in measured) / total) if total else 1.0

    @property
    def survived(self) -> float:
        """Share of ΔW of all layers together that survived rounding, weighted by ‖ΔW‖²."""
        return combined_surviving_share(self.rounding.values())

    def add_rounding(self, name: str, share: float, squared_norm: float, dtype: torch.dtype) -> None:
        """Records how much of a layer's ΔW survived rounding; the smallest share of several calls counts.

        Args:
            name: the layer.
            share: the share that survived, 0 to 1.
            squared_norm: ‖ΔW‖².
            dtype: the dtype that was written.
        """
        if name not in self.rounding or share < self.rounding[name].share:
            self.rounding[name] = LayerRounding(share, squared_norm, dtype)

    @property
    def worst(self) -> LayerReport | None:
        """The layer with the largest relative loss, None where nothing was lost."""
        worst = min(self.layers, key=lambda layer: layer.kept_of_change, default=None)
        return worst if worst is not None and worst.kept_of_change < 1.0 else None

    def add_source_notes(self, name: str, file: LoraFile) -> None:
        """Adds notes on a source: damaged layers that are left out, and a strength that had to be assumed."""
        if file.damaged:
            reason = file.first_damage_reason
            self.add_note(
                counted(
                    len(file.damaged),
                    f"damaged layer of {name} left out: {reason}",
                    f"damaged layers of {name} left out: {reason}",
                )
            )
        for text in filter(None, (file.assumed, *file.notes)):
            self.add_note(f"{name}: {text}")

    def add_note(self, text: str) -> None:
        """Adds a sentence for the user; equal sentences are added once."""
        if text not in self.notes:
            self.notes.append(text)

    def data(self) -> ReportData:
        """The whole report as plain data."""
        worst = self.worst
        found = ReportData(
            verb=self.verb,
            matched=self.matched,
            only_in=self.only_in,
            not_understood=self.not_understood,
            left_out=self.left_out,
            unchanged=self.unchanged,
            layers=[_row(layer, self.rounding) for layer in self.layers],
            totals=ReportTotals(
                layers=len(self.layers),
                rank_before=sum(layer.old or 0 for layer in self.layers),
                rank_after=sum(layer.new or 0 for layer in self.layers),
                kept=self.kept,
                survived=self.survived,
            ),
            largest_loss=None if worst is None else LargestLoss(worst.name, worst.kept, worst.loss),
            notes=[*self.notes, *self._rounding_warning()],
            outputs=self.outputs,
        )
        return found if self.alpha is None else SplitReportData(**vars(found), alpha=self.alpha)

    def text(self, *, verbose: bool = False) -> str:
        """Formats the report: a table of the layers and a summary.

        Args:
            verbose: lists every layer; otherwise the table has at most `MAX_TABLE_ROWS` rows, of the layers that lost
                most.

        Returns:
            Lines of text.
        """
        lines = list(_table(self.layers, verbose))
        several = self.only_in or self.verb in _VERBS_WITH_SEVERAL_SOURCES
        lines.append(
            f"{self.verb}: {counted(self.matched, 'layer')} matched"
            if several
            else f"{self.verb}: {counted(len(self.layers), 'layer')}"
        )
        for source, names in self.only_in.items():
            lines.append(f"  {len(names)} only in {source}{_such_as(names)}")
        for source, keys in self.not_understood.items():
            lines.append(f"  {counted(len(keys), 'key')} not understood in {source}{_such_as(keys)}")
        for source, names in self.left_out.items():
            lines.append(f"  {counted(len(names), 'layer')} of {source} left out{_such_as(names)}")
        if self.unchanged:
            lines.append(
                f"  {counted(len(self.unchanged), 'layer as it was', 'layers as they were')}{_such_as(self.unchanged)}"
            )
        if self.layers:
            before, after = (sum(getattr(layer, side) or 0 for layer in self.layers) for side in ("old", "new"))
            lines.append(f"  ranks in all: {before} -> {after}; {_percent(self.kept)} of the norm kept")
        worst = self.worst
        if worst is not None and worst.loss >= 5e-5:
            lines.append(f"  largest loss: {worst.name} keeps {_percent(worst.kept)} (error {_percent(worst.loss)})")
        if self.rounding:
            dtypes = ", ".join(sorted({_name(layer.dtype) for layer in self.rounding.values()}))
            lines.append(f"  {_percent(self.survived)} of the change survived rounding to {dtypes}")
        lines += [f"  {note}" for note in (*self.notes, *self._rounding_warning())]
        lines += [f"  written: {path}" for path in self.outputs]
        return "\n".join(lines) + "\n"

    def _rounding_warning(self) -> list[str]:
        """The warning that too little of the change survived rounding; empty where enough did."""
        low = {name: layer for name, layer in self.rounding.items() if layer.share < ROUNDING_WARNING_SHARE}
        if self.survived >= ROUNDING_WARNING_SHARE or not low:
            return []
        name, worst = min(low.items(), key=lambda item: item[1].share)
        better = "fp16" if worst.dtype.itemsize == 1 else "float"
        return [
            f"WARNING: only {_percent(self.survived)} of the change is in the result, the rest is lost by rounding to "
            f"{_name(worst.dtype)} (less than {ROUNDING_WARNING_SHARE:.0%} of it in {counted(len(low), 'layer')}; "
            f"{name} {_percent(worst.share)}); save as {better}: "
            f"--save_precision {better}"
        ]


def _row(layer: LayerReport, rounding: Mapping[str, LayerRounding]) -> ReportRow:
    survived = rounding[layer.name].share if layer.name in rounding else 1.0
    return ReportRow(layer.name, layer.old, layer.new, layer.kept, layer.norm, layer.remark, survived)


def _table(layers: Sequence[LayerReport], verbose: bool) -> Iterable[str]:
    """One line for each layer; without `verbose` equal layers share a line, and only the worst ones are listed."""
    if not layers:
        return
    groups = [[layer] for layer in layers] if verbose else _groups(layers)
    shown = groups if verbose else groups[:MAX_TABLE_ROWS]
    yield f"  {'rank':>5}    {'new':>5}   {'kept':>7}  layer"
    for group in shown:
        first, more = group[0], f" and {len(group) - 1} more" if len(group) > 1 else ""
        note = f"  ({first.remark})" if first.remark else ""
        ranks = f"{_rank(first.old):>5} -> {_rank(first.new):>5}"
        yield f"  {ranks}   {_percent(first.kept):>7}  {first.name}{more}{note}"
    hidden = [layer for group in groups[len(shown) :] for layer in group]
    if hidden:
        least = _percent(min(layer.kept_of_change for layer in hidden))
        yield f"  … and {counted(len(hidden), 'more layer')}, each keeps {least} or more: --verbose lists all"


def _groups(layers: Sequence[LayerReport]) -> list[list[LayerReport]]:
    """Layers that share ranks, share kept and note: those next to each other, in the order of the file. Where these
    are too many to show: all that are equal, those that lost most first.
    """

    def alike(layer: LayerReport) -> tuple[object, ...]:
        return layer.old, layer.new, layer.kept, layer.remark

    near = [list(group) for _, group in groupby(layers, key=alike)]
    if len(near) <= MAX_TABLE_ROWS:
        return near
    found: dict[tuple[object, ...], list[LayerReport]] = {}
    for layer in layers:
        found.setdefault(alike(layer), []).append(layer)
    return sorted(found.values(), key=lambda group: group[0].kept_of_change)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rank(rank: int | None) -> str:
    return "full" if rank is None else str(rank)


def _percent(share: float) -> str:
    """A share with two digits after the point; anything less than all never reads as 100%."""
    text = f"{100 * share:.2f}%"
    return "99.99%" if text == "100.00%" and share < 0.999999 else text.replace("100.00%", "100%")


def _such_as(names: Iterable[str]) -> str:
    names = list(names)
    return (f": {names[0]}" if len(names) == 1 else f", such as {names[0]}") if names else ""


def print_report(report: ToolReport, *, as_json: bool = False, verbose: bool = False) -> None:
    """Prints a report to standard output, as JSON or as text; characters that the console lacks are replaced."""
    if as_json:
        text = json.dumps(report.data(), indent=2, ensure_ascii=False, default=dataclass_fields) + "\n"
    else:
        text = report.text(verbose=verbose)
    print_text(text, end="")


def note_unused_options(report: ToolReport, args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Adds a note for each of the options `names` that was given for nothing.

    Args:
        report: gets the notes.
        args: the parsed command line.
        names: options, without dashes.
        why: the end of the sentence "--NAME changes nothing …", such as "with --method concat".
    """
    for name in names:
        if getattr(args, name, None) is not None:
            report.add_note(f"--{name} changes nothing {why}")

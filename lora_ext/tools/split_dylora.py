"""`split-dylora`: one DyLoRA file → one LoRA file a rank: unit, 2·unit, … and the full rank.

What alpha a prefix of b of R ranks gets decides how strongly it acts:
keep: alpha stays, as kohya's `extract_lora_from_dylora.py` has it (so a prefix acts at alpha/b).
trained: as the prefix acted in training, by the scale rule that the metadata records (`SPLIT_SCALE_KEY`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ..adapters import Adapter
from ..command_line import CommandParser, check_output_path, parse_precision, widest_dtype
from ..errors import ToolError, did_you_mean
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..progress import Track, no_progress, progress_bar
from .layer_changes import make_stored_adapter, open_source, with_adapters
from .report import LayerReport, ToolReport, print_report
from .result_metadata import (
    SPLIT_SCALE_KEY,
    as_plain_lora_metadata,
    carry_metadata,
    save_tool_result,
    source_record,
    with_network_dims,
)

DYLORA_SCALE_RULES = {
    "full": lambda b, full: b / full,
    "prefix": lambda b, full: 1.0,
    "sqrt": lambda b, full: math.sqrt(b / full),
}
"""Rule → the prefix's alpha as a multiple of the file's. full: scale alpha/R whatever b; prefix: alpha/b;
sqrt: alpha/R·√(R/b) (kohya's `dylora.py`)."""

SPLIT_ALPHA_RULES = ("trained", "keep")


def split_dylora(
    file: LoraFile,
    unit: int | None = None,
    *,
    alpha: str | None = None,
    dtype: torch.dtype | None = None,
    track: Track = no_progress,
) -> tuple[dict[int, LoraFile], ToolReport]:
    """rank → file, for every multiple of `unit` and the full rank, and the report of the whole.

    unit: None for what the metadata says. alpha: "trained", "keep", None for trained where the metadata records how.
    Layers of a smaller rank are whole in every file above it. Raises ToolError: no LoRA layer, no unit, a unit above
    the rank, "trained" where nothing tells how, NaN.
    """
    file, report = open_source("split-dylora", file)
    ranks = {site: adapter.rank for site, adapter in file.adapters.items() if adapter.kind == "LoRA" and adapter.rank}
    if not ranks:
        raise ToolError(f"{file.path or file.name} has no LoRA layer to split ({', '.join(file.kinds) or 'no layers'})")
    full = max(ranks.values())
    unit = _unit(file, unit, full)
    rule = _scale_rule(file, alpha)
    if file.dylora_unit is None:
        report.add_note("its metadata names no DyLoRA; the first ranks of another LoRA make no sense alone")
    report.unchanged += [str(site) for site in file.adapters if site not in ranks]
    report.extra["alpha"] = rule or "keep"
    report.add_note(f"alpha: {'kept' if rule is None else f'as trained (scale rule {rule!r})'}")
    files = {}
    for rank in track([*range(unit, full, unit), full], "split"):
        adapters = {
            site: _first_ranks(f"{rank:04}: {site}", adapter, rank, rule, dtype, report)
            for site, adapter in file.adapters.items()
        }
        metadata = as_plain_lora_metadata(
            carry_metadata(file.metadata, f"split from DyLoRA, rank {full} to {rank}", [source_record(file)])
        )
        made = with_adapters(file, adapters, metadata)
        files[rank] = with_adapters(file, adapters, with_network_dims(made, metadata))
        report.layers += [
            LayerReport(f"{rank:04}: {site}", old, min(old, rank), *_share_of_norm(file.adapters[site], rank))
            for site, old in ranks.items()
        ]
    return files, report


def _unit(file: LoraFile, unit: int | None, full: int) -> int:
    """The checked unit. Raises ToolError."""
    if unit is None:
        unit = file.dylora_unit
        if unit is None:
            raise ToolError(f"{file.name} does not say its unit; give --unit, the step between ranks, such as 4")
    if not 1 <= unit <= full:
        raise ToolError(f"a unit of {unit} does not divide a rank of {full}; give 1 to {full}")
    return unit


def _scale_rule(file: LoraFile, alpha: str | None) -> str | None:
    """The name of the scale rule, None to keep alpha. Raises ToolError."""
    said = file.metadata.get(SPLIT_SCALE_KEY)
    if alpha is None:
        alpha = "trained" if said is not None else "keep"
    if alpha not in SPLIT_ALPHA_RULES:
        raise ToolError(f"unknown --alpha {alpha!r}{did_you_mean(alpha, SPLIT_ALPHA_RULES)}")
    if alpha == "keep":
        return None
    if said is None and "dylora" in file.metadata.get("ss_network_module", ""):
        said = "sqrt"
    if said is None:
        raise ToolError(f"{file.name} does not say how its ranks were trained ({SPLIT_SCALE_KEY}); use --alpha keep")
    if said not in DYLORA_SCALE_RULES:
        raise ToolError(
            f"{file.name} was trained by an unknown scale rule {said!r}{did_you_mean(said, DYLORA_SCALE_RULES)}"
        )
    return said


def _first_ranks(
    name: str, adapter: Adapter, rank: int, rule: str | None, dtype: torch.dtype | None, report: ToolReport
) -> Adapter:
    """The first `rank` ranks of a layer; layers without that many are whole."""
    if adapter.kind != "LoRA" or not adapter.rank or rank >= adapter.rank:
        return make_stored_adapter(adapter.tensors, dtype, name, report) if dtype else adapter
    alpha = adapter.scaling() * adapter.rank * (DYLORA_SCALE_RULES[rule](rank, adapter.rank) if rule else 1.0)
    tensors = {name: tensor.clone() for name, tensor in adapter.truncated(rank).tensors.items() if name != "scale"}
    return make_stored_adapter(
        {**tensors, "alpha": torch.tensor(alpha)}, dtype or widest_dtype([adapter.dtype]), name, report
    )


def _share_of_norm(adapter: Adapter, rank: int) -> tuple[float, float | None]:
    """(share of the norm in the first ranks at the full rank's scale, norm)."""
    low = adapter.low_rank()
    if low is None or rank >= low.rank:
        return 1.0, None if low is None else low.frobenius()
    norm = low.frobenius()
    return min(1.0, low.truncated(rank).frobenius() / norm) if norm else 1.0, norm


def _parser() -> CommandParser:
    parser = CommandParser("split-dylora", "Split a DyLoRA into one LoRA file a rank.").add_output_options()
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="the DyLoRA")
    parser.add_argument("--unit", type=int, help="the step between ranks; without it what the file says")
    parser.add_argument("--alpha", choices=SPLIT_ALPHA_RULES, help="as trained, or kept as kohya's script does")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `split-dylora`; writes NAME-0004.safetensors and so on beside --save_to."""
    args = _parser().parse_args(argv)
    check_output_path(args.save_to, overwrite=True)
    track = no_progress if args.json else progress_bar
    files, report = split_dylora(
        load_lora_file(args.model), args.unit, alpha=args.alpha, dtype=parse_precision(args.save_precision), track=track
    )
    paths = {rank: args.save_to.with_name(f"{args.save_to.stem}-{rank:04}{args.save_to.suffix}") for rank in files}
    for path in paths.values():
        check_output_path(path, [args.model], overwrite=args.overwrite)
    for rank, path in paths.items():
        report.outputs.append(str(save_tool_result(files[rank], path, overwrite=args.overwrite)))
    print_report(report, as_json=args.json, verbose=args.verbose)
    return 0

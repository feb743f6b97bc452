"""Split a DyLoRA file into one LoRA file for each rank: unit, 2·unit, … and the full rank.

A DyLoRA (arXiv:2210.07558) is trained so that its first b of R ranks are a LoRA of their own. The alpha of such a
prefix decides how strong it is:

keep: alpha stays, as in kohya's `extract_lora_from_dylora.py`, so that the prefix is scaled by alpha / b.
trained: the prefix is as strong as in training, by the scale rule in the metadata (`SPLIT_SCALE_KEY`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch

from ..adapters import Adapter
from ..command_line import CommandParser, check_output_path, parse_precision, widest_dtype
from ..errors import ToolError, did_you_mean
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..progress import Track, no_progress
from .layer_changes import make_stored_adapter, open_source, with_adapters
from .many_files import run_tool
from .report import LayerReport, ToolReport
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
"""Scale rule → alpha of a prefix of b of R ranks as a multiple of the file's alpha.

full: the update is scaled by alpha / R for every b. prefix: by alpha / b. sqrt: by alpha / R · √(R / b), as in kohya's
`dylora.py`.
"""

SPLIT_ALPHA_RULES = ("trained", "keep")
"""What `split_dylora` takes as `alpha`."""


def split_dylora(
    file: LoraFile,
    unit: int | None = None,
    *,
    alpha: str | None = None,
    dtype: torch.dtype | None = None,
    track: Track = no_progress,
) -> tuple[dict[int, LoraFile], ToolReport]:
    """Splits a DyLoRA into one file for every multiple of `unit` and one of the full rank.

    Layers with a smaller rank than a file's are complete in it.

    Args:
        file: the DyLoRA; it is not changed.
        unit: the step between ranks; None for the one in the metadata.
        alpha: "trained" or "keep" (see the module's text); None for "trained" where the metadata has the scale rule.
        dtype: of the results' factors; None keeps each layer's own.
        track: shows progress.

    Returns:
        Rank → file, and the report of the whole.

    Raises:
        ToolError: no LoRA layer, no unit or one above the rank, "trained" without a scale rule in the metadata, NaN.
    """
    file, report = open_source("split-dylora", file)
    ranks = {
        layer_id: adapter.rank for layer_id, adapter in file.adapters.items() if adapter.kind == "LoRA" and adapter.rank
    }
    if not ranks:
        raise ToolError(f"{file.path or file.name} has no LoRA layer to split ({', '.join(file.kinds) or 'no layers'})")
    full = max(ranks.values())
    unit = _unit(file, unit, full)
    rule = _scale_rule(file, alpha)
    if file.dylora_unit is None:
        report.add_note(
            "the metadata does not say that this is a DyLoRA; the first ranks of another LoRA are of no use alone"
        )
    report.unchanged += [str(layer_id) for layer_id in file.adapters if layer_id not in ranks]
    report.alpha = rule or "keep"
    report.add_note(f"alpha: {'kept' if rule is None else f'as trained (scale rule {rule!r})'}")
    files = {}
    for rank in track([*range(unit, full, unit), full], "split"):
        adapters = {
            layer_id: _first_ranks(f"{rank:04}: {layer_id}", adapter, rank, rule, dtype, report)
            for layer_id, adapter in file.adapters.items()
        }
        metadata = as_plain_lora_metadata(
            carry_metadata(file.metadata, f"split from DyLoRA, rank {full} to {rank}", [source_record(file)])
        )
        made = with_adapters(file, adapters, metadata)
        files[rank] = with_adapters(file, adapters, with_network_dims(made, metadata))
        report.layers += [
            LayerReport(f"{rank:04}: {layer_id}", old, min(old, rank), *_share_of_norm(file.adapters[layer_id], rank))
            for layer_id, old in ranks.items()
        ]
    return files, report


def _unit(file: LoraFile, unit: int | None, full: int) -> int:
    """The unit, checked. Raises ToolError."""
    if unit is None:
        unit = file.dylora_unit
        if unit is None:
            raise ToolError(
                f"{file.name} does not say that it is a DyLoRA; a plain LoRA has no ranks to split, "
                "of a DyLoRA give --unit, the step between ranks, such as 4"
            )
    if not 1 <= unit <= full:
        raise ToolError(f"--unit is {unit}; it must be from 1 to {full}, the rank of the file")
    return unit


def _scale_rule(file: LoraFile, alpha: str | None) -> str | None:
    """The name of the scale rule, None to keep alpha. Raises ToolError."""
    recorded = file.metadata.get(SPLIT_SCALE_KEY)
    if alpha is None:
        alpha = "trained" if recorded is not None else "keep"
    if alpha not in SPLIT_ALPHA_RULES:
        raise ToolError(f"unknown --alpha {alpha!r}{did_you_mean(alpha, SPLIT_ALPHA_RULES)}")
    if alpha == "keep":
        return None
    if recorded is None and "dylora" in file.metadata.get("ss_network_module", ""):
        recorded = "sqrt"
    if recorded is None:
        raise ToolError(f"{file.name} does not say how its ranks were trained ({SPLIT_SCALE_KEY}); use --alpha keep")
    if recorded not in DYLORA_SCALE_RULES:
        raise ToolError(
            f"{file.name} was trained by an unknown scale rule {recorded!r}{did_you_mean(recorded, DYLORA_SCALE_RULES)}"
        )
    return recorded


def _first_ranks(
    name: str, adapter: Adapter, rank: int, rule: str | None, dtype: torch.dtype | None, report: ToolReport
) -> Adapter:
    """The first `rank` ranks of a layer; a layer with fewer ranks stays complete."""
    if adapter.kind != "LoRA" or not adapter.rank or rank >= adapter.rank:
        return make_stored_adapter(adapter.tensors, dtype, name, report) if dtype else adapter
    alpha = adapter.scaling() * adapter.rank * (DYLORA_SCALE_RULES[rule](rank, adapter.rank) if rule else 1.0)
    tensors = {name: tensor.clone() for name, tensor in adapter.truncated(rank).tensors.items() if name != "scale"}
    return make_stored_adapter(
        {**tensors, "alpha": torch.tensor(alpha)}, dtype or widest_dtype([adapter.dtype]), name, report
    )


def _share_of_norm(adapter: Adapter, rank: int) -> tuple[float, float | None]:
    """(share of ‖ΔW‖ in the first ranks at the full rank's scale, ‖ΔW‖ or None)."""
    low = adapter.low_rank()
    if low is None or rank >= low.rank:
        return 1.0, None if low is None else low.frobenius()
    norm = low.frobenius()
    return min(1.0, low.truncated(rank).frobenius() / norm) if norm else 1.0, norm


def _parser() -> CommandParser:
    parser = (
        CommandParser("split-dylora", "Split a DyLoRA into one LoRA file for each rank.")
        .add_input_files("--model", "the DyLoRA")
        .add_output_options(many=True)
    )
    parser.add_argument("--unit", type=int, help="the step between ranks (default: the one in the file's metadata)")
    text = "trained: each file as strong as in training; keep: alpha unchanged, as kohya's script does"
    parser.add_argument("--alpha", choices=SPLIT_ALPHA_RULES, help=text)
    parser.set_defaults(result_ending=r"-\d{4,}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext split-dylora`, which writes NAME-0004.safetensors and so on beside --save_to.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    return run_tool(_run, _parser().parse_args(argv))


def _run(args: argparse.Namespace, track: Track) -> ToolReport:
    """Splits one file."""
    check_output_path(args.save_to, overwrite=True)
    files, report = split_dylora(
        load_lora_file(args.model), args.unit, alpha=args.alpha, dtype=parse_precision(args.save_precision), track=track
    )
    paths = {rank: args.save_to.with_name(f"{args.save_to.stem}-{rank:04}{args.save_to.suffix}") for rank in files}
    for path in paths.values():
        check_output_path(path, [args.model], overwrite=args.overwrite)
    for rank, path in paths.items():
        report.outputs.append(str(save_tool_result(files[rank], path, overwrite=args.overwrite)))
    return report

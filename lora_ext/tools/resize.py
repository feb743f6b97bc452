"""Change the rank of a LoRA by its singular values: one rank for all layers, or a rank for each.

alpha keeps its ratio to the rank, as in kohya's `resize_lora.py`, so that the file is as strong as before. Where layers
get ranks of their own, all get the alpha that the highest rank has, and the rest of the scale goes into the factors:
diffusers reads only one alpha for all attention layers (`constant_alpha`).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

import torch

from ..adapters import Adapter
from ..command_line import CommandParser, check_output_path, parse_device, parse_precision, rank_rules, widest_dtype
from ..errors import ToolError
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..layer_names import LayerId
from ..progress import Track, no_progress
from ..rank_reduction import LowRankApproximation, RankRule
from .constant_alpha import alphas_at_new_ranks, with_constant_alphas
from .layer_batches import ApproximationPlan, LayerPlan, finish_layers
from .layer_changes import (
    LayerChange,
    change_of,
    check_usable,
    make_lora_adapter,
    make_stored_adapter,
    open_source,
    with_adapters,
)
from .many_files import run_tool
from .report import LayerReport, ToolReport
from .result_metadata import (
    as_plain_lora_metadata,
    carry_metadata,
    is_turned_into_lora,
    save_with_report,
    source_record,
    with_network_dims,
)


def resize_lora(
    file: LoraFile,
    new_rank: int,
    new_conv_rank: int | None = None,
    *,
    dynamic_method: str | None = None,
    dynamic_param: float | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    track: Track = no_progress,
) -> tuple[LoraFile, ToolReport]:
    """Resizes every layer to its best approximation at a new rank.

    Layers of kinds without ranks (LoHa, full, …) become LoRA. Kinds that need the base model's weights (OFT, IA3,
    norm, …) stay as they are; a DoRA keeps its magnitude on resized factors.

    Args:
        file: the file to resize; it is not changed.
        new_rank: rank of the layers; the highest one with a dynamic method.
        new_conv_rank: the same for all Conv2d layers, 1x1 too; None for `new_rank`.
        dynamic_method: how each layer's rank is chosen (`rank_reduction.RankRule`); None for a fixed rank.
        dynamic_param: the parameter of that method.
        dtype: of the result's factors; None keeps each layer's own.
        device: where decompositions are computed.
        track: shows progress.

    Returns:
        The resized file and the report.

    Raises:
        ToolError: a rank, method or parameter out of range, NaN (naming the layer), or no layer that can be resized.
    """
    ranks = rank_rules(new_rank, new_conv_rank, dynamic_method, dynamic_param)
    file, report = open_source("resize", file, finds_non_finite=True)
    if dynamic_method is None and dynamic_param is not None:
        report.add_note("--dynamic_param changes nothing without --dynamic_method")
    adapters: dict[LayerId, Adapter] = {}
    alphas = alphas_at_new_ranks(file.adapters, new_rank, dynamic_method is not None)
    plans = (
        (layer_id, _plan(file, layer_id, ranks, alphas.get(layer_id.part), dtype, torch.device(device), report))
        for layer_id in track(list(file.adapters), "resize")
    )
    try:
        for layer_id, finish in finish_layers(plans):
            made = finish()
            assert made is not None
            adapters[layer_id] = made
    except ToolError:
        check_usable(file)
        raise
    adapters = with_constant_alphas(adapters, report)
    if not report.layers:
        raise ToolError(
            f"no layer of {file.path or file.name} has a rank to change ({', '.join(file.kinds) or 'empty'})"
        )
    comment = _comment(file, new_rank, new_conv_rank, dynamic_method, dynamic_param)
    metadata = carry_metadata(file.metadata, comment, [source_record(file)])
    result = with_adapters(
        file, adapters, as_plain_lora_metadata(metadata) if is_turned_into_lora(file, adapters) else metadata
    )
    dims = None if dynamic_method is not None else (new_rank, ranks[1].rank)
    metadata = with_network_dims(result, result.metadata, dims)
    if dynamic_method is not None:
        metadata |= {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}
    return with_adapters(result, adapters, metadata), report


def _plan(
    file: LoraFile,
    layer_id: LayerId,
    ranks: Sequence[RankRule],
    alpha: float | None,
    dtype: torch.dtype | None,
    device: torch.device,
    report: ToolReport,
) -> LayerPlan:
    """One layer at its new rank, with `alpha` or the one that keeps alpha / rank; adds its line to the report."""
    adapter = file.adapters[layer_id]
    dtype = dtype or widest_dtype([adapter.dtype])
    plain, extras = adapter, {}
    if adapter.kind == "LoRA" and adapter.magnitude() is not None:
        names = ("dora_scale", "lora_magnitude_vector")
        extras = {name: adapter.tensors[name] for name in names if name in adapter.tensors}
        plain = type(adapter)({name: t for name, t in adapter.tensors.items() if name not in extras})
    bias = adapter.bias_delta() if adapter.kind == "LoRA" else None
    if bias is not None:
        extras["diff_b"] = bias
    change = change_of(file if plain is adapter else with_adapters(file, {layer_id: plain}, {}), layer_id)
    if change is None:
        report.unchanged.append(str(layer_id))
        report.add_note(f"{adapter.kind} layers need the base model's weights or have no rank, and stay as they are")
        return functools.partial(make_stored_adapter, adapter.tensors, dtype, layer_id, report)
    rule = ranks[len(change.shape) > 2]
    if rule.method is None and change.low is not None and rule.rank >= change.low.rank:
        if rule.rank > change.low.rank:
            report.add_note(f"rank {rule.rank} is more than some layers have; those keep their rank (capped)")
        return functools.partial(_keep, adapter, change, dtype, layer_id, report)
    scale = adapter.scaling() if adapter.kind == "LoRA" else 1.0
    scale = scale if scale > 0 else 1.0

    def finish(best: LowRankApproximation) -> Adapter:
        rank = best.low_rank.rank
        if rule.method is None and rank < rule.rank and best.norm:
            report.add_note(f"rank {rule.rank} is more than some layers can have; those get their full rank (capped)")
        report.layers.append(LayerReport(str(layer_id), adapter.rank, rank, best.kept, best.norm * scale))
        made = make_lora_adapter(
            best.low_rank.times(scale), scale * rank if alpha is None else alpha, dtype, layer_id, report
        )
        return make_stored_adapter({**made.tensors, **extras}, dtype, layer_id, report) if extras else made

    # at scale 1: the dynamic methods take a layer for zero by the size of its factors, whatever its alpha
    return ApproximationPlan(change.times(1 / scale).to(device), rule, finish)


def _keep(adapter: Adapter, change: LayerChange, dtype: torch.dtype, layer_id: LayerId, report: ToolReport) -> Adapter:
    """A layer that keeps its rank; adds its line to the report."""
    report.layers.append(LayerReport(str(layer_id), adapter.rank, adapter.rank, 1.0, change.norm()))
    return make_stored_adapter(adapter.tensors, dtype, layer_id, report)


def _comment(file: LoraFile, rank: int, conv: int | None, method: str | None, param: float | None) -> str:
    """The text that kohya's script writes into `ss_training_comment`."""
    old = max((adapter.rank or 0 for adapter in file.adapters.values()), default=0)
    if method is not None:
        return f"Dynamic resize with {method}: {param} from {old}"
    return f"dimension is resized from {old} to {rank}" + (f" (conv: {conv})" if conv and conv != rank else "")


def _parser() -> CommandParser:
    parser = (
        CommandParser("resize", "Change the rank of a LoRA, with the least possible loss.")
        .add_input_files("--model", "the file to resize")
        .add_output_options(many=True)
        .add_dynamic_rank_options()
    )
    text = "rank of every layer, or the highest one with --dynamic_method (default 4)"
    parser.add_argument("--new_rank", type=int, default=4, help=text)
    parser.add_argument("--new_conv_rank", type=int, help="rank of Conv2d layers, 1x1 too (default: --new_rank)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext resize`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    return run_tool(_run, _parser().parse_args(argv))


def _run(args: argparse.Namespace, track: Track) -> ToolReport:
    """Resizes one file."""
    check_output_path(args.save_to, [args.model], overwrite=args.overwrite)
    file = load_lora_file(args.model)
    result, report = resize_lora(
        file,
        args.new_rank,
        args.new_conv_rank,
        dynamic_method=args.dynamic_method,
        dynamic_param=args.dynamic_param,
        dtype=parse_precision(args.save_precision),
        device=parse_device(args.device),
        track=track,
    )
    return save_with_report(result, report, args)

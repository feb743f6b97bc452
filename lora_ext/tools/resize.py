"""`resize`: every layer at a new rank, by its singular values; fixed, or chosen layer by layer.

alpha keeps its ratio to the rank, as in kohya's `resize_lora.py`; so the file acts as strongly as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..adapters import Adapter
from ..command_line import Parser, check_output, device_of, dtype_of, rules, widest
from ..errors import ToolError
from ..file.loading import read
from ..file.lora_file import LoraFile
from ..layer_names import Site
from ..lowrank import Rule
from ..progress import Track, bar, silent
from .layer_changes import change_of, lora_of, opened, stored_as, with_adapters
from .report import Layer, Report
from .result_metadata import became_lora, carried, described, finish, origin, plain


def resize(
    file: LoraFile,
    new_rank: int,
    new_conv_rank: int | None = None,
    *,
    dynamic_method: str | None = None,
    dynamic_param: float | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    track: Track = silent,
) -> tuple[LoraFile, Report]:
    """The file with the best approximation of each layer at `new_rank`; `new_conv_rank` for all Conv2d, 1x1 too.

    dynamic_method, dynamic_param: how each layer's rank is chosen, at most those (`lowrank.Rule`). dtype: of the
    result's factors, None for what each layer has. Layers that are no sum of ranks (LoHa, full, …) become LoRA; those
    that need the base model (DoRA's magnitude, OFT, IA3, norm, …) stay, DoRA on its resized factors.
    Raises ToolError for rules that cannot be meant, for NaN (naming the layer), and when no layer can be resized.
    """
    ranks = rules(new_rank, new_conv_rank, dynamic_method, dynamic_param)
    file, report = opened("resize", file)
    if dynamic_method is None and dynamic_param is not None:
        report.note("--dynamic_param changes nothing without --dynamic_method")
    adapters: dict[Site, Adapter] = {}
    for site in track(list(file.adapters), "resize"):
        adapters[site] = _resized(file, site, ranks, dtype, torch.device(device), report)
    if not report.layers:
        raise ToolError(
            f"no layer of {file.path or file.name} has a rank to change ({', '.join(file.kinds) or 'empty'})"
        )
    said = _comment(file, new_rank, new_conv_rank, dynamic_method, dynamic_param)
    metadata = carried(file.metadata, said, [origin(file)])
    result = with_adapters(file, adapters, plain(metadata) if became_lora(file, adapters) else metadata)
    dims = None if dynamic_method is not None else (new_rank, ranks[1].rank)
    metadata = described(result, result.metadata, dims)
    if dynamic_method is not None:
        metadata |= {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}
    return with_adapters(result, adapters, metadata), report


def _resized(
    file: LoraFile, site: Site, ranks: Sequence[Rule], dtype: torch.dtype | None, device: torch.device, report: Report
) -> Adapter:
    """One layer at its new rank, and its line in the report."""
    adapter = file.adapters[site]
    dtype = dtype or widest([adapter.dtype])
    whole, extras = adapter, {}
    if adapter.kind == "LoRA" and adapter.magnitude() is not None:
        names = ("dora_scale", "lora_magnitude_vector")
        extras = {name: adapter.tensors[name] for name in names if name in adapter.tensors}
        whole = type(adapter)({name: t for name, t in adapter.tensors.items() if name not in extras})
    change = change_of(with_adapters(file, {site: whole}, {}), site)
    if change is None:
        report.unchanged.append(str(site))
        report.note(f"{adapter.kind} layers need the base model's weights or have no rank, and stay as they are")
        return stored_as(adapter.tensors, dtype, site, report)
    rule = ranks[len(change.shape) > 2]
    if rule.method is None and change.low is not None and rule.rank >= change.low.rank:
        if rule.rank > change.low.rank:
            report.note(f"rank {rule.rank} is more than some layers have; they keep all of theirs (capped)")
        report.layers.append(Layer(str(site), adapter.rank, adapter.rank, 1.0, change.low.frobenius()))
        return stored_as(adapter.tensors, dtype, site, report)
    scale = adapter.scaling() if adapter.kind == "LoRA" and adapter.scaling() > 0 else 1.0
    try:  # without alpha: the dynamic rules take a layer for zero by the size of its factors
        best = change.times(1 / scale).to(device).best(rule)
    except ToolError as error:
        raise ToolError(f"{site} contains {error}") from None
    rank = best.low.rank
    if rule.method is None and rank < rule.rank and best.norm:
        report.note(f"rank {rule.rank} is more than some layers hold; they got all of theirs (capped)")
    report.layers.append(Layer(str(site), adapter.rank, rank, best.kept, best.norm * scale))
    made = lora_of(best.low.times(scale), scale * rank, dtype, site, report)
    return stored_as({**made.tensors, **extras}, dtype, site, report) if extras else made


def _comment(file: LoraFile, rank: int, conv: int | None, method: str | None, param: float | None) -> str:
    """What kohya's script writes into `ss_training_comment`."""
    old = max((adapter.rank or 0 for adapter in file.adapters.values()), default=0)
    if method is not None:
        return f"Dynamic resize with {method}: {param} from {old}"
    return f"dimension is resized from {old} to {rank}" + (f" (conv: {conv})" if conv and conv != rank else "")


def _parser() -> Parser:
    parser = Parser("resize", "Change the rank of a LoRA, with the least possible loss.").common().dynamic()
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="the file to resize")
    text = "rank of every layer; the most, where dynamic (default 4)"
    parser.add_argument("--new_rank", type=int, default=4, help=text)
    parser.add_argument("--new_conv_rank", type=int, help="rank of Conv2d layers, 1x1 too; without it as --new_rank")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `resize`."""
    args = _parser().parse_args(argv)
    file = read(args.model)
    check_output(args.save_to, [args.model], overwrite=args.overwrite)
    result, report = resize(
        file,
        args.new_rank,
        args.new_conv_rank,
        dynamic_method=args.dynamic_method,
        dynamic_param=args.dynamic_param,
        dtype=dtype_of(args.save_precision),
        device=device_of(args.device),
        track=silent if args.json else bar,
    )
    return finish(result, report, args)

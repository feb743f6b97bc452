"""`split-dylora`: one DyLoRA file → one LoRA file a rank: unit, 2·unit, … and the full rank.

What alpha a prefix of b of R ranks gets decides how strongly it acts:
keep: alpha stays, as kohya's `extract_lora_from_dylora.py` has it (so a prefix acts at alpha/b).
trained: as the prefix acted in training, by the scale rule that the metadata records (`SCALE_KEY`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from ..adapters import Adapter
from ..command_line import Parser, check_output, dtype_of, widest
from ..errors import ToolError, did_you_mean
from ..file.loading import read
from ..file.lora_file import LoraFile
from ..progress import Track, bar, silent
from .layer_changes import opened, stored_as, with_adapters
from .report import Layer, Report, show
from .result_metadata import SCALE_KEY, carried, described, origin, plain, save

SCALES = {
    "full": lambda b, full: b / full,
    "prefix": lambda b, full: 1.0,
    "sqrt": lambda b, full: math.sqrt(b / full),
}
"""Rule → the prefix's alpha as a multiple of the file's. full: scale alpha/R whatever b; prefix: alpha/b;
sqrt: alpha/R·√(R/b) (kohya's `dylora.py`)."""

ALPHAS = ("trained", "keep")


def split(
    file: LoraFile,
    unit: int | None = None,
    *,
    alpha: str | None = None,
    dtype: torch.dtype | None = None,
    track: Track = silent,
) -> tuple[dict[int, LoraFile], Report]:
    """rank → file, for every multiple of `unit` and the full rank, and the report of the whole.

    unit: None for what the metadata says. alpha: "trained", "keep", None for trained where the metadata records how.
    Layers of a smaller rank are whole in every file above it. Raises ToolError: no LoRA layer, no unit, a unit above
    the rank, "trained" where nothing tells how, NaN.
    """
    file, report = opened("split-dylora", file)
    ranks = {site: adapter.rank for site, adapter in file.adapters.items() if adapter.kind == "LoRA" and adapter.rank}
    if not ranks:
        raise ToolError(f"{file.path or file.name} has no LoRA layer to split ({', '.join(file.kinds) or 'no layers'})")
    full = max(ranks.values())
    unit = _unit(file, unit, full)
    rule = _rule(file, alpha)
    if file.dylora_unit is None:
        report.note("its metadata names no DyLoRA; the first ranks of another LoRA make no sense alone")
    report.unchanged += [str(site) for site in file.adapters if site not in ranks]
    report.extra["alpha"] = rule or "keep"
    report.note(f"alpha: {'kept' if rule is None else f'as trained (scale rule {rule!r})'}")
    files = {}
    for rank in track([*range(unit, full, unit), full], "split"):
        adapters = {
            site: _first(f"{rank:04}: {site}", adapter, rank, rule, dtype, report)
            for site, adapter in file.adapters.items()
        }
        metadata = plain(carried(file.metadata, f"split from DyLoRA, rank {full} to {rank}", [origin(file)]))
        made = with_adapters(file, adapters, metadata)
        files[rank] = with_adapters(file, adapters, described(made, metadata))
        report.layers += [
            Layer(f"{rank:04}: {site}", old, min(old, rank), *_share(file.adapters[site], rank))
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


def _rule(file: LoraFile, alpha: str | None) -> str | None:
    """The name of the scale rule, None to keep alpha. Raises ToolError."""
    said = file.metadata.get(SCALE_KEY)
    if alpha is None:
        alpha = "trained" if said is not None else "keep"
    if alpha not in ALPHAS:
        raise ToolError(f"unknown --alpha {alpha!r}{did_you_mean(alpha, ALPHAS)}")
    if alpha == "keep":
        return None
    if said is None and "dylora" in file.metadata.get("ss_network_module", ""):
        said = "sqrt"
    if said is None:
        raise ToolError(f"{file.name} does not say how its ranks were trained ({SCALE_KEY}); use --alpha keep")
    if said not in SCALES:
        raise ToolError(f"{file.name} was trained by an unknown scale rule {said!r}{did_you_mean(said, SCALES)}")
    return said


def _first(
    name: str, adapter: Adapter, rank: int, rule: str | None, dtype: torch.dtype | None, report: Report
) -> Adapter:
    """The first `rank` ranks of a layer; layers without that many are whole."""
    if adapter.kind != "LoRA" or not adapter.rank or rank >= adapter.rank:
        return stored_as(adapter.tensors, dtype, name, report) if dtype else adapter
    alpha = adapter.scaling() * adapter.rank * (SCALES[rule](rank, adapter.rank) if rule else 1.0)
    tensors = {name: tensor.clone() for name, tensor in adapter.cut(rank).tensors.items() if name != "scale"}
    return stored_as({**tensors, "alpha": torch.tensor(alpha)}, dtype or widest([adapter.dtype]), name, report)


def _share(adapter: Adapter, rank: int) -> tuple[float, float | None]:
    """(share of the norm in the first ranks at the full rank's scale, norm)."""
    low = adapter.low_rank()
    if low is None or rank >= low.rank:
        return 1.0, None if low is None else low.frobenius()
    norm = low.frobenius()
    return min(1.0, low.cut(rank).frobenius() / norm) if norm else 1.0, norm


def _parser() -> Parser:
    parser = Parser("split-dylora", "Split a DyLoRA into one LoRA file a rank.").common()
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="the DyLoRA")
    parser.add_argument("--unit", type=int, help="the step between ranks; without it what the file says")
    parser.add_argument("--alpha", choices=ALPHAS, help="as trained, or kept as kohya's script does")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `split-dylora`; writes NAME-0004.safetensors and so on beside --save_to."""
    args = _parser().parse_args(argv)
    check_output(args.save_to, overwrite=True)
    track = silent if args.json else bar
    files, report = split(
        read(args.model), args.unit, alpha=args.alpha, dtype=dtype_of(args.save_precision), track=track
    )
    paths = {rank: args.save_to.with_name(f"{args.save_to.stem}-{rank:04}{args.save_to.suffix}") for rank in files}
    for path in paths.values():
        check_output(path, [args.model], overwrite=args.overwrite)
    for rank, path in paths.items():
        report.outputs.append(str(save(files[rank], path, overwrite=args.overwrite)))
    show(report, as_json=args.json, verbose=args.verbose)
    return 0

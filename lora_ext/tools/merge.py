"""`merge_loras`: LoRA + LoRA → LoRA of any ranks, alphas, kinds and trainers; `svd-merge` is its method "svd".

concat: the exact weighted sum of ΔW, ranks side by side. svd: its best approximation at a rank. factors: the older
scripts' average of the factors themselves. With `--sd_model` LoRAs go into a checkpoint (`checkpoint.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..adapter_spec import AdapterSpec
from ..adapters import Adapter
from ..block_weights import UNIFORM_WEIGHTS, BlockWeights, parse_block_weights
from ..command_line import (
    SVD_ONLY_OPTIONS,
    CommandParser,
    check_output_path,
    number,
    parse_device,
    parse_precision,
    widest_dtype,
)
from ..errors import FitError, ToolError
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..layer_names import LayerId
from ..precisions import SAVE_PRECISIONS
from ..progress import Track, no_progress, progress_bar
from .layer_changes import change_of, check_usable
from .merge_layer import MERGE_METHODS, LayerContribution, MergeOptions, merge_layer
from .report import ToolReport, note_unused_options
from .result_metadata import join_metadata, save_and_report, source_record, with_network_dims


def merge_loras(
    files: Sequence[LoraFile],
    ratios: Sequence[float] | None = None,
    options: MergeOptions | None = None,
    *,
    blocks: Sequence[BlockWeights] | None = None,
    track: Track = no_progress,
) -> tuple[LoraFile, ToolReport]:
    """Σ ratioᵢ · block weightᵢ · ΔWᵢ as one file, in kohya's spelling. ratios: 1 each where not given; may be negative.

    Raises ToolError: numbers that do not go together, NaN, shapes that differ (files for different base models), no
    layer in common, and for "factors" different ranks.
    """
    options = options or MergeOptions()
    uses = _specs(files, ratios, blocks)
    report = ToolReport(
        "merge",
        not_understood={use.display_name: use.file.unrecognized_keys for use in uses if use.file.unrecognized_keys},
    )
    for use in uses:
        report.add_source_notes(use.display_name, use.file)
    sites = list(dict.fromkeys(site for use in uses for site in use.file.adapters))
    _compare(uses, report)
    dtype = options.dtype or widest_dtype([a.dtype for use in uses for a in use.file.adapters.values()])
    adapters: dict[LayerId, Adapter] = {}
    keys: dict[tuple[LayerId, str], str] = {}
    for site in track(sites, "merge"):
        parts = [_part(use, site) for use in uses if site in use.file.adapters]
        try:
            made = merge_layer(site, [p for p in parts if p.weight], options, dtype, report)
        except (FitError, ToolError) as error:
            raise _merge_error(site, error, uses) from None
        if made is not None:
            adapters[site] = made
            head = _head(uses, site)
            keys |= {(site, suffix): f"{head}.{suffix}" for suffix in made.tensors if head}
    if not adapters:
        raise ToolError("nothing to merge: " + ("; ".join(report.notes) or "every layer has weight 0"))
    for use in uses:
        if len(report.left_out.get(use.display_name, ())) == len(use.file.adapters):
            raise ToolError(f"nothing of {use.display_name} can be merged: " + "; ".join(report.notes))
    said = f"merged ({options.method}): " + " + ".join(f"{use.unet:g} * {use.display_name}" for use in uses)
    origins = [
        source_record(use.file, use.unet, None if use.blocks is UNIFORM_WEIGHTS else use.blocks.format_weights())
        for use in uses
    ]
    metadata = join_metadata([use.file for use in uses], said, origins)
    result = LoraFile(adapters, metadata, _embeddings(uses, report), keys=keys)
    dims = (options.new_rank, options.conv_rank) if options.method == "svd" else None
    return replace(result, metadata=with_network_dims(result, metadata, dims)), report


def _specs(
    files: Sequence[LoraFile], ratios: Sequence[float] | None, blocks: Sequence[BlockWeights] | None
) -> list[AdapterSpec]:
    """The files at their weights, under names that tell them apart. Raises ToolError."""
    if not files:
        raise ToolError("no files to merge; name them with --models")
    for what, given in (("ratios", ratios), ("block weights", blocks)):
        if given is not None and len(given) != len(files):
            raise ToolError(f"{len(given)} {what} for {len(files)} files; give one for each")
    names = [file.name for file in files]
    labels = [str(f.path or f.name) if names.count(f.name) > 1 else f.name for f in files]
    uses = []
    for i, file in enumerate(files):
        check_usable(file.without_damaged())
        ratio = float(ratios[i]) if ratios is not None else 1.0
        uses.append(
            AdapterSpec(file, te=ratio, unet=ratio, blocks=blocks[i] if blocks else UNIFORM_WEIGHTS, name=labels[i])
        )
    return uses


def _compare(specs: Sequence[AdapterSpec], report: ToolReport) -> None:
    """Which layers all have, and which only one. Raises ToolError where files have no layer in common."""
    held = [set(use.file.adapters) for use in specs]
    for i, use in enumerate(specs):
        others = set().union(*(h for k, h in enumerate(held) if k != i))
        alone = [str(site) for site in use.file.adapters if site not in others]
        if alone and len(specs) > 1:
            report.only_in.setdefault(use.display_name, []).extend(alone)
    if len(specs) < 2 or any(a & b for i, a in enumerate(held) for b in held[:i]):
        return
    parts = [{site.part for site in sites} for sites in held]
    apart = all(a and b and not a & b for i, a in enumerate(parts) for b in parts[:i])
    families = {use.file.family for use in specs} - {"unknown"}
    if not apart or len(families) > 1:
        told = ", ".join(f"{use.display_name} ({use.file.family}, {len(use.file.adapters)} layers)" for use in specs)
        raise ToolError(f"these files have no layer in common, nothing was merged: {told}")
    report.add_note("the files have no layer in common: each is for another part of the model")


def _part(spec: AdapterSpec, layer_id: LayerId) -> LayerContribution:
    weight = spec.weight_at(layer_id)
    return LayerContribution(
        spec.display_name, spec.file.adapters[layer_id], weight, change_of(spec.file, layer_id) if weight else None
    )


def _head(specs: Sequence[AdapterSpec], layer_id: LayerId) -> str | None:
    """The layer's name as the first file in kohya's spelling has it (SDXL has two)."""
    for use in specs:
        for suffix in use.file.adapters[layer_id].tensors if layer_id in use.file.adapters else ():
            key = use.file.keys.get((layer_id, suffix), "")
            if key.startswith("lora_"):
                return key.partition(".")[0]
    return None


def _embeddings(specs: Sequence[AdapterSpec], report: ToolReport) -> dict[str, dict[str, torch.Tensor]]:
    """Embeddings of all files; of two with one name the first stays."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for use in specs:
        for name, vectors in use.file.embeddings.items():
            if name in found:
                report.add_note(f"both have an embedding {name!r}; that of {use.display_name} is left out")
            found.setdefault(name, dict(vectors))
    return found


def _merge_error(layer_id: LayerId, error: Exception, specs: Sequence[AdapterSpec]) -> ToolError:
    """The error with the layer, and with the base models where those differ."""
    families = {use.display_name: use.file.family for use in specs}
    text = str(error) if str(layer_id) in str(error) else f"{layer_id}: {error}"
    if isinstance(error, FitError):
        text += " (made for " + ", ".join(f"{family}: {name}" for name, family in families.items()) + ")"
    return ToolError(text)


# --- command line ----------------------------------------------------------------------------------------------------


def _parser(verb: str) -> CommandParser:
    svd = verb == "svd-merge"
    parser = CommandParser(
        verb, "Merge LoRAs into one, " + ("at a rank of its own." if svd else "or into a checkpoint.")
    )
    parser.add_output_options()
    parser.add_argument("--models", nargs="+", required=True, type=Path, metavar="FILE", help="the LoRAs")
    parser.add_argument("--ratios", nargs="+", type=number, metavar="R", help="one for each, 1 if left out")
    parser.add_argument("--lbws", nargs="+", metavar="LBW", help="block weights of each: a preset or numbers")
    parser.add_argument("--new_rank", type=int, help="svd: rank of the result, 4 if left out")
    parser.add_argument("--new_conv_rank", type=int, help="svd: rank of kernels above 1x1; without it as --new_rank")
    parser.add_argument("--clamp_quantile", type=float, metavar="Q", help="svd: clip as older scripts do at 0.99")
    parser.add_argument("--precision", choices=SAVE_PRECISIONS, help="any; sums are made in float32")
    parser.add_argument("--no_metadata", action="store_true", help="write no modelspec metadata")
    parser.add_ignored_options("--v2", "--sdxl", "--shuffle")
    parser.set_defaults(method="svd", sd_model=None)
    if not svd:
        parser.add_argument("--method", choices=MERGE_METHODS, default=None, help="concat: exact; svd: at --new_rank")
        parser.add_argument("--concat", action="store_const", const="concat", dest="method", help="--method concat")
        parser.add_argument("--sd_model", type=Path, metavar="CKPT", help="merge into a checkpoint or diffusers folder")
    return parser


def main(argv: Sequence[str] | None = None, verb: str = "merge") -> int:
    """Entry point of `merge_loras`."""
    args = _parser(verb).parse_args(argv)
    if args.sd_model is not None:
        from .merge_into_checkpoint import run_checkpoint_merge

        return run_checkpoint_merge(args)
    check_output_path(args.save_to, args.models, overwrite=args.overwrite)
    recipe = MergeOptions(
        args.method or ("concat" if args.new_rank is None else "svd"),
        4 if args.new_rank is None else args.new_rank,
        args.new_conv_rank,
        args.clamp_quantile,
        parse_precision(args.save_precision),
        parse_device(args.device),
    )
    blocks = (
        None
        if args.lbws is None
        else [parse_block_weights(lbw) if lbw.strip() else UNIFORM_WEIGHTS for lbw in args.lbws]
    )
    track = no_progress if args.json else progress_bar
    files = [load_lora_file(model) for model in args.models]
    result, report = merge_loras(files, args.ratios, recipe, blocks=blocks, track=track)
    report.verb = verb
    if recipe.method != "svd":
        note_unused_options(report, args, SVD_ONLY_OPTIONS, f"with --method {recipe.method}")
    return save_and_report(result, report, args)

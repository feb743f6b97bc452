"""Merge LoRAs of any ranks, alphas, adapter kinds and trainers into one LoRA.

Methods: "concat" is the exact weighted sum of ΔW, with the ranks side by side; "svd" its best approximation at a
rank; "factors" kohya's average of the factors themselves. The command line `merge --sd_model` merges LoRAs into a
checkpoint instead (`merge_into_checkpoint`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
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
    parse_device,
    parse_precision,
    widest_dtype,
)
from ..counted_words import counted
from ..errors import FitError, ToolError
from ..file.loading import load_lora_file
from ..file.lora_file import LoraFile
from ..layer_names import LayerId
from ..precisions import SAVE_PRECISIONS
from ..progress import Track, no_progress, progress_bar
from .cancelling import cancel_each_other, weighted_names, zero_sum_reason
from .constant_alpha import with_constant_alphas
from .input_files import expand_input_files
from .layer_batches import LayerPlan, finish_layers
from .layer_changes import change_of, check_usable, check_usable_beside_layers
from .lora_add_words import merge_arguments
from .merge_layer import MERGE_METHODS, LayerContribution, MergeOptions, plan_layer
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
    """Merges files into one: Σ ratioᵢ · block weightᵢ · ΔWᵢ, in kohya's key format.

    Args:
        files: the LoRAs; they are not changed.
        ratios: one for each file, may be negative; None for 1 each.
        options: method, ranks, dtype and device; None for the exact sum.
        blocks: block weights, one for each file; None for 1 everywhere.
        track: shows progress.

    Returns:
        The merged file and the report.

    Raises:
        ToolError: counts that differ, NaN, shapes that differ (files for different base models), no layer in common,
            changes that cancel each other, or different ranks with the method "factors".
    """
    options = options or MergeOptions()
    specs = _specs(files, ratios, blocks)
    report = ToolReport(
        "merge",
        not_understood={
            spec.display_name: spec.file.unrecognized_keys for spec in specs if spec.file.unrecognized_keys
        },
    )
    for spec in specs:
        report.add_source_notes(spec.display_name, spec.file)
    layer_ids = list(dict.fromkeys(layer_id for spec in specs for layer_id in spec.file.adapters))
    _compare(specs, report)
    dtype = options.dtype or widest_dtype([a.dtype for spec in specs for a in spec.file.adapters.values()])
    adapters: dict[LayerId, Adapter] = {}
    keys: dict[tuple[LayerId, str], str] = {}
    plans = (_plan(layer_id, specs, options, dtype, report) for layer_id in track(layer_ids, "merge"))
    for layer_id, finish in finish_layers(plans):
        with _named_errors(layer_id, specs):
            made = finish()
        if made is not None:
            adapters[layer_id] = made
            layer_name = _head(specs, layer_id)
            keys |= {(layer_id, suffix): f"{layer_name}.{suffix}" for suffix in made.tensors if layer_name}
    if not adapters:
        raise ToolError(f"nothing to merge: {'; '.join(report.notes) or 'every layer has weight 0'}")
    for spec in specs:
        if len(report.left_out.get(spec.display_name, ())) == len(spec.file.adapters):
            raise ToolError(f"nothing of {spec.display_name} can be merged: {'; '.join(report.notes)}")
    if all(cancel_each_other(_weighted(specs, layer_id)) for layer_id in adapters):
        why = zero_sum_reason(specs, adapters)
        raise ToolError(f"{weighted_names(specs)}: {why}, the result would change nothing")
    adapters = with_constant_alphas(adapters, report)
    comment = f"merged ({options.method}): " + " + ".join(f"{spec.unet:g} * {spec.display_name}" for spec in specs)
    sources = [
        source_record(spec.file, spec.unet, None if spec.blocks is UNIFORM_WEIGHTS else spec.blocks.format_weights())
        for spec in specs
    ]
    metadata = join_metadata([spec.file for spec in specs], comment, sources)
    result = LoraFile(adapters, metadata, _embeddings(specs, report), keys=keys)
    dims = (options.new_rank, options.conv_rank) if options.method == "svd" else None
    return replace(result, metadata=with_network_dims(result, metadata, dims)), report


def _specs(
    files: Sequence[LoraFile], ratios: Sequence[float] | None, blocks: Sequence[BlockWeights] | None
) -> list[AdapterSpec]:
    """The files with their weights, under names that are all different. Raises ToolError."""
    if not files:
        raise ToolError("no files to merge; name them with --models")
    for what, given in (("ratios", ratios), ("block weights", blocks)):
        if given is not None and len(given) != len(files):
            what = what[:-1] if len(given) == 1 else what
            raise ToolError(f"{len(given)} {what} for {counted(len(files), 'file')}; give one for each")
    names = [file.name for file in files]
    labels = [str(f.path or f.name) if names.count(f.name) > 1 else f.name for f in files]
    specs = []
    for i, file in enumerate(files):
        check_usable_beside_layers(file.without_damaged())
        ratio = float(ratios[i]) if ratios is not None else 1.0
        specs.append(
            AdapterSpec(file, te=ratio, unet=ratio, blocks=blocks[i] if blocks else UNIFORM_WEIGHTS, name=labels[i])
        )
    return specs


def _compare(specs: Sequence[AdapterSpec], report: ToolReport) -> None:
    """Reports the layers that only one file has. Raises ToolError where the files have no layer in common.

    Files for different parts of one model, such as a U-Net and a text encoder, may be merged all the same.
    """
    layers_by_file = [set(spec.file.adapters) for spec in specs]
    for i, spec in enumerate(specs):
        others = set().union(*(h for k, h in enumerate(layers_by_file) if k != i))
        only_here = [str(layer_id) for layer_id in spec.file.adapters if layer_id not in others]
        if only_here and len(specs) > 1:
            report.only_in.setdefault(spec.display_name, []).extend(only_here)
    if len(specs) < 2 or any(a & b for i, a in enumerate(layers_by_file) for b in layers_by_file[:i]):
        return
    parts = [{layer_id.part for layer_id in layer_ids} for layer_ids in layers_by_file]
    are_separate = all(a and b and not a & b for i, a in enumerate(parts) for b in parts[:i])
    families = {spec.file.family for spec in specs} - {"unknown"}
    if not are_separate or len(families) > 1:
        files = ", ".join(
            f"{spec.display_name} ({spec.file.family}, {counted(len(spec.file.adapters), 'layer')})" for spec in specs
        )
        raise ToolError(f"these files have no layer in common, nothing was merged: {files}")
    report.add_note("the files have no layer in common: each changes another part of the model")


def _plan(
    layer_id: LayerId, specs: Sequence[AdapterSpec], options: MergeOptions, dtype: torch.dtype, report: ToolReport
) -> tuple[LayerId, LayerPlan]:
    with _named_errors(layer_id, specs):
        parts = [_part(spec, layer_id) for spec in specs if layer_id in spec.file.adapters]
        return layer_id, plan_layer(layer_id, [part for part in parts if part.weight], options, dtype, report)


def _part(spec: AdapterSpec, layer_id: LayerId) -> LayerContribution:
    weight = spec.weight_at(layer_id)
    return LayerContribution(
        spec.display_name, spec.file.adapters[layer_id], weight, change_of(spec.file, layer_id) if weight else None
    )


def _weighted(specs: Sequence[AdapterSpec], layer_id: LayerId) -> list[tuple[Adapter, float]]:
    """The adapters of one layer with their weights."""
    holders = [spec for spec in specs if layer_id in spec.file.adapters]
    return [(spec.file.adapters[layer_id], spec.weight_at(layer_id)) for spec in holders]


def _head(specs: Sequence[AdapterSpec], layer_id: LayerId) -> str | None:
    """The layer's name in the first file with kohya's key format (SDXL's layers have two such names)."""
    for spec in specs:
        for suffix in spec.file.adapters[layer_id].tensors if layer_id in spec.file.adapters else ():
            key = spec.file.keys.get((layer_id, suffix), "")
            if key.startswith("lora_"):
                return key.partition(".")[0]
    return None


def _embeddings(specs: Sequence[AdapterSpec], report: ToolReport) -> dict[str, dict[str, torch.Tensor]]:
    """The embeddings of all files; of two with the same name the first is kept."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for spec in specs:
        for name, vectors in spec.file.embeddings.items():
            if name in found:
                report.add_note(f"two files have an embedding {name!r}; that of {spec.display_name} is left out")
            found.setdefault(name, dict(vectors))
    return found


@contextlib.contextmanager
def _named_errors(layer_id: LayerId, specs: Sequence[AdapterSpec]) -> Iterator[None]:
    """Turns an error of a layer into one that names it, or the file that has NaN or infinity in it."""
    try:
        yield
    except (FitError, ToolError) as error:
        for spec in specs:
            check_usable(spec.file.without_damaged())
        raise _merge_error(layer_id, error, specs) from None


def _merge_error(layer_id: LayerId, error: Exception, specs: Sequence[AdapterSpec]) -> ToolError:
    """The error with the layer's name, and with the files' base models where shapes differ."""
    families = {spec.display_name: spec.file.family for spec in specs}
    text = str(error) if str(layer_id) in str(error) else f"{layer_id}: {error}"
    if isinstance(error, FitError):
        text += " (made for " + ", ".join(f"{family}: {name}" for name, family in families.items()) + ")"
    return ToolError(text)


# --- command line ----------------------------------------------------------------------------------------------------


def _parser(verb: str) -> CommandParser:
    svd = verb == "svd-merge"
    text = "Merge LoRAs into one, or into a checkpoint; lora_add's FIRST SECOND OUTPUT [ALPHA] --mode MODE is read too."
    parser = CommandParser(verb, "Merge LoRAs into one at a new rank." if svd else text)
    parser.add_output_options()
    text = "the LoRAs: files, folders or patterns such as 'loras/*.safetensors'"
    parser.add_argument("--models", nargs="+", required=svd, type=Path, metavar="FILE", help=text)
    parser.add_argument("--ratios", nargs="+", type=float, metavar="R", help="weight of each LoRA (default 1)")
    parser.add_argument(
        "--lbws", nargs="+", metavar="LBW", help="block weights of each: a preset, numbers or a JSON list"
    )
    parser.add_argument("--new_rank", type=int, help="svd: rank of the result (default 4)")
    parser.add_argument("--new_conv_rank", type=int, help="svd: rank of kernels above 1x1 (default: --new_rank)")
    text = "svd: clip the factors at this quantile, as kohya's scripts do at 0.99"
    parser.add_argument("--clamp_quantile", type=float, metavar="Q", help=text)
    text = "accepted for kohya's command lines; sums are always computed in float32"
    parser.add_argument("--precision", choices=SAVE_PRECISIONS, help=text)
    parser.add_argument("--no_metadata", action="store_true", help="write no modelspec metadata into the result")
    parser.add_ignored_options("--v2", "--sdxl", "--shuffle")
    parser.set_defaults(method="svd", sd_model=None)
    if not svd:
        text = (
            "concat: the exact sum; svd: its best approximation at --new_rank; factors: kohya's average of factors "
            "(default: concat; svd where --new_rank is given)"
        )
        parser.add_argument("--method", choices=MERGE_METHODS, default=None, help=text)
        text = "the same as --method concat"
        parser.add_argument("--concat", action="store_const", const="concat", dest="method", help=text)
        parser.add_argument("--sd_model", type=Path, metavar="CKPT", help="merge into a checkpoint or diffusers folder")
        text = "where --save_to is a diffusers folder: CLIP's vocab.json and merges.txt"
        parser.add_argument("--tokenizer", type=Path, metavar="DIR", help=text)
        text = "where --save_to is a diffusers folder: what the U-Net predicts (default: as the file or its .yaml says)"
        parser.add_argument("--prediction", choices=("epsilon", "v"), help=text)
    return parser


def main(
    argv: Sequence[str] | None = None, verb: str = "merge", folder_writer: Callable[..., None] | None = None
) -> int:
    """Runs `lora_ext merge` or `lora_ext svd-merge`.

    Args:
        argv: the command line without the command's name; None reads that of the program.
        verb: the command's name.
        folder_writer: as of `merge_into_checkpoint`.

    Returns:
        The exit status.
    """
    if verb == "merge":
        argv = merge_arguments(sys.argv[1:] if argv is None else argv)
    args = _parser(verb).parse_args(argv)
    args.models = expand_input_files(args.models or ())
    if args.sd_model is not None:
        from .merge_into_checkpoint import run_checkpoint_merge

        return run_checkpoint_merge(args, folder_writer)
    if not args.models:
        raise ToolError("no files to merge; name them with --models")
    check_output_path(args.save_to, args.models, overwrite=args.overwrite)
    options = MergeOptions(
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
    result, report = merge_loras(files, args.ratios, options, blocks=blocks, track=track)
    report.verb = verb
    note_unused_options(report, args, ("tokenizer", "prediction"), "without --sd_model")
    if options.method != "svd":
        note_unused_options(report, args, SVD_ONLY_OPTIONS, f"with --method {options.method}")
    return save_and_report(result, report, args)

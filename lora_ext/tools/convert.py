"""Convert a LoRA between the key formats of kohya, diffusers (PEFT) and ComfyUI, or another adapter kind to LoRA.

Every file that can be loaded can be converted, also `.pt` files and cloneofsimo's.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters import Adapter, Lora
from ..command_line import CommandParser, check_output_path, parse_device, parse_precision, widest_dtype
from ..counted_words import counted
from ..errors import ToolError, did_you_mean
from ..file.key_formats import KEY_FORMATS, format_keys, unsupported_layers
from ..file.loading import assemble_lora_file, load_lora_file
from ..file.lora_file import LoraFile, is_tensor_finite
from ..layer_names import LayerId
from ..progress import Track, no_progress
from .constant_alpha import with_constant_alphas
from .extract_source import SourceCheckpoint
from .layer_changes import (
    change_of,
    in_kohya_format,
    make_lora_adapter,
    make_stored_adapter,
    open_source,
    report_rounding,
)
from .many_files import run_tool
from .nearest_lora import BakeOptions, bake_into_lora
from .program_differences import note_differences
from .report import LayerReport, ToolReport
from .result_metadata import (
    as_plain_lora_metadata,
    carry_metadata,
    is_turned_into_lora,
    save_with_report,
    source_record,
    with_network_dims,
)

TARGET_KEY_FORMATS = tuple(name for name in KEY_FORMATS if name != "file")
"""The key formats that can be written."""


def convert_lora(
    file: LoraFile,
    to: str = "kohya",
    rank: int | None = None,
    *,
    bake: bool = False,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    track: Track = no_progress,
) -> tuple[LoraFile, ToolReport]:
    """Converts a file to another key format, and with `rank` or `bake` its layers to LoRA.

    diffusers' key format has no alpha: the scale alpha / rank is multiplied into lora_B. It holds LoRA layers only.
    Embeddings and keys that were not understood are left out of diffusers' and ComfyUI's, and the report names them.

    Args:
        file: the file to convert; it is not changed.
        to: "kohya", "diffusers" or "comfyui".
        rank: layers of kinds such as LoHa, LoKr and full become the best LoRA of this rank; None keeps their kind.
        bake: layers of any kind that the program cannot read become the nearest LoRA, of `rank` or of the highest rank
            in the file; with "kohya" that is everything but LoRA, which is all that kohya's scripts know.
        base: with `bake` the base model, a file or a diffusers folder, for kinds whose change depends on its weights.
        dtype: of the result's factors; None keeps each layer's own.
        device: where decompositions are computed.
        track: shows progress.

    Returns:
        The converted file and the report.

    Raises:
        ToolError: an unknown key format, NaN, a number too large for the dtype, or layers that the key format cannot
            hold.
    """
    if to not in TARGET_KEY_FORMATS:
        raise ToolError(f"unknown key format {to!r}{did_you_mean(to, TARGET_KEY_FORMATS)}")
    file, report = open_source("convert", file)
    if rank and not bake and all(adapter.kind == "LoRA" for adapter in file.adapters.values()):
        report.add_note("the rank changes nothing: every layer is a LoRA already; resize changes ranks")
    adapters: dict[LayerId, Adapter] = {}
    for layer_id in track(list(file.adapters), "convert"):
        adapters[layer_id] = _layer(file, layer_id, None if bake else rank, dtype, torch.device(device), report)
    if bake:
        source = replace(file, adapters=adapters)
        options = BakeOptions(rank, None if base is None else SourceCheckpoint(base), dtype, device)
        adapters = bake_into_lora(source, unsupported_layers(source, to), options, report, track)
    changed = any(adapters.get(layer_id) is not adapter for layer_id, adapter in file.adapters.items())
    if to == "kohya":
        adapters = with_constant_alphas(adapters, report)
    # SDXL's layer names are written in two ways; the family that decides is known while the keys are still the file's
    made = in_kohya_format(replace(file, adapters=adapters))
    if to != "kohya":
        made = _for_program(made, to, report)
    note_differences(made.adapters, to, report)
    comment = f"converted to the keys of {to}" + (f", LoRA of rank {rank}" if rank and changed else "")
    metadata = carry_metadata(made.metadata, comment, [source_record(file)])
    if is_turned_into_lora(file, adapters):
        metadata = as_plain_lora_metadata(metadata)
    result = replace(made, metadata=metadata, path=file.path)
    return replace(result, metadata=with_network_dims(result, result.metadata)), report


def _layer(
    file: LoraFile,
    layer_id: LayerId,
    rank: int | None,
    dtype: torch.dtype | None,
    device: torch.device,
    report: ToolReport,
) -> Adapter:
    """One layer of the result: as LoRA where a rank is given, and always with the alpha that kohya's scripts need."""
    adapter = file.adapters[layer_id]
    wanted = dtype or widest_dtype([adapter.dtype])
    if adapter.kind == "LoRA" or rank is None:
        tensors = dict(adapter.tensors)
        if adapter.kind == "LoRA" and not {"alpha", "scale"} & tensors.keys():
            tensors["alpha"] = torch.tensor(float(adapter.rank or 1))
        if "lora_magnitude_vector" in tensors and isinstance(adapter, Lora):  # PEFT's, without the weight's axes
            axes = adapter.factors().down.dim()
            tensors["dora_scale"] = tensors.pop("lora_magnitude_vector").reshape(-1, *[1] * (axes - 1))
        bias = adapter.bias_delta() if tensors.pop("lora_up.bias", None) is not None else None
        if bias is not None:  # PEFT's, which no other program reads
            tensors["diff_b"] = bias
        report.layers.append(
            LayerReport(str(layer_id), adapter.rank, adapter.rank, note="" if dtype is None else str(dtype)[6:])
        )
        if dtype is None and tensors.keys() == adapter.tensors.keys():
            return adapter
        return make_stored_adapter(tensors, wanted, layer_id, report)
    change = change_of(file, layer_id)
    if change is None:
        report.unchanged.append(str(layer_id))
        report.add_note(f"{adapter.kind} layers need the base model's weights and stay as they are")
        return make_stored_adapter(adapter.tensors, wanted, layer_id, report)
    if adapter.bias_delta() is not None:
        report.add_note("changes of biases are left out: a LoRA layer cannot hold them")
    best = change.to(device).best_approximation(rank)
    if best.low_rank.rank < rank and best.norm:
        report.add_note(f"rank {rank} is more than some layers can have; those get their full rank (capped)")
    report.layers.append(
        LayerReport(str(layer_id), adapter.rank, best.low_rank.rank, best.kept, best.norm, f"was {adapter.kind}")
    )
    return make_lora_adapter(best.low_rank, None, wanted, layer_id, report)


def _for_program(file: LoraFile, to: str, report: ToolReport) -> LoraFile:
    """The file in the key format of diffusers or ComfyUI; entries that are no layers are left out.

    Raises:
        ToolError: layers that the format cannot hold, or a number that its dtype cannot.
    """
    possessive = "ComfyUI's" if to == "comfyui" else "diffusers'"
    unsupported = unsupported_layers(file, to)
    if unsupported:
        raise ToolError(_unsupported_text(file, unsupported, to))
    for what, names in (("embeddings", list(file.embeddings)), ("entries not understood", list(file.unrecognized))):
        if len(names) == 1:
            report.add_note(f"{possessive} key format holds no {what}: 1 left out: {names[0]}")
        elif names:
            report.add_note(f"{possessive} key format holds no {what}: {len(names)} left out, such as {names[0]}")
    bare = replace(file, embeddings={}, unrecognized={}, embedding_keys={})
    tensors = format_keys(bare, to)
    for key, tensor in tensors.items():
        if not is_tensor_finite(tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ToolError(
                f"{key} does not fit {dtype} once it is multiplied by alpha/rank, as diffusers' key format needs; "
                "save as bf16 or float (--save_precision)"
            )
    made = assemble_lora_file(tensors, file.metadata)
    for layer_id, adapter in made.adapters.items():  # times alpha/rank, small numbers of lora_B may round to 0 in fp16
        report_rounding(report, layer_id, file.adapters[layer_id], adapter)
    return made


def _unsupported_text(file: LoraFile, unsupported: Mapping[LayerId, str], to: str) -> str:
    """What cannot be held, how many layers that are, and what helps."""
    kinds = Counter(unsupported.values())
    what = ", ".join(
        f"{kind} ({count} of {counted(len(file.adapters), 'layer')})" for kind, count in sorted(kinds.items())
    )
    if to == "diffusers":
        reason = f"diffusers' key format holds LoRA layers only, not {what}"
    else:
        reason = f"ComfyUI cannot read {what}"
    return (
        f"{reason}; --rank converts LoHa, LoKr and full layers to LoRA, --bake layers of any kind to the "
        "nearest LoRA (--sd_model BASE for kinds that depend on the base model's weights)"
    )


def _parser() -> CommandParser:
    parser = (
        CommandParser("convert", "Convert a LoRA to another program's key format, or another adapter kind to LoRA.")
        .add_input_files("--model", "safetensors, .pt, .ckpt or .bin")
        .add_output_options(many=True)
    )
    text = "kohya (web UIs, ComfyUI), diffusers (PEFT) or comfyui (ComfyUI's own names)"
    parser.add_argument("--to", choices=TARGET_KEY_FORMATS, default="kohya", help=text)
    parser.add_argument("--rank", type=int, help="convert LoHa, LoKr and full layers to LoRA of this rank")
    text = "make the nearest LoRA, of --rank, of all layers that the program of --to cannot read"
    parser.add_argument("--bake", action="store_true", help=text)
    text = "with --bake: the base model, which DoRA, OFT, IA3 and GLoRA layers need"
    parser.add_argument("--sd_model", type=Path, metavar="CKPT", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext convert`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    return run_tool(_run, _parser().parse_args(argv))


def _run(args: argparse.Namespace, track: Track) -> ToolReport:
    """Converts one file."""
    check_output_path(args.save_to, [args.model], overwrite=args.overwrite)
    if args.sd_model is not None and not args.bake:
        raise ToolError("--sd_model is the base model of --bake; give both, or merge --sd_model to change a checkpoint")
    result, report = convert_lora(
        load_lora_file(args.model),
        args.to,
        args.rank,
        bake=args.bake,
        base=args.sd_model,
        dtype=parse_precision(args.save_precision),
        device=parse_device(args.device),
        track=track,
    )
    return save_with_report(result, report, args)

"""`convert_lora`: kohya's spelling ↔ diffusers' (PEFT), `.pt` and cloneofsimo → kohya's, LoHa, LoKr, full → LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters import Adapter
from ..command_line import CommandParser, check_output_path, parse_device, parse_precision, widest_dtype
from ..errors import ToolError, did_you_mean
from ..file.key_formats import format_keys
from ..file.loading import assemble_lora_file, load_lora_file
from ..file.lora_file import LoraFile, is_tensor_finite
from ..layer_names import LayerId
from ..progress import Track, no_progress, progress_bar
from .layer_changes import (
    change_of,
    in_kohya_format,
    make_lora_adapter,
    make_stored_adapter,
    open_source,
    report_rounding,
)
from .report import LayerReport, ToolReport
from .result_metadata import (
    as_plain_lora_metadata,
    carry_metadata,
    is_turned_into_lora,
    save_and_report,
    source_record,
    with_network_dims,
)

TARGET_KEY_FORMATS = ("kohya", "diffusers")


def convert_lora(
    file: LoraFile,
    to: str = "kohya",
    rank: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    track: Track = no_progress,
) -> tuple[LoraFile, ToolReport]:
    """The file in another spelling; with `rank`, layers that are no LoRA become the best LoRA of that rank.

    diffusers' spelling has no alpha (it goes into lora_B) and holds LoRA layers only: embeddings and keys that were
    not understood are left out and named. Raises ToolError for an unknown spelling, NaN, numbers too large for dtype,
    and layers that the spelling cannot hold.
    """
    if to not in TARGET_KEY_FORMATS:
        raise ToolError(f"unknown spelling {to!r}{did_you_mean(to, TARGET_KEY_FORMATS)}")
    file, report = open_source("convert", file)
    adapters: dict[LayerId, Adapter] = {}
    for site in track(list(file.adapters), "convert"):
        adapters[site] = _layer(file, site, rank, dtype, torch.device(device), report)
    changed = any(adapters[site] is not adapter for site, adapter in file.adapters.items())
    # the family tells how SDXL's names are written, so it is told while the keys are still the file's own
    made = in_kohya_format(replace(file, adapters=adapters))
    if to == "diffusers":
        made = _in_diffusers(made, report)
    said = f"converted to the keys of {to}" + (f", LoRA of rank {rank}" if rank and changed else "")
    metadata = carry_metadata(made.metadata, said, [source_record(file)])
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
    """One layer, as LoRA where a rank is asked; always with an alpha, without which kohya's scripts cannot merge."""
    adapter = file.adapters[layer_id]
    wanted = dtype or widest_dtype([adapter.dtype])
    if adapter.kind == "LoRA" or rank is None:
        tensors = dict(adapter.tensors)
        if adapter.kind == "LoRA" and not {"alpha", "scale"} & tensors.keys():
            tensors["alpha"] = torch.tensor(float(adapter.rank or 1))
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
        report.add_note("changes of biases have no place in a LoRA and are left out")
    best = change.to(device).best_approximation(rank)
    if best.low_rank.rank < rank and best.norm:
        report.add_note(f"rank {rank} is more than some layers hold; they got all of theirs (capped)")
    report.layers.append(
        LayerReport(str(layer_id), adapter.rank, best.low_rank.rank, best.kept, best.norm, f"was {adapter.kind}")
    )
    return make_lora_adapter(best.low_rank, None, wanted, layer_id, report)


def _in_diffusers(file: LoraFile, report: ToolReport) -> LoraFile:
    """In PEFT's spelling; what that cannot hold is left out if it is no layer, and an error if it is."""
    others = sorted({a.kind for a in file.adapters.values() if a.kind != "LoRA"})
    if others:
        raise ToolError(
            f"diffusers' keys hold LoRA only, not {', '.join(others)}; --rank makes LoRA of LoHa, LoKr, full"
        )
    for what, names in (("embeddings", list(file.embeddings)), ("entries not understood", list(file.unrecognized))):
        if names:
            report.add_note(f"diffusers' spelling holds no {what}: {len(names)} left out, such as {names[0]}")
    bare = replace(file, embeddings={}, unrecognized={}, embedding_keys={})
    tensors = format_keys(bare, "diffusers")
    for key, tensor in tensors.items():
        if not is_tensor_finite(tensor):
            name = str(tensor.dtype).removeprefix("torch.")
            raise ToolError(
                f"{key} does not fit {name} with alpha/rank inside it, as diffusers' spelling has it; "
                "save as bf16 or float (--save_precision)"
            )
    made = assemble_lora_file(tensors, file.metadata)
    for site, adapter in made.adapters.items():  # alpha/rank went into lora_B: small numbers may be 0 in fp16 then
        report_rounding(report, site, file.adapters[site], adapter)
    return made


def _parser() -> CommandParser:
    parser = CommandParser(
        "convert", "Write a LoRA in another program's spelling, or another kind as LoRA."
    ).add_output_options()
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="safetensors, .pt, .ckpt or .bin")
    parser.add_argument(
        "--to", choices=TARGET_KEY_FORMATS, default="kohya", help="kohya (web UIs, ComfyUI), or diffusers (PEFT)"
    )
    parser.add_argument("--rank", type=int, help="make LoHa, LoKr and full layers LoRA of this rank")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `convert_lora`."""
    args = _parser().parse_args(argv)
    check_output_path(args.save_to, [args.model], overwrite=args.overwrite)
    result, report = convert_lora(
        load_lora_file(args.model),
        args.to,
        args.rank,
        dtype=parse_precision(args.save_precision),
        device=parse_device(args.device),
        track=no_progress if args.json else progress_bar,
    )
    return save_and_report(result, report, args)

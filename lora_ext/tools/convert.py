"""`convert`: kohya's spelling ↔ diffusers' (PEFT), `.pt` and cloneofsimo → kohya's, LoHa, LoKr, full → LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters import Adapter
from ..command_line import Parser, check_output, device_of, dtype_of, widest
from ..errors import ToolError, did_you_mean
from ..file.key_formats import spell
from ..file.loading import assemble, read
from ..file.lora_file import LoraFile, finite
from ..layer_names import Site
from ..progress import Track, bar, silent
from .layer_changes import change_of, in_kohya, lora_of, opened, report_rounding, stored_as
from .report import Layer, Report
from .result_metadata import became_lora, carried, described, finish, origin, plain

DIALECTS = ("kohya", "diffusers")


def convert(
    file: LoraFile,
    to: str = "kohya",
    rank: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    track: Track = silent,
) -> tuple[LoraFile, Report]:
    """The file in another spelling; with `rank`, layers that are no LoRA become the best LoRA of that rank.

    diffusers' spelling has no alpha (it goes into lora_B) and holds LoRA layers only: embeddings and keys that were
    not understood are left out and named. Raises ToolError for an unknown spelling, NaN, numbers too large for dtype,
    and layers that the spelling cannot hold.
    """
    if to not in DIALECTS:
        raise ToolError(f"unknown spelling {to!r}{did_you_mean(to, DIALECTS)}")
    file, report = opened("convert", file)
    adapters: dict[Site, Adapter] = {}
    for site in track(list(file.adapters), "convert"):
        adapters[site] = _layer(file, site, rank, dtype, torch.device(device), report)
    changed = any(adapters[site] is not adapter for site, adapter in file.adapters.items())
    # the family tells how SDXL's names are written, so it is told while the keys are still the file's own
    made = in_kohya(replace(file, adapters=adapters))
    if to == "diffusers":
        made = _in_diffusers(made, report)
    said = f"converted to the keys of {to}" + (f", LoRA of rank {rank}" if rank and changed else "")
    metadata = carried(made.metadata, said, [origin(file)])
    if became_lora(file, adapters):
        metadata = plain(metadata)
    result = replace(made, metadata=metadata, path=file.path)
    return replace(result, metadata=described(result, result.metadata)), report


def _layer(
    file: LoraFile, site: Site, rank: int | None, dtype: torch.dtype | None, device: torch.device, report: Report
) -> Adapter:
    """One layer, as LoRA where a rank is asked; always with an alpha, without which kohya's scripts cannot merge."""
    adapter = file.adapters[site]
    wanted = dtype or widest([adapter.dtype])
    if adapter.kind == "LoRA" or rank is None:
        tensors = dict(adapter.tensors)
        if adapter.kind == "LoRA" and not {"alpha", "scale"} & tensors.keys():
            tensors["alpha"] = torch.tensor(float(adapter.rank or 1))
        report.layers.append(Layer(str(site), adapter.rank, adapter.rank, note="" if dtype is None else str(dtype)[6:]))
        if dtype is None and tensors.keys() == adapter.tensors.keys():
            return adapter
        return stored_as(tensors, wanted, site, report)
    change = change_of(file, site)
    if change is None:
        report.unchanged.append(str(site))
        report.note(f"{adapter.kind} layers need the base model's weights and stay as they are")
        return stored_as(adapter.tensors, wanted, site, report)
    if adapter.bias_delta() is not None:
        report.note("changes of biases have no place in a LoRA and are left out")
    best = change.to(device).best(rank)
    if best.low.rank < rank and best.norm:
        report.note(f"rank {rank} is more than some layers hold; they got all of theirs (capped)")
    report.layers.append(Layer(str(site), adapter.rank, best.low.rank, best.kept, best.norm, f"was {adapter.kind}"))
    return lora_of(best.low, None, wanted, site, report)


def _in_diffusers(file: LoraFile, report: Report) -> LoraFile:
    """In PEFT's spelling; what that cannot hold is left out if it is no layer, and an error if it is."""
    others = sorted({a.kind for a in file.adapters.values() if a.kind != "LoRA"})
    if others:
        raise ToolError(
            f"diffusers' keys hold LoRA only, not {', '.join(others)}; --rank makes LoRA of LoHa, LoKr, full"
        )
    for what, names in (("embeddings", list(file.embeddings)), ("entries not understood", list(file.unread))):
        if names:
            report.note(f"diffusers' spelling holds no {what}: {len(names)} left out, such as {names[0]}")
    bare = replace(file, embeddings={}, unread={}, embedding_keys={})
    tensors = spell(bare, "diffusers")
    for key, tensor in tensors.items():
        if not finite(tensor):
            name = str(tensor.dtype).removeprefix("torch.")
            raise ToolError(
                f"{key} does not fit {name} with alpha/rank inside it, as diffusers' spelling has it; "
                "save as bf16 or float (--save_precision)"
            )
    made = assemble(tensors, file.metadata)
    for site, adapter in made.adapters.items():  # alpha/rank went into lora_B: small numbers may be 0 in fp16 then
        report_rounding(report, site, file.adapters[site], adapter)
    return made


def _parser() -> Parser:
    parser = Parser("convert", "Write a LoRA in another program's spelling, or another kind as LoRA.").common()
    parser.add_argument("--model", required=True, type=Path, metavar="FILE", help="safetensors, .pt, .ckpt or .bin")
    parser.add_argument("--to", choices=DIALECTS, default="kohya", help="kohya (web UIs, ComfyUI), or diffusers (PEFT)")
    parser.add_argument("--rank", type=int, help="make LoHa, LoKr and full layers LoRA of this rank")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `convert`."""
    args = _parser().parse_args(argv)
    check_output(args.save_to, [args.model], overwrite=args.overwrite)
    result, report = convert(
        read(args.model),
        args.to,
        args.rank,
        dtype=dtype_of(args.save_precision),
        device=device_of(args.device),
        track=silent if args.json else bar,
    )
    return finish(result, report, args)

"""Merge LoRAs into a checkpoint (`merge --sd_model`): W + ΔW in float32, rounded once, tensor by tensor.

Unchanged tensors and the metadata stay bit-identical. The sums are those of baked LoRAs.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..adapter_spec import AdapterSpec
from ..block_weights import UNIFORM_WEIGHTS, parse_block_weights
from ..command_line import SVD_ONLY_OPTIONS, parse_device, parse_precision
from ..counted_words import counted
from ..errors import ToolError
from ..file.containers import similar_file_hint
from ..file.loading import load_lora_file
from ..file.saving import check_not_protected
from ..progress import Track, no_progress, progress_bar
from .checkpoint_changes import TORCH_SUFFIXES, CheckpointFilePlan, assign_adapters, save_checkpoint_file
from .checkpoint_keys import find_weight_locations
from .checkpoint_stream import open_tensor_file
from .merge_folder_into_file import merge_folder_into_file
from .merge_into_folder import merge_into_diffusers_folder
from .report import LayerReport, ToolReport, note_unused_options, print_report


class CheckpointMergeReport(ToolReport):
    """The report of a merge into a checkpoint, whose layers have no rank.

    Its text has counts and what rounding lost; layers are listed with `verbose` only.
    """

    def text(self, *, verbose: bool = False) -> str:
        """The report as text: what changed, what did not fit, where it was written."""
        brief = replace(self, layers=[])
        lines = ToolReport.text(brief).splitlines()[1:]
        changed = [self._line(layer) for layer in self.layers] if verbose else []
        head = f"{self.verb}: {counted(len(self.layers), 'layer')} of the checkpoint matched and changed"
        return "\n".join([*changed, head, *lines]) + "\n"

    def _line(self, layer: LayerReport) -> str:
        rounding = self.rounding.get(layer.name)
        share = f", {rounding.share:.0%} survived" if rounding else ""
        return f"  {layer.name} (rank {layer.old or 'full'}{share})"


def merge_into_checkpoint(
    checkpoint: str | Path,
    specs: Sequence[AdapterSpec],
    save_to: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    overwrite: bool = False,
    track: Track = no_progress,
    folder_writer: Callable[..., None] | None = None,
) -> ToolReport:
    """Writes a copy of a checkpoint with Σ weightᵢ·ΔWᵢ added.

    Memory holds the LoRAs and one tensor of the checkpoint at a time (of a `.ckpt` all of them).

    Args:
        checkpoint: an LDM `.safetensors` or `.ckpt` file, or a diffusers folder.
        specs: the LoRA files with their weights; none only where a folder is written as a file, or a file as a folder.
        save_to: the file or folder to write, in LDM's or in diffusers' layout; a name without a suffix is a folder.
        dtype: of all floating-point tensors of the result; None keeps each tensor's own.
        device: where the sums are computed.
        overwrite: whether `save_to` may be replaced.
        track: shows progress.
        folder_writer: writes a checkpoint file as a diffusers folder: `write_checkpoint_as_folder` of the standalone
            host, which this package does not import.

    Returns:
        The report.

    Raises:
        FileError: a file that cannot be read, contains NaN, or has another architecture.
        ToolError: nothing matches, LoRAs for another model family, a result that exists, too little space on the disk,
            or a number that `dtype` cannot hold (naming the layer).
    """
    checkpoint, save_to, device = Path(checkpoint), Path(save_to), torch.device(device)
    if not checkpoint.exists():
        raise ToolError(f"there is no checkpoint {checkpoint}{similar_file_hint(checkpoint)}")
    check_checkpoint_output(checkpoint, save_to, overwrite, [spec.file.path for spec in specs])
    for spec in specs:
        spec.file.check_architecture()
        spec.file.without_damaged().check_finite()
    report = CheckpointMergeReport("merge")
    if checkpoint.is_dir() and save_to.suffix.lower() in (".safetensors", *TORCH_SUFFIXES):
        merge_folder_into_file(
            checkpoint, specs, save_to, report, dtype=dtype, device=device, overwrite=overwrite, track=track
        )
    elif checkpoint.is_file() and _names_a_folder(save_to):
        if folder_writer is None:
            raise ToolError(f"{save_to} is a folder; the command `merge --sd_model` writes a checkpoint as a folder")
        folder_writer(checkpoint, specs, save_to, report, dtype=dtype, device=device, track=track)
    elif not specs:
        raise ToolError(
            "no LoRA to merge: name files with --models (without, a diffusers folder can be written as a file and a "
            "file as a folder)"
        )
    elif checkpoint.is_dir():
        merge_into_diffusers_folder(checkpoint, specs, save_to, report, dtype=dtype, device=device, track=track)
    else:
        tensor_file = open_tensor_file(checkpoint)
        plan = CheckpointFilePlan(tensor_file, find_weight_locations(tensor_file.shapes))
        assign_adapters([plan], specs, report, str(checkpoint))
        save_checkpoint_file(plan, save_to, dtype, device, overwrite=overwrite, track=track)
        plan.add_rounding_to(report)
    report.outputs.append(str(save_to))
    return report


def _names_a_folder(save_to: Path) -> bool:
    """Whether a result's name is that of a folder: it has no suffix, a version's number, or the folder is there."""
    suffix = save_to.suffix.lower()
    return suffix not in (".safetensors", *TORCH_SUFFIXES) and (
        not suffix.rstrip("0123456789").strip(".") or save_to.is_dir()
    )


def check_checkpoint_output(checkpoint: Path, save_to: Path, overwrite: bool, inputs: Iterable[Path | None]) -> None:
    """Checks where the result of a merge is to be written: a file or a folder.

    Args:
        checkpoint: the checkpoint that is read.
        save_to: the path to write.
        overwrite: whether `save_to` may be replaced.
        inputs: the LoRA files, which are never overwritten.

    Raises:
        ToolError: `save_to` cannot be written, exists without `overwrite`, or is one of the inputs.
    """
    if not save_to.parent.is_dir():
        raise ToolError(f"{save_to} cannot be written: there is no folder {save_to.parent}; create it first")
    if not checkpoint.is_dir() and not _names_a_folder(save_to):
        if save_to.suffix.lower() not in (".safetensors", *TORCH_SUFFIXES):
            raise ToolError(
                f"{save_to} cannot be written: results are .safetensors or .ckpt files, or a diffusers folder, whose "
                "name has no suffix"
            )
        if save_to.is_dir():
            raise ToolError(f"{save_to} is a folder with the name of a file; choose another name")
    elif save_to.suffix.lower() in (".safetensors", *TORCH_SUFFIXES) and save_to.is_dir():
        raise ToolError(f"{save_to} is a folder; --save_to must be a file or another folder")
    if save_to.exists() and not overwrite:
        same = [path for path in (checkpoint, *inputs) if path is not None and path.exists() and save_to.samefile(path)]
        what = "is one of the inputs" if same else "exists"
        raise ToolError(f"{save_to} {what}; choose another name or give --overwrite")
    if any(path is not None and path.exists() and save_to.exists() and save_to.samefile(path) for path in inputs):
        raise ToolError(f"{save_to} is one of the LoRA files; choose another name")
    check_not_protected(save_to)


# --- command line ----------------------------------------------------------------------------------------------------


def run_checkpoint_merge(args: argparse.Namespace, folder_writer: Callable[..., None] | None = None) -> int:
    """Runs `lora_ext merge --sd_model`; returns the exit status.

    Args:
        args: as the parser of `merge` returns them.
        folder_writer: as of `merge_into_checkpoint`.

    Raises:
        LoraError: as `merge_into_checkpoint`.
    """
    models, ratios = list(args.models or []), list(args.ratios or [])
    ratios = ratios or [1.0] * len(models)
    lbws = list(getattr(args, "lbws", None) or [])
    if len(ratios) != len(models) or (lbws and len(lbws) != len(models)):
        raise ToolError(
            f"{counted(len(models), 'model')}, {counted(len(ratios), 'ratio')}"
            + (f", {counted(len(lbws), 'block weight')}" if lbws else "")
            + ": give one ratio"
            + (" and one --lbws value" if lbws else "")
            + " for each model"
        )
    specs = [
        AdapterSpec(
            load_lora_file(model), float(ratio), float(ratio), parse_block_weights(lbw) if lbw else UNIFORM_WEIGHTS
        )
        for model, ratio, lbw in zip(models, ratios, lbws or [""] * len(models), strict=True)
    ]
    for_folders = {name: getattr(args, name, None) for name in ("tokenizer", "prediction")}
    report = merge_into_checkpoint(
        args.sd_model,
        specs,
        args.save_to,
        dtype=parse_precision(args.save_precision),
        device=parse_device(args.device or "cpu"),
        overwrite=args.overwrite,
        track=no_progress if args.json else progress_bar,
        folder_writer=functools.partial(folder_writer, **for_folders) if folder_writer else None,
    )
    if not (args.sd_model.is_file() and args.save_to.is_dir()):
        note_unused_options(report, args, tuple(for_folders), "but where a checkpoint file is written as a folder")
    note_unused_options(report, args, ("method", *SVD_ONLY_OPTIONS), "with --sd_model: the sums are exact")
    if getattr(args, "precision", None) not in (None, "float", "fp32"):
        report.add_note("sums are computed in float32 and rounded once; --precision changes nothing here")
    print_report(report, as_json=args.json, verbose=getattr(args, "verbose", False))
    return 0

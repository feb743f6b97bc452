"""LoRAs into a checkpoint: `merge --sd_model`. W + ΔW summed in float32 and rounded once, tensor by tensor.

What no LoRA touches, and the metadata, comes through bit-identical. The sums are those of baked injection.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..applied_networks import Use
from ..blocks import UNIFORM, parse_weights
from ..command_line import SVD_ONLY, device_of, dtype_of, note_idle
from ..errors import ToolError
from ..file.loading import read
from ..progress import Track, bar, silent
from .checkpoint_changes import TORCH, Plan, assign, write_file
from .checkpoint_keys import places
from .checkpoint_stream import store_of
from .merge_into_folder import merge_folder
from .report import Layer, Report, show


class Merged(Report):
    """A layer of a checkpoint has no rank: the text is counts and what rounding lost, the layers only when asked."""

    def text(self, *, verbose: bool = False) -> str:
        """What changed, what did not fit, where it was written."""
        brief = replace(self, layers=[])
        lines = Report.text(brief).splitlines()[1:]
        changed = [self._line(layer) for layer in self.layers] if verbose else []
        head = f"{self.verb}: {len(self.layers)} layers of the checkpoint matched and changed"
        return "\n".join([*changed, head, *lines]) + "\n"

    def _line(self, layer: Layer) -> str:
        found = self.rounding.get(layer.name)
        share = f", {found.share:.0%} survived" if found else ""
        return f"  {layer.name} (rank {layer.old or 'full'}{share})"


def merge_into(
    checkpoint: str | Path,
    uses: Sequence[Use],
    save_to: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    overwrite: bool = False,
    track: Track = silent,
) -> Report:
    """Writes the checkpoint with Σ weight·ΔW added: an LDM `.safetensors` or `.ckpt`, or a diffusers folder.

    dtype: of all floating-point tensors of the result, None for what each has. Memory: one tensor and the LoRAs (a
    `.ckpt`: all of it). Raises FileError (unreadable, NaN, another architecture) and ToolError: nothing matches, files
    for another family, a result that exists, no space, a number that `dtype` cannot hold (naming the layer).
    """
    checkpoint, save_to, device = Path(checkpoint), Path(save_to), torch.device(device)
    if not checkpoint.exists():
        raise ToolError(f"there is no checkpoint {checkpoint}")
    check_target(checkpoint, save_to, overwrite, [use.file.path for use in uses])
    for use in uses:
        use.file.check_architecture()
        use.file.without_damaged().check_finite()
    report = Merged("merge")
    if checkpoint.is_dir():
        merge_folder(checkpoint, uses, save_to, report, dtype=dtype, device=device, overwrite=overwrite, track=track)
    else:
        store = store_of(checkpoint)
        plan = Plan(store, places(store.shapes))
        assign([plan], uses, report, str(checkpoint))
        write_file(plan, save_to, dtype, device, overwrite=overwrite, track=track)
        plan.tell(report)
    report.outputs.append(str(save_to))
    return report


def check_target(checkpoint: Path, save_to: Path, overwrite: bool, inputs: Iterable[Path | None]) -> None:
    """Raises ToolError unless the result may be written there: a folder for a folder, a file for a file."""
    if not save_to.parent.is_dir():
        raise ToolError(f"{save_to} cannot be written: there is no folder {save_to.parent}; create it first")
    if not checkpoint.is_dir():
        if save_to.suffix.lower() not in (".safetensors", *TORCH):
            raise ToolError(f"{save_to} cannot be written: results are .safetensors or .ckpt files")
        if save_to.is_dir():
            raise ToolError(f"{save_to} is a folder, {checkpoint} a file; name a file to write")
    elif save_to.suffix.lower() in (".safetensors", *TORCH):
        raise ToolError(f"{checkpoint} is a diffusers folder; --save_to names a folder to write, not {save_to.name}")
    if save_to.exists() and not overwrite:
        same = [path for path in (checkpoint, *inputs) if path is not None and path.exists() and save_to.samefile(path)]
        what = "is one of the inputs" if same else "exists"
        raise ToolError(f"{save_to} {what}; choose another name or give --overwrite")
    if any(path is not None and path.exists() and save_to.exists() and save_to.samefile(path) for path in inputs):
        raise ToolError(f"{save_to} is one of the LoRA files; choose another name")


# --- command line ----------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """`merge --sd_model`: args as `merge`'s parser makes them. Returns the exit status; raises LoraError."""
    models, ratios = list(args.models), list(args.ratios or [])
    ratios = ratios or [1.0] * len(models)
    lbws = list(getattr(args, "lbws", None) or [])
    if len(ratios) != len(models) or (lbws and len(lbws) != len(models)):
        raise ToolError(
            f"{len(models)} models, {len(ratios)} ratios" + (f", {len(lbws)} block weights" if lbws else "") + ": "
            "give one of each"
        )
    uses = [
        Use(read(model), float(ratio), float(ratio), parse_weights(lbw) if lbw else UNIFORM)
        for model, ratio, lbw in zip(models, ratios, lbws or [""] * len(models), strict=True)
    ]
    report = merge_into(
        args.sd_model,
        uses,
        args.save_to,
        dtype=dtype_of(args.save_precision),
        device=device_of(args.device or "cpu"),
        overwrite=args.overwrite,
        track=silent if args.json else bar,
    )
    note_idle(report, args, ("method", *SVD_ONLY), "in a checkpoint: the sums are exact")
    if getattr(args, "precision", None) not in (None, "float", "fp32"):
        report.note("sums are computed in float32 and rounded once; --precision changes nothing here")
    show(report, as_json=args.json, verbose=getattr(args, "verbose", False))
    return 0

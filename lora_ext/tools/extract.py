"""Extract the difference of two checkpoints as a LoRA: the best approximation of its rank, layer by layer.

The layers are those of kohya's `extract_lora_from_models.py`: attention blocks and text encoders (LierLa), with
`conv_dim` also resnets and samplers (C3Lier). Two layers are in memory at a time, never a whole model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..adapters import Adapter
from ..command_line import CommandParser, check_output_path, parse_device, parse_precision, rank_rules, widest_dtype
from ..counted_words import counted
from ..errors import ToolError
from ..file.base_model import MODELSPEC_ARCHITECTURES, SD1, SD2, SDXL
from ..file.lora_file import LoraFile
from ..layer_names import UNET, LayerId
from ..lowrank import LowRank, clamped
from ..progress import Track, no_progress, progress_bar
from ..rank_reduction import RankRule, approximate_delta
from .constant_alpha import note_misread_alphas
from .extract_source import SourceCheckpoint
from .layer_changes import LayerChange, is_wide_kernel_shape, kept_share, make_lora_adapter
from .report import LayerReport, ToolReport
from .result_metadata import SOURCES_KEY, SourceRecord, save_and_report, source_as_dict, with_network_dims

MIN_DIFF = 0.01
"""Default of `min_diff`, from kohya's `extract_lora_from_models.py`."""


def extract_lora(
    org: str | Path,
    tuned: str | Path,
    *,
    dim: int = 4,
    conv_dim: int | None = None,
    min_diff: float = MIN_DIFF,
    dynamic_method: str | None = None,
    dynamic_param: float | None = None,
    clamp_quantile: float | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    track: Track = no_progress,
) -> tuple[LoraFile, ToolReport]:
    """Extracts the LoRA that is nearest to `tuned` − `org` at every layer.

    Alpha is the rank, or `dim` in all layers with a dynamic method.

    Args:
        org: the original checkpoint, a file or a diffusers folder.
        tuned: the fine-tuned one.
        dim: rank of Linear and 1x1 layers.
        conv_dim: rank of larger kernels; None leaves resnets and samplers out.
        min_diff: the text encoders are left out when none of their weights differs by more than this.
        dynamic_method: how the rank of each layer is chosen, at most `dim` and `conv_dim` (`rank_reduction.RankRule`).
        dynamic_param: the parameter of that method.
        clamp_quantile: clips the factors at this quantile of their entries, as kohya's scripts do at 0.99. It costs
            precision.
        dtype: of the factors; None for the wider dtype of the two checkpoints (fp16 for 8-bit floats).
        device: where decompositions are computed.
        track: shows progress.

    Returns:
        The LoRA and the report.

    Raises:
        FileError: a checkpoint that cannot be read.
        ToolError: different architectures, NaN, no difference, or a number too large for the dtype (naming the layer).
    """
    ranks = rank_rules(dim, conv_dim, dynamic_method, dynamic_param)
    if clamp_quantile is not None and not 0 < clamp_quantile <= 1:
        raise ToolError(f"clamp_quantile must be between 0 and 1, not {clamp_quantile:g}")
    base, other = SourceCheckpoint(org), SourceCheckpoint(tuned)
    report = ToolReport("extract")
    if dynamic_method is None and dynamic_param is not None:
        report.add_note("--dynamic_param changes nothing without --dynamic_method")
    layer_ids = _text_if_tuned(base, other, _shared(base, other, conv_dim is not None, report), min_diff, report)
    adapters: dict[LayerId, Adapter] = {}
    for layer_id in track(layer_ids, "extract"):
        delta = _difference(base, other, layer_id).to(device)
        if float(delta.sum()) == 0 and not delta.any():
            report.unchanged.append(str(layer_id))
            continue
        low = _approximated(delta, ranks[is_wide_kernel_shape(base.shapes[layer_id])], clamp_quantile, layer_id, report)
        wanted = dtype or widest_dtype([base.dtype(layer_id), other.dtype(layer_id)])
        alpha = None if dynamic_method is None else float(dim)  # one for all ranks, as diffusers needs
        adapters[layer_id] = make_lora_adapter(low, alpha, wanted, layer_id, report)
    if not adapters:
        raise ToolError(
            f"{tuned} and {org} are equal ({counted(len(layer_ids), 'layer')} compared); there is nothing to extract"
        )
    note_misread_alphas(adapters, report)
    file = LoraFile(adapters)
    metadata = _metadata(base, other, dim, conv_dim, dynamic_method, dynamic_param)
    dims = None if dynamic_method is not None else (dim, ranks[1].rank)
    return LoraFile(adapters, with_network_dims(file, metadata, dims)), report


# --- which layers ----------------------------------------------------------------------------------------------------


def is_extracted_layer(layer_id: LayerId, shape: Sequence[int], conv: bool) -> bool:
    """Whether a layer is extracted: attention and text encoders always, resnets and samplers with `conv`.

    Example:
        >>> is_extracted_layer(LayerId("unet", "IN01", "attention.proj_in"), (320, 320), conv=False)
        True
    """
    if len(shape) < 2:
        return False
    if layer_id.part != UNET:
        return ".self_attn." in layer_id.layer or ".mlp." in layer_id.layer
    return layer_id.layer.startswith(("attention.", *(("resnet.", "sampler.") if conv else ())))


def _shared(base: SourceCheckpoint, other: SourceCheckpoint, conv: bool, report: ToolReport) -> list[LayerId]:
    """The layers to extract, in the base's order. Raises ToolError when the two have different architectures."""
    families = {checkpoint.family for checkpoint in (base, other)}
    wanted = [layer_id for layer_id, shape in base.shapes.items() if is_extracted_layer(layer_id, shape, conv)]
    resized = [s for s in wanted if s in other.shapes and _size(base.shapes[s]) != _size(other.shapes[s])]
    if len(families - {"unknown"}) > 1 or resized:
        hint = "".join(f"; {s} is {base.shapes[s]} in one and {other.shapes[s]} in the other" for s in resized[:1])
        raise ToolError(
            f"{base.path} is {base.describe()}, {other.path} is {other.describe()}, another architecture{hint}"
        )
    for one, two in ((base, other), (other, base)):
        only_here = [
            str(s) for s, shape in one.shapes.items() if is_extracted_layer(s, shape, conv) and s not in two.shapes
        ]
        if only_here:
            report.only_in[str(one.path)] = only_here
    return [layer_id for layer_id in wanted if layer_id in other.shapes]


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _text_if_tuned(
    base: SourceCheckpoint, other: SourceCheckpoint, layer_ids: list[LayerId], least: float, report: ToolReport
) -> list[LayerId]:
    """The layers, without those of the text encoders if none of them differs by more than `least`."""
    text = [layer_id for layer_id in layer_ids if layer_id.part != UNET]
    largest = 0.0
    for layer_id in text:
        largest = max(largest, float(_difference(base, other, layer_id).abs().max()))
        if largest > least:
            return layer_ids
    if text:
        report.add_note(
            f"text encoder left out: no weight differs by more than {least:g} (largest difference {largest:.3g})"
        )
    return [layer_id for layer_id in layer_ids if layer_id.part == UNET]


# --- one layer -------------------------------------------------------------------------------------------------------


def _difference(base: SourceCheckpoint, other: SourceCheckpoint, layer_id: LayerId) -> Tensor:
    """Tuned − org, float32, in the base's shape. Raises ToolError naming the layer for NaN."""
    before, after = base.load_weight(layer_id), other.load_weight(layer_id)
    delta = after.reshape(before.shape).to(torch.float32, copy=True).sub_(before)
    if not bool(torch.isfinite(delta.sum())) and not bool(torch.isfinite(delta).all()):
        path = other.path if bool(torch.isfinite(before).all()) else base.path
        raise ToolError(f"{path} contains NaN or infinity in {layer_id}")
    return delta


def _approximated(
    delta: Tensor, rule: RankRule, clamp_quantile: float | None, layer_id: LayerId, report: ToolReport
) -> LowRank:
    """The nearest ΔW of the rule's rank, clamped where a quantile is given; adds its line to the report."""
    best = approximate_delta(delta, rule)
    low, kept, note = best.low_rank, best.kept, ""
    if rule.method is None and low.rank < rule.rank:
        report.add_note(f"rank {rule.rank} is more than some layers can have; those get their full rank (capped)")
    if clamp_quantile is not None:
        low, note = clamped(low, clamp_quantile), f"clamped at quantile {clamp_quantile:g}"
        kept = kept_share(low, LayerChange(None, delta))
    report.layers.append(LayerReport(str(layer_id), None, low.rank, kept, best.norm, note))
    return low


# --- metadata and command line ---------------------------------------------------------------------------------------


def _metadata(
    base: SourceCheckpoint,
    other: SourceCheckpoint,
    dim: int,
    conv_dim: int | None,
    method: str | None,
    param: float | None,
) -> dict[str, str]:
    """The metadata that kohya's script writes, and both sources."""
    ranks = f"dim {dim}" + (f", conv dim {conv_dim}" if conv_dim is not None else "")
    chosen = f", {method}: {param:g}" if method is not None else ""
    version = {SD2: "sd_v2", SDXL: "sdxl_base_v1-0"}.get(base.family, "sd_v1")
    return {
        "ss_base_model_version": version,
        "ss_v2": str(base.family == SD2),
        "ss_sd_model_name": base.path.name,
        "ss_sd_model_hash": base.hash,
        "ss_network_module": "networks.lora",
        "ss_training_comment": f"extracted from {other.path.name} minus {base.path.name} ({ranks}{chosen})",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{MODELSPEC_ARCHITECTURES.get(base.family, MODELSPEC_ARCHITECTURES[SD1])}/lora",
        SOURCES_KEY: json.dumps(
            [source_as_dict(SourceRecord(c.path.name, c.hash, ratio)) for c, ratio in ((other, 1.0), (base, -1.0))]
        ),
    }


def _parser() -> CommandParser:
    parser = (
        CommandParser("extract", "Extract the difference of two checkpoints as a LoRA.")
        .add_output_options()
        .add_dynamic_rank_options()
    )
    parser.add_argument("--model_org", type=Path, required=True, metavar="CKPT", help="the original checkpoint")
    parser.add_argument("--model_tuned", type=Path, required=True, metavar="CKPT", help="the fine-tuned checkpoint")
    parser.add_argument("--dim", type=int, default=4, help="rank of Linear and 1x1 layers (default 4)")
    parser.add_argument("--conv_dim", type=int, help="rank of 3x3 kernels (default: resnets and samplers are left out)")
    text = f"leave the text encoders out when none of their weights differs by more (default {MIN_DIFF})"
    parser.add_argument("--min_diff", type=float, default=MIN_DIFF, help=text)
    parser.add_argument(
        "--clamp_quantile", type=float, help="clip the factors at this quantile, as kohya's scripts do at 0.99"
    )
    parser.add_argument("--no_metadata", action="store_true", help="write no modelspec metadata into the result")
    devices = ("--load_original_model_to", "--load_tuned_model_to")
    return parser.add_ignored_options("--v2", "--sdxl", "--v_parameterization", "--load_precision", *devices)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `lora_ext extract`.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        The exit status.
    """
    args = _parser().parse_args(argv)
    inputs = [args.model_org, args.model_tuned]
    check_output_path(args.save_to, inputs, overwrite=args.overwrite)
    file, report = extract_lora(
        *inputs,
        dim=args.dim,
        conv_dim=args.conv_dim,
        min_diff=args.min_diff,
        dynamic_method=args.dynamic_method,
        dynamic_param=args.dynamic_param,
        clamp_quantile=args.clamp_quantile,
        dtype=parse_precision(args.save_precision),
        device=parse_device(args.device),
        track=no_progress if args.json else progress_bar,
    )
    return save_and_report(file, report, args)


__all__ = ["extract_lora", "is_extracted_layer", "main"]

"""Layers that another program cannot read, as the nearest LoRA (`convert --bake`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..adapters import Adapter, Norm
from ..command_line import widest_dtype
from ..counted_words import counted
from ..errors import FitError, ToolError
from ..file.lora_file import LoraFile
from ..layer_names import LayerId
from ..progress import Track
from .extract_source import SourceCheckpoint
from .layer_changes import LayerChange, change_of, make_lora_adapter
from .report import LayerReport, ToolReport

DEFAULT_RANK = 16
"""Rank of the nearest LoRA where a file has no rank of its own."""


@dataclass(frozen=True)
class BakeOptions:
    """How layers become LoRA.

    Attributes:
        rank: of the LoRA; None for the highest in the file.
        base: the base model's weights, for kinds whose change depends on them; None for none.
        dtype: of the factors; None keeps each layer's own.
        device: where decompositions are computed.
    """

    rank: int | None = None
    base: SourceCheckpoint | None = None
    dtype: torch.dtype | None = None
    device: str | torch.device = "cpu"


def bake_into_lora(
    file: LoraFile, layers: Mapping[LayerId, str], options: BakeOptions, report: ToolReport, track: Track
) -> dict[LayerId, Adapter]:
    """Replaces layers by the LoRA with the least ‖ΔW − LoRA‖ at a rank (a truncated SVD of ΔW).

    Args:
        file: the file.
        layers: layer → what it is, for the report.
        options: rank, base model, dtype and device.
        report: gets a line for each layer, and a note with the share that is kept.
        track: shows progress.

    Returns:
        All layers of the file, without those that have no matrix (norms), which the report lists as left out.

    Raises:
        ToolError: a layer needs the base model's weights and there is none, or it does not fit them.
    """
    rank = options.rank or max((adapter.rank or 0 for adapter in file.adapters.values()), default=0) or DEFAULT_RANK
    result, rows = dict(file.adapters), []
    for layer_id in track(list(layers), "bake"):
        adapter = file.adapters[layer_id]
        if isinstance(adapter, Norm):  # a vector
            report.left_out.setdefault(file.name, []).append(str(layer_id))
            del result[layer_id]
            continue
        change = _change(file, layer_id, options.base)
        best = change.to(torch.device(options.device)).best_approximation(rank)
        note = f"was {layers[layer_id]}"
        rows.append(LayerReport(str(layer_id), adapter.rank, best.low_rank.rank, best.kept, best.norm, note))
        dtype = options.dtype or widest_dtype([adapter.dtype])
        result[layer_id] = make_lora_adapter(best.low_rank, None, dtype, layer_id, report)
        if adapter.bias_delta() is not None:
            report.add_note("changes of biases are left out: a LoRA layer cannot hold them")
    if not layers:
        report.add_note("the program can read every layer: --bake changes nothing")
        return result
    names = set(map(str, layers))
    report.layers = [row for row in report.layers if row.name not in names] + rows
    kept = min(ToolReport("bake", rows).kept, 1.0)
    report.add_note(
        f"{counted(len(rows), 'layer')} ({', '.join(sorted(set(layers.values())))}) became the nearest LoRA of rank "
        f"{rank}; {kept:.2%} of the norm of their change is kept (error {(1 - kept**2) ** 0.5:.2%})"
    )
    return result


def _change(file: LoraFile, layer_id: LayerId, base: SourceCheckpoint | None) -> LayerChange:
    """ΔW of a layer, from the base model's weight where it depends on that. Raises ToolError."""
    change = change_of(file, layer_id)
    if change is not None:
        return change
    if base is None:
        kind = file.adapters[layer_id].kind if file.adapters[layer_id].magnitude() is None else "DoRA"
        raise ToolError(
            f"the change of {layer_id} ({kind}) depends on the base model's weights; name the base model: --sd_model"
        )
    if layer_id not in base.shapes:
        raise ToolError(f"{base.path} has no layer {layer_id}")
    try:
        return LayerChange(None, file.adapters[layer_id].delta(base.load_weight(layer_id)))
    except FitError as error:
        raise ToolError(f"{layer_id} of {file.name} is not made for {base.path}: {error}") from None

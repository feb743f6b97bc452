"""Kinds whose change depends on the layer's weight, and how other programs apply them at a multiplier m.

Ours is W + m·(W′ − W) for every kind. What each program does was read in its source and measured by
`benchmarks/interop.py`; docs/MULTIPLIERS.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..adapters import Adapter
from ..adapters.base import magnitude_axis
from ..layer_names import LayerId
from .report import ToolReport

OFT, BOFT, RESCALE, DORA_OUT, DORA_IN = "OFT", "BOFT", "OFT with rescale", "DoRA of outputs", "DoRA of inputs"

DIFFERENCES = {
    ("comfyui", OFT): "ComfyUI applies it times m², and takes alpha for the bound that other programs multiply by "
    "the outputs",
    ("comfyui", BOFT): "ComfyUI interpolates each factor and multiplies the change by m once more",
    ("comfyui", DORA_OUT): "ComfyUI divides by the norm of W instead of W + ΔW, at m = 1 too",
    ("diffusers", DORA_OUT): "diffusers puts m inside the norm, so that the magnitudes act in full at any m",
    ("kohya", OFT): "ComfyUI applies it times m²",
    ("kohya", RESCALE): "LyCORIS applies rescale in full at any m, kohya's scripts and ComfyUI not at all",
    ("kohya", BOFT): "LyCORIS and ComfyUI interpolate each factor, which is another change at m other than 1",
    ("kohya", DORA_OUT): "LyCORIS applies ΔW in full and m to the magnitudes only, diffusers ignores the magnitudes, "
    "ComfyUI and Forge divide by the norm of W, AUTOMATIC1111's built-in Lora by norms of inputs",
    ("kohya", DORA_IN): "LyCORIS 4.1 cannot load it, diffusers ignores the magnitudes",
}
"""(key format, kind) → what the programs that read it do otherwise than W + m·(W′ − W)."""


def weight_dependent_kind(adapter: Adapter) -> str | None:
    """The kind by which programs differ; None for kinds that are ΔW times m everywhere."""
    if adapter.kind == "OFT":
        blocks = adapter.tensors.get("oft_blocks")
        return BOFT if blocks is not None and blocks.dim() == 4 else RESCALE if "rescale" in adapter.tensors else OFT
    magnitude = adapter.magnitude()
    if magnitude is None:
        return None
    shape = adapter.delta_shape()
    return DORA_IN if shape is not None and magnitude_axis(magnitude.shape, shape) == 1 else DORA_OUT


def note_differences(adapters: Mapping[LayerId, Adapter], to: str, report: ToolReport) -> None:
    """Adds a note for each kind of the result that programs which read `to` apply in another way.

    Args:
        adapters: the layers of the result.
        to: "kohya", "diffusers" or "comfyui".
        report: gets the notes.
    """
    kinds = dict.fromkeys(filter(None, map(weight_dependent_kind, adapters.values())))
    for kind in kinds:
        if (to, kind) in DIFFERENCES:
            report.add_note(f"{kind} at a multiplier m: {DIFFERENCES[to, kind]}; here it is W + m·(W′ − W)")

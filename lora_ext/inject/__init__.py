"""Hooks in, hooks out: the only code that touches a live module.

Two ways, same pictures. *live*: a forward hook adds the low-rank path to the layer's output; nothing in the model
changes. *baked*: the layer's Parameter is swapped for W + ΔW (summed in float32, rounded once) and the very same
original object is put back afterwards. Nothing is ever subtracted, so removing is bit-exact in any order.

A layer's record lives in a table beside the model, not on the module, and all injections share it: nested ones add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from ..errors import FitError
from .applied_adapter import AppliedAdapter, LayerTarget, find_layer_targets, weight_shape
from .free_memory import MemoryBudget
from .live_layer import LIVE_LAYERS, AdaptersBySlot, LiveLayer
from .rounding import combined_surviving_share

LIVE, BAKED, AUTO = "live", "baked", "auto"
MODES = (AUTO, LIVE, BAKED)

__all__ = [
    "AUTO",
    "BAKED",
    "LIVE",
    "MODES",
    "AppliedAdapter",
    "Injection",
    "LayerTarget",
    "MemoryBudget",
    "find_layer_targets",
    "weight_shape",
]


class Injection:
    """What one user of a model has put on it. A context manager; `close` takes all of it off again."""

    def __init__(self, mode: str = AUTO, memory: MemoryBudget | None = None) -> None:
        self.mode = mode
        self.memory = memory or MemoryBudget()
        self.forced_live_reason = ""
        """Why all goes live whatever the mode "auto" would choose; "" where it may choose."""
        self.live_reason = ""
        """Why "auto" chose live for layers of the last `put` that it would have baked; "" where it baked them."""
        self._layers: dict[nn.Module, LiveLayer] = {}

    @torch.inference_mode(False)
    @torch.no_grad()
    def apply(self, wanted: Mapping[LayerTarget, tuple[AppliedAdapter, ...]]) -> int:
        """Makes these pieces what acts at these targets (none: take ours off); other targets stay as they are.

        What baking takes is counted before anything changes: "auto" goes live where it does not fit, "baked" raises
        FitError. Returns how many layers changed.
        On any exception everything of ours is taken off before it goes on.
        """
        grouped: dict[nn.Module, dict[str, tuple[AppliedAdapter, ...]]] = {}
        for target, pieces in wanted.items():
            slots = grouped.setdefault(target.module, {})
            placed = tuple(replace(piece, rows=target.rows) if target.rows else piece for piece in pieces)
            slots[target.slot] = (*slots.get(target.slot, ()), *placed)
        changed = 0
        try:
            layers = {module: LIVE_LAYERS.get(module) or LiveLayer(module) for module in grouped}
            self._layers.update(layers)
            live = self._choose_live(layers, grouped)
            for module, slots in grouped.items():
                layer = layers[module]
                changed += layer.apply(self, slots, live[module])
                if not layer.adapters_of(self):
                    del self._layers[module]
        except BaseException:
            self.close()
            raise
        return changed

    def _choose_live(
        self, layers: Mapping[nn.Module, LiveLayer], wanted: Mapping[nn.Module, AdaptersBySlot]
    ) -> dict[nn.Module, bool]:
        """Which layers go live. Raises FitError where the mode "baked" has no room."""
        if self.mode == AUTO:
            live = {module: layer.prefers_live(wanted[module]) for module, layer in layers.items()}
        else:
            live = dict.fromkeys(layers, self.mode == LIVE)
        needed: dict[torch.device, int] = {}
        largest: dict[torch.device, int] = {}  # what a sum takes for a moment
        for module, layer in layers.items():
            for device, size, moment in () if live[module] else layer.memory_needed(wanted[module]):
                needed[device] = needed.get(device, 0) + size
                largest[device] = max(largest.get(device, 0), moment)
        needed = {device: size + largest[device] for device, size in needed.items() if size}
        if self.mode == AUTO:
            self.live_reason = self.forced_live_reason or self.memory.lacking(needed) if False in live.values() else ""
            return dict.fromkeys(layers, True) if self.live_reason else live
        lacking = self.memory.lacking(needed, drawing=False) if self.mode == BAKED else ""
        if lacking:
            raise FitError(f"{lacking}; the modes live and auto need none of it")
        return live

    def close(self) -> None:
        """Takes everything of ours off. Safe to call twice, in any order among nested injections."""
        while self._layers:
            _, layer = self._layers.popitem()
            layer.remove(self)

    def make_permanent(self) -> None:
        """Makes what is baked here permanent: the originals take the new values, and nothing is left to take off.

        Raises FitError when another injection acts on the same layers, or when something of ours is live.
        """
        layers = tuple(self._layers.values())
        if any(layer.applied.keys() != {(self, False)} for layer in layers):
            raise FitError("only baked LoRAs that nothing else is applied over can be made permanent")
        for layer in layers:
            layer.make_permanent()
        self.close()

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def baked_bytes(self) -> int:
        """What the baked weights take beside the model's own."""
        return sum(buffer.nbytes for layer in self._layers.values() for buffer in layer.buffers.values())

    def surviving_share(self) -> tuple[float, str]:
        """The share of ΔW that rounding left in what is baked here, and the dtypes that it was rounded to."""
        found = [
            (layer.original_parameter(slot), one)
            for layer in self._layers.values()
            for slot, one in layer.baked_rounding().items()
        ]
        names = {str(weight.dtype).removeprefix("torch.") for weight, _ in found if weight is not None}
        return combined_surviving_share(one for _, one in found), ", ".join(sorted(names))

    def touched_layers(self) -> Mapping[nn.Module, LiveLayer]:
        """The layers that ours acts on."""
        return self._layers

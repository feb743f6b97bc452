"""Applies adapters to a loaded model and removes them again. Only this package changes a live module.

Two modes give the same images. *live*: a forward hook adds the low-rank path to the layer's output; the model does not
change. *baked*: the layer's Parameter is swapped for W + ΔW (summed in float32, rounded once), and the original
Parameter object is restored afterwards. Nothing is subtracted, so removing is bit-exact in any order.

`LIVE_LAYERS` maps each changed module to its `LiveLayer`. All injections share it, so nested injections add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from ..errors import BakingMemoryError, FitError
from .applied_adapter import AppliedAdapter, LayerTarget, StepWeight, find_layer_targets, weight_shape
from .batch_rows import batch_rows
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
    "StepWeight",
    "batch_rows",
    "find_layer_targets",
    "weight_shape",
]


class Injection:
    """The adapters that one caller has applied to a model. A context manager: `close` removes them.

    Args:
        mode: "live", "baked" or "auto".
        memory: how much memory baking may take.

    Attributes:
        forced_live_reason: why "auto" applies everything live; "" where it may choose.
        live_reason: why "auto" chose live at the last `apply` for layers that it would have baked; "" where it baked.
    """

    def __init__(self, mode: str = AUTO, memory: MemoryBudget | None = None) -> None:
        self.mode = mode
        self.memory = memory or MemoryBudget()
        self.forced_live_reason = ""
        self.live_reason = ""
        self._layers: dict[nn.Module, LiveLayer] = {}

    @torch.inference_mode(False)
    @torch.no_grad()
    def apply(self, wanted: Mapping[LayerTarget, tuple[AppliedAdapter, ...]]) -> int:
        """Replaces the adapters of this injection at the given targets; other targets stay as they are.

        The memory that baking takes is computed before anything changes. On any exception all adapters of this
        injection are removed before the exception is raised again.

        Args:
            wanted: target → adapters to apply there; an empty tuple removes those of before.

        Returns:
            The number of layers that changed.

        Raises:
            FitError: the mode is "baked" and memory is not enough ("auto" applies live instead), or an adapter cannot
                be applied to its layer.
        """
        grouped: dict[nn.Module, dict[str, tuple[AppliedAdapter, ...]]] = {}
        for target, applied in wanted.items():
            slots = grouped.setdefault(target.module, {})
            placed = tuple(replace(one, rows=target.rows) if target.rows else one for one in applied)
            slots[target.slot] = (*slots.get(target.slot, ()), *placed)
        changed = 0
        try:
            layers = {module: self.layer_record(module) for module in grouped}
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

    def follows(self, step_weight: StepWeight, targets: Iterable[LayerTarget]) -> bool:
        """Whether a change of a step weight needs no `apply`, since hooks at all these targets read it at each call.

        Args:
            step_weight: the weight that changes.
            targets: where adapters with this step weight are applied.
        """
        layers = (self._layers.get(target.module) for target in targets)
        return all(layer is not None and layer.follows(step_weight) for layer in layers)

    def layer_record(self, module: nn.Module) -> LiveLayer:
        """Returns the record of a module.

        Args:
            module: a module of the model.

        Returns:
            Its record, a new one where no adapter acts on it.
        """
        return LIVE_LAYERS.get(module) or LiveLayer(module)

    def _choose_live(
        self, layers: Mapping[nn.Module, LiveLayer], wanted: Mapping[nn.Module, AdaptersBySlot]
    ) -> dict[nn.Module, bool]:
        """Chooses live or baked for each layer. Raises FitError where memory is not enough for the mode "baked"."""
        if self.mode == AUTO:
            live = {module: layer.prefers_live(wanted[module]) for module, layer in layers.items()}
        else:
            live = {
                module: self.mode == LIVE or layer.differs_by_row(wanted[module]) for module, layer in layers.items()
            }
        needed: dict[torch.device, int] = {}
        largest: dict[torch.device, int] = {}  # temporary memory of the largest sum
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
            raise BakingMemoryError(lacking, "the modes live and auto do not need this memory")
        return live

    def close(self) -> None:
        """Removes all adapters of this injection. May be called twice, and in any order among nested injections."""
        while self._layers:
            _, layer = self._layers.popitem()
            layer.remove(self)

    def make_permanent(self) -> None:
        """Makes the baked weights permanent: the original parameters get the new values.

        Raises:
            FitError: another injection acts on the same layers, or adapters of this one are live.
        """
        layers = tuple(self._layers.values())
        if any(layer.applied.keys() != {(self, False)} for layer in layers):
            raise FitError("only baked LoRAs can be made permanent, on layers where no other LoRA is applied")
        for layer in layers:
            layer.make_permanent()
        self.close()

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def baked_bytes(self) -> int:
        """Returns the bytes that baked weights take in addition to the model's own."""
        return sum(buffer.nbytes for layer in self._layers.values() for buffer in layer.buffers.values())

    def surviving_share(self) -> tuple[float, str]:
        """Returns (the fraction of ΔW that remains after rounding, names of the dtypes) for the baked weights."""
        found = [
            (layer.original_parameter(slot), one)
            for layer in self._layers.values()
            for slot, one in layer.baked_rounding().items()
        ]
        names = {str(weight.dtype).removeprefix("torch.") for weight, _ in found if weight is not None}
        return combined_surviving_share(one for _, one in found), ", ".join(sorted(names))

"""`PatchedInjection`: an `Injection` whose baked LoRAs are patches of the host's patcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...errors import BakingMemoryError
from ...inject import AUTO, BAKED, LIVE, AppliedAdapter, Injection, LayerTarget, MemoryBudget
from ...inject.live_layer import LIVE_LAYERS, AdaptersBySlot, LiveLayer
from .model_patches import COMPONENTS, ModelPatches, ParameterName

Wanted = Mapping[LayerTarget, "tuple[AppliedAdapter, ...]"]


class PatchedInjection(Injection):
    """The adapters that one caller has applied to a model whose weights belong to a patcher.

    Live is everything whose weight changes while an image is generated, since patchers sum weights when a model is
    loaded; in the mode "auto" also every layer whose weight is stored in less than 16 bits or quantised, where a small
    ΔW would be lost by rounding.
    """

    def __init__(self, patches: ModelPatches, mode: str = AUTO, memory: MemoryBudget | None = None) -> None:
        super().__init__(mode, memory)
        self.patches = patches

    @torch.inference_mode(False)
    @torch.no_grad()
    def apply(self, wanted: Wanted) -> int:
        """Replaces the adapters of this injection at the given targets, as `Injection.apply`."""
        try:
            live = self._live_modules(wanted)
            baked: dict[ParameterName, tuple[AppliedAdapter, ...]] = {}
            holds_patches = bool(self.patches.adapters_of(self))
            for target, applied in wanted.items():
                if target.module not in live:
                    baked |= self._patches_of(target, applied, baked)
                elif holds_patches:
                    baked |= self._patches_of(target, (), baked)
            hooks = {target: applied for target, applied in wanted.items() if target.module in live}
            hooks |= {target: () for target in wanted if target.module in self._layers and target not in hooks}
            return super().apply(hooks) + self.patches.update(self, baked)
        except BaseException:
            self.close()
            raise

    def layer_record(self, module: nn.Module) -> LiveLayer:
        """Returns the record of a module, which knows where the patcher keeps its original weight."""
        return LIVE_LAYERS.get(module) or _PatchedLiveLayer(module, self.patches)

    def _choose_live(
        self, layers: Mapping[nn.Module, LiveLayer], wanted: Mapping[nn.Module, AdaptersBySlot]
    ) -> dict[nn.Module, bool]:
        """Every layer that is not patched gets a hook."""
        return dict.fromkeys(layers, True)

    def close(self) -> None:
        """Removes all adapters of this injection."""
        super().close()
        self.patches.remove(self)

    def baked_bytes(self) -> int:
        """Returns the bytes that going live would free on the device of the image.

        Patchers keep the originals in main memory: nothing is freed on a GPU then.
        """
        return sum(
            self._size(name)
            for name in self.patches.adapters_of(self)
            if self.patches.keeps_originals_on(name.component) == self.patches.computes_on(name.component)
        )

    # --- live or baked

    def _live_modules(self, wanted: Wanted) -> set[nn.Module]:
        """The modules whose adapters are applied live. Raises BakingMemoryError in the mode "baked"."""
        if self.mode == LIVE:
            return {target.module for target in wanted}
        by_module: dict[nn.Module, dict[str, tuple[AppliedAdapter, ...]]] = {}
        for target, applied in wanted.items():
            slots = by_module.setdefault(target.module, {})
            slots[target.slot] = (*slots.get(target.slot, ()), *applied)
        live = {module for module, slots in by_module.items() if self._must_be_live(module, slots)}
        if self.mode == AUTO:
            live |= {module for module, slots in by_module.items() if self.layer_record(module).prefers_live(slots)}
        needed: dict[torch.device, int] = {}
        held = self.patches.adapters_of(self)
        for target, applied in wanted.items():
            for name in () if target.module in live else self._patches_of(target, applied, {}):
                if name not in held:
                    device = self.patches.keeps_originals_on(name.component)
                    needed[device] = needed.get(device, 0) + self._size(name)
        # a GPU's image needs nothing of the main memory, where originals mostly are
        shared = any(self.patches.computes_on(component) in needed for component in COMPONENTS)
        lacking = self.memory.lacking(needed, drawing=self.mode == AUTO and shared)
        if self.mode == BAKED and lacking:
            raise BakingMemoryError(lacking, "the modes live and auto do not need this memory")
        self.live_reason = (self.forced_live_reason or lacking) if len(live) < len(by_module) else ""
        return set(by_module) if self.live_reason else live

    def _must_be_live(self, module: nn.Module, slots: AdaptersBySlot) -> bool:
        """Whether a patch cannot do it: weights that change during an image, or a parameter that is not there."""
        for slot, applied in slots.items():
            if any(one.is_scheduled or isinstance(one.weight, Tensor) or one.place for one in applied):
                return True
            if self.patches.parameter_name(module, slot) is None:
                return True
            has_bias = self.patches.parameter_name(module, slot.replace("weight", "bias")) is not None
            if not has_bias and any(one.adapter.bias_delta() is not None for one in applied):
                return True
        return False

    def _patches_of(
        self, target: LayerTarget, applied: tuple[AppliedAdapter, ...], before: Mapping[ParameterName, object]
    ) -> dict[ParameterName, tuple[AppliedAdapter, ...]]:
        """The parameters of a target → the adapters to bake there, after those that other targets bake there."""
        placed = tuple(replace(one, rows=target.rows) if target.rows else one for one in applied)
        shifts = tuple(one for one in placed if one.adapter.bias_delta() is not None)
        found: dict[ParameterName, tuple[AppliedAdapter, ...]] = {}
        for slot, adapters in ((target.slot, placed), (target.slot.replace("weight", "bias"), shifts)):
            name = self.patches.parameter_name(target.module, slot)
            if name is not None:
                found[name] = (*before.get(name, ()), *adapters)  # type: ignore[misc]
        return found

    def _size(self, name: ParameterName) -> int:
        return self.patches.parameter_bytes(name)


class _PatchedLiveLayer(LiveLayer):
    """A record whose module's own weight may be kept by the patcher."""

    def __init__(self, module: nn.Module, patches: ModelPatches) -> None:
        super().__init__(module)
        self._patches = patches

    def original_parameter(self, slot: str) -> nn.Parameter | None:
        """Returns the model's own parameter, from the patcher where it has replaced it."""
        name = self._patches.parameter_name(self.module, slot)
        found = None if name is None else self._patches.original_parameter(name)
        if found is None:
            return super().original_parameter(slot)
        # what was moved to another device is no Parameter any more; subclasses (quantised weights) stay as they are
        return nn.Parameter(found, requires_grad=False) if type(found) is Tensor else found  # type: ignore[return-value]

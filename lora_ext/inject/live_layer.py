"""`LiveLayer`: the adapters and original parameters of one changed module."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..errors import FitError
from .applied_adapter import AppliedAdapter, StepWeight, are_equal, sum_bias_deltas
from .baking import add_delta
from .forward_hook import ForwardHook
from .free_memory import accelerated
from .quantized_weight import dequantized_weight
from .rounding import Rounding, is_lossy_dtype

AdaptersBySlot = Mapping[str, tuple[AppliedAdapter, ...]]


@dataclass(frozen=True)
class CachedSum:
    """A buffer's content: W + ΔW of `applied`, for the original with address and version `source`."""

    applied: tuple[AppliedAdapter, ...]
    source: tuple[int, int]
    buffer_address: int


class LiveLayer:
    """The record of one module that adapters act on.

    Args:
        module: the module.

    Attributes:
        module: the module.
        originals: slot → original parameter, for slots that hold a baked parameter now.
        buffers: slot → baked parameter, kept to be written over.
        cached_sums: slot → what its buffer contains.
        applied: (owner, whether live) → adapters by slot.
        hook: the hook for live adapters.
        rounding: slot → what rounding left of ΔW at the last sum; nothing for float32 and wider.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.originals: dict[str, nn.Parameter | None] = {}
        self.buffers: dict[str, nn.Parameter] = {}
        self.cached_sums: dict[str, CachedSum] = {}
        self.applied: dict[tuple[Hashable, bool], AdaptersBySlot] = {}
        self.hook: ForwardHook | PerCallSwap | None = None
        self.rounding: dict[str, Rounding] = {}

    # --- adapters by owner

    def adapters_of(self, owner: Hashable) -> AdaptersBySlot:
        """Returns the adapters that an owner has applied to this layer.

        Args:
            owner: the injection.

        Returns:
            Slot → adapters; empty where it has applied none.
        """
        return self.applied.get((owner, True)) or self.applied.get((owner, False)) or {}

    def apply(self, owner: Hashable, slots: AdaptersBySlot, live: bool) -> bool:
        """Replaces the adapters of an owner in some slots.

        Args:
            owner: the injection.
            slots: slot → adapters; empty for none.
            live: whether they are applied live; otherwise they are baked.

        Returns:
            Whether anything changed.
        """
        before = self.adapters_of(owner)
        after = {slot: applied for slot, applied in {**before, **slots}.items() if applied}
        stays = (owner, live) in self.applied or not before
        if stays and _equal(before, after):
            return False
        self.applied.pop((owner, not live), None)
        self.applied[owner, live] = after
        if not after:
            del self.applied[owner, live]
        self._apply()
        return True

    def remove(self, owner: Hashable) -> None:
        """Removes the adapters of an owner. Without any adapters the record is removed from `LIVE_LAYERS`.

        Args:
            owner: the injection.
        """
        for live in (True, False):
            self.applied.pop((owner, live), None)
        self._apply()

    def follows(self, step_weight: StepWeight) -> bool:
        """Whether the module's hook follows a step weight by itself, so that nothing has to be applied anew.

        Args:
            step_weight: the weight that changes.
        """
        return isinstance(self.hook, ForwardHook) and self.hook.follows(step_weight)

    def _wanted(self, live: bool) -> dict[str, tuple[AppliedAdapter, ...]]:
        merged: dict[str, tuple[AppliedAdapter, ...]] = {}
        for (_, is_live), slots in self.applied.items():
            if is_live == live:
                for slot, applied in slots.items():
                    merged[slot] = (*merged.get(slot, ()), *applied)
        return merged

    def _apply(self) -> None:
        """Changes the module to match `applied`."""
        live, baked = self._wanted(True), self._wanted(False)
        attention = isinstance(self.module, nn.MultiheadAttention)
        if self.hook is not None and (not live or attention):
            self.hook.remove()
            self.hook = None
        if baked or self.originals or self.buffers:
            self._bake({} if attention and live else baked)
        if attention and live:  # its forward reads the parameters themselves: swap them during each call
            values = {slot: (*baked.get(slot, ()), *live.get(slot, ())) for slot in {*baked, *live}}
            self.hook = PerCallSwap(self, values)
        elif live:
            if self.hook is None:
                self.hook = ForwardHook(self.module)
            assert isinstance(self.hook, ForwardHook)
            self.hook.update(live["weight"], self.original_weight)
        if self.applied:
            LIVE_LAYERS[self.module] = self
        else:
            LIVE_LAYERS.pop(self.module, None)

    def prefers_live(self, slots: AdaptersBySlot) -> bool:
        """Whether "auto" chooses live: scheduled or per-image weights, or a weight that is no plain float Parameter.

        Args:
            slots: slot → adapters to apply.

        Returns:
            True for live, False for baked.
        """
        if isinstance(self.module, nn.MultiheadAttention):
            return False
        weight = self.original_parameter("weight")
        plain = type(weight) is nn.Parameter and weight.dtype in _BAKEABLE_DTYPES and weight.device.type != "meta"
        turning = any(p.is_scheduled or p.place is not None for applied in slots.values() for p in applied)
        return turning or self.differs_by_row(slots) or not plain

    def differs_by_row(self, slots: AdaptersBySlot) -> bool:
        """Whether a weight differs from row to row of the batch, which only a hook can do.

        Args:
            slots: slot → adapters to apply.

        Returns:
            True where it does, and this layer can have a hook.
        """
        attention = isinstance(self.module, nn.MultiheadAttention)
        return not attention and any(p.differs_by_row for applied in slots.values() for p in applied)

    # --- baked

    def memory_needed(self, slots: AdaptersBySlot) -> Iterator[tuple[torch.device, int, int]]:
        """Yields (device, bytes of the new weight, temporary bytes of its sum) for each slot to be baked.

        The new weight takes 0 bytes where a buffer is written over. A sum takes the weight in float32, or four times
        that for kinds without a low-rank form.
        """
        for slot, applied in slots.items():
            weight = self.original_parameter(slot)
            if weight is None or not any(one.is_acting() for one in applied):
                continue
            dense = any(one.adapter.kind != "LoRA" or one.adapter.magnitude() is not None for one in applied)
            size = 0 if self._reusable_buffer(slot) is not None else weight.nbytes
            yield weight.device, size, weight.numel() * 4 * (4 if dense else 1)

    def parameter_owner(self, slot: str) -> tuple[nn.Module, str]:
        """Returns the module and name of a slot's parameter (`out_proj.weight` belongs to an inner layer)."""
        *path, name = slot.split(".")
        return (self.module.get_submodule(".".join(path)) if path else self.module), name

    def current_parameter(self, slot: str) -> nn.Parameter | None:
        """Returns the parameter that the slot holds now."""
        module, name = self.parameter_owner(slot)
        return module._parameters.get(name, getattr(module, name, None))

    def original_parameter(self, slot: str) -> nn.Parameter | None:
        """Returns the model's own parameter of a slot.

        Args:
            slot: the parameter's name, such as `weight`.

        Returns:
            The original parameter, also while a baked one is in its place; None where the module has none.
        """
        return self.originals[slot] if slot in self.originals else self.current_parameter(slot)

    def original_weight(self) -> Tensor | None:
        """Returns the values of the model's own weight, dequantised where they are stored quantised."""
        weight = self.original_parameter("weight")
        return None if weight is None else dequantized_weight(weight)

    def _bake(self, wanted: Mapping[str, tuple[AppliedAdapter, ...]]) -> None:
        """Swaps in W + ΔW for the wanted slots and the originals for all others."""
        values: dict[str, Tensor] = {}
        for slot, applied in wanted.items():
            values |= self.sum_weights(slot, applied)
        for slot in [slot for slot in self.originals if slot not in values]:
            self.restore(slot)
        for slot in [
            slot for slot in self.buffers if slot not in values and not self._is_kept_by_schedule(wanted.get(slot, ()))
        ]:
            self.buffers.pop(slot)
            self.cached_sums.pop(slot, None)
        for slot, value in values.items():
            self.swap_in(slot, value)

    def _is_kept_by_schedule(self, applied: tuple[AppliedAdapter, ...]) -> bool:
        """Whether a schedule may switch an adapter on again, so that its sum is kept."""
        return any(one.is_scheduled for one in applied)

    def sum_weights(self, slot: str, applied: tuple[AppliedAdapter, ...]) -> dict[str, Tensor]:
        """Computes W + ΔW in the model's dtype.

        Args:
            slot: the weight's slot.
            applied: the adapters.

        Returns:
            Slot → new values, for the weight and, where a kind changes it, the bias; empty where all weights are 0.

        Raises:
            FitError: a weight has one number for each image.
        """
        acting = tuple(one for one in applied if one.is_acting())
        original = self.original_parameter(slot)
        if not acting or original is None:
            return {}
        if any(one.place is not None for one in acting):
            raise FitError(f"{type(self.module).__name__} is not baked with a LoRA for a part of the picture")
        if any(isinstance(one.weight, Tensor) for one in acting):
            raise FitError(f"{type(self.module).__name__} cannot have its own LoRA weight for each image of a batch")
        values = {slot: self._sum(slot, original, acting)}
        shift = sum_bias_deltas(acting, original.shape[0])
        if shift is not None:
            name = slot.replace("weight", "bias")
            bias = self.original_parameter(name)
            shift = shift.to(original.device)
            base = torch.zeros_like(shift) if bias is None else bias.detach().float()
            values[name] = (base + shift).to(original.dtype if bias is None else bias.dtype)
        return values

    def _sum(self, slot: str, original: nn.Parameter, acting: tuple[AppliedAdapter, ...]) -> Tensor:
        """W + ΔW of a slot: the cached sum where a schedule only switched it off and on, otherwise a new one."""
        spare, filled = self._reusable_buffer(slot), self.cached_sums.get(slot)
        now = None if original.is_inference() else (original.data_ptr(), original._version)
        there = (
            filled is not None
            and spare is not None
            and (filled.source, filled.buffer_address) == (now, spare.data_ptr())
        )
        if there and are_equal(filled.applied, acting):  # type: ignore[union-attr]
            return spare  # type: ignore[return-value]
        self.cached_sums.pop(slot, None)
        if is_lossy_dtype(original.dtype):
            self.rounding[slot] = rounding = Rounding()
            total = add_delta(original.detach(), acting, spare, rounding=rounding)
        else:
            self.rounding.pop(slot, None)
            total = add_delta(original.detach(), acting, spare)
        if now is not None and any(one.is_scheduled for one in acting):
            self.cached_sums[slot] = CachedSum(acting, now, total.data_ptr())
        return total

    def baked_rounding(self) -> dict[str, Rounding]:
        """Returns the measured rounding of slots that hold W + ΔW now (in OpenCLIP's attention: during calls)."""
        momentary = isinstance(self.hook, PerCallSwap)
        return {slot: found for slot, found in self.rounding.items() if momentary or slot in self.originals}

    def _reusable_buffer(self, slot: str) -> Tensor | None:
        """The buffer of the slot's last W + ΔW, to be written over; None where device or dtype have changed."""
        buffer, original = self.buffers.get(slot), self.original_parameter(slot)
        fits = buffer is not None and original is not None and buffer.device == original.device
        return buffer.detach() if fits and buffer.dtype == original.dtype else None  # type: ignore[union-attr]

    def swap_in(self, slot: str, value: Tensor) -> None:
        """Swaps `value` into the slot as a Parameter and keeps the original object."""
        module, name = self.parameter_owner(slot)
        if slot not in self.originals:
            self.originals[slot] = module._parameters.get(name)
        buffer = self.buffers.get(slot)
        if buffer is None or buffer.data_ptr() != value.data_ptr():
            self.buffers[slot] = buffer = nn.Parameter(value, requires_grad=False)
        module._parameters[name] = buffer

    def make_permanent(self) -> None:
        """Copies the baked values into the original parameters."""
        for slot, original in self.originals.items():
            if original is None:
                self.originals[slot] = self.buffers[slot]
            else:
                original.data = self.buffers[slot].data

    def restore(self, slot: str) -> None:
        """Restores the original parameter, on the device and in the dtype that the model was moved to meanwhile."""
        module, name = self.parameter_owner(slot)
        original = self.originals.pop(slot)
        current = module._parameters.get(name)
        if original is not None and current is not None:  # `to` is the tensor itself where nothing moved
            original.data = original.data.to(current.device, current.dtype)
        module._parameters[name] = original


LIVE_LAYERS: WeakValueDictionary[nn.Module, LiveLayer] = WeakValueDictionary()
_BAKEABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _equal(before: AdaptersBySlot, after: AdaptersBySlot) -> bool:
    return before.keys() == after.keys() and all(are_equal(before[slot], after[slot]) for slot in after)


class PerCallSwap:
    """Hooks for OpenCLIP's attention, whose forward reads its parameters: they are swapped during each call only.

    On a GPU the sums are computed in each call and freed after it. This takes milliseconds, while keeping them would
    take 0.4 GiB for SDXL's second text encoder. On the CPU they are kept.
    """

    def __init__(self, layer: LiveLayer, wanted: Mapping[str, tuple[AppliedAdapter, ...]]) -> None:
        kept = self._sum_weights(layer, wanted)
        device = next((value.device for value in kept.values()), None)
        anew = device is not None and accelerated(device)
        names = tuple(kept)
        if anew:
            kept = {}

        def enter(*_: object) -> None:
            for slot, value in (self._sum_weights(layer, wanted) if anew else kept).items():
                layer.swap_in(slot, value)

        def leave(*_: object) -> None:
            for slot in names:
                if slot in layer.originals:
                    layer.restore(slot)
                if anew:
                    layer.buffers.pop(slot, None)

        self.handles = [
            layer.module.register_forward_pre_hook(enter),
            layer.module.register_forward_hook(leave, always_call=True),
        ]

    @staticmethod
    def _sum_weights(layer: LiveLayer, wanted: Mapping[str, tuple[AppliedAdapter, ...]]) -> dict[str, Tensor]:
        """W + ΔW of all slots, summed in float32 also where the text encoder is called under autocast."""
        values: dict[str, Tensor] = {}
        with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            for slot, applied in wanted.items():
                values |= layer.sum_weights(slot, applied)
        return values

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self.handles:
            handle.remove()

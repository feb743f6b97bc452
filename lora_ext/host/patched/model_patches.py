"""`ModelPatches`: the adapters that are baked into one model through its patchers."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...inject import AppliedAdapter
from ...inject.applied_adapter import are_equal
from ...inject.quantized_weight import dequantized_weight
from .patchers import patch_list_of, patcher_of
from .weight_patch import WeightPatch, patch_maker

COMPONENTS = ("unet", "clip")
"""The members of `forge_objects` that have a patcher."""


class ParameterName(NamedTuple):
    """A parameter of a patched model: the member of `forge_objects`, and its name in that patcher's model."""

    component: str
    name: str

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias, not a weight."""
        return self.name.endswith("bias")


AdaptersByName = Mapping[ParameterName, tuple[AppliedAdapter, ...]]


class ModelPatches:
    """What all injections have baked into one model. Nested injections add up, in the order in which they began.

    The host copies `forge_objects_original` to `forge_objects` before each batch and replaces it by
    `forge_objects_after_applying_lora` once tags are applied. What is to last therefore stands in the second, as a
    clone of the first with our patches; `forge_objects` is changed too, for changes in the middle of an image.

    Args:
        sd_model: the host's model; only a weak reference is kept.
    """

    def __init__(self, sd_model: Any) -> None:
        self._sd_model = weakref.ref(sd_model)
        self._by_owner: dict[Hashable, dict[ParameterName, tuple[AppliedAdapter, ...]]] = {}
        self._patched: dict[str, Any] = {}
        self._names: WeakKeyDictionary[nn.Module, ParameterName] = WeakKeyDictionary()
        for component in COMPONENTS:
            for name, module in self._patcher(component).model.named_modules():
                self._names.setdefault(module, ParameterName(component, name))

    def parameter_name(self, module: nn.Module, slot: str) -> ParameterName | None:
        """Returns the name of a module's parameter, None where the patcher knows no such parameter."""
        place = self._names.get(module)
        owner, _, last = slot.rpartition(".")
        holder = module.get_submodule(owner) if owner else module
        if place is None or not isinstance(holder._parameters.get(last), nn.Parameter):
            return None
        return ParameterName(place.component, f"{place.name}.{slot}" if place.name else slot)

    def original_parameter(self, name: ParameterName) -> Tensor | None:
        """Returns the model's own parameter where the patcher has replaced it, else None."""
        model = self._model()
        places = (model.forge_objects_original, model.forge_objects_after_applying_lora, model.forge_objects)
        holders = [getattr(objects, name.component) for objects in places]
        for holder in [*holders, *filter(None, [self._patched.get(name.component)])]:
            patcher = patcher_of(holder)
            patch_list = patch_list_of(patcher)
            found = None if patch_list is None else patch_list.backup(patcher, name.name)
            if found is not None:
                return found
        return None

    def parameter_bytes(self, name: ParameterName) -> int:
        """Returns the size of a parameter as it is stored."""
        return int(self._patcher(name.component).model.get_parameter(name.name).nbytes)

    def keeps_originals_on(self, component: str) -> torch.device:
        """Returns the device on which the patcher keeps the originals of parameters that it replaces."""
        return torch.device(self._patcher(component).offload_device)

    def computes_on(self, component: str) -> torch.device:
        """Returns the device on which the patcher's model computes."""
        return torch.device(self._patcher(component).load_device)

    def update(self, owner: Hashable, wanted: AdaptersByName) -> int:
        """Replaces the adapters of `owner` at the given parameters. The host sums them when it next uses the model.

        Returns:
            The number of parameters whose adapters changed.
        """
        before = self._by_owner.get(owner, {})
        changed = {name for name, applied in wanted.items() if not are_equal(applied, before.get(name, ()))}
        if changed:
            after = {name: applied for name, applied in {**before, **wanted}.items() if applied}
            self._by_owner[owner] = after
            if not after:
                del self._by_owner[owner]
            self._write({name.component for name in changed})
        return len(changed)

    def remove(self, owner: Hashable) -> None:
        """Removes the adapters of `owner`."""
        gone = self._by_owner.pop(owner, {})
        self._write({name.component for name in gone})

    def adapters_of(self, owner: Hashable) -> AdaptersByName:
        """Returns the adapters of `owner`."""
        return self._by_owner.get(owner, {})

    # --- the host's patchers

    def _write(self, components: set[str]) -> None:
        """Gives the patchers of some components what is wanted now."""
        sd_model = self._sd_model()
        if sd_model is None:
            return
        for component in components:
            original = getattr(sd_model.forge_objects_original, component)
            patches = dict(self._patches(component))
            before, patched = self._patched.pop(component, None), original
            if patches:
                patched = self._patched[component] = _with_patches(original, patches)
            for objects in (sd_model.forge_objects_after_applying_lora, sd_model.forge_objects):
                now = getattr(objects, component)
                if now is original or now is before:
                    setattr(objects, component, patched)
                else:  # an extension's clone, with changes of its own
                    setattr(objects, component, _with_patches(now, patches))
        if hasattr(sd_model, "current_lora_hash"):  # what the built-in extension compares with: it has applied nothing
            sd_model.current_lora_hash = str([])

    def _patches(self, component: str) -> Iterator[tuple[str, Any]]:
        """The patches of a component: name of a parameter → patch."""
        merged: dict[ParameterName, tuple[AppliedAdapter, ...]] = {}
        for adapters in self._by_owner.values():
            for name, applied in adapters.items():
                if name.component == component:
                    merged[name] = (*merged.get(name, ()), *applied)
        make = patch_maker(self._patcher(component))
        for name, applied in merged.items():
            acting = tuple(one for one in applied if one.is_acting())
            if acting:
                yield name.name, make(WeightPatch(acting, name.is_bias), partial(self._original_values, name))

    def _original_values(self, name: ParameterName) -> Tensor:
        """The original values of a parameter, dequantised."""
        original = self.original_parameter(name)
        if original is None:
            original = self._patcher(name.component).model.get_parameter(name.name)
        return dequantized_weight(original)

    def _patcher(self, component: str) -> Any:
        """The host's own patcher, without patches."""
        return patcher_of(getattr(self._model().forge_objects_original, component))

    def _model(self) -> Any:
        sd_model = self._sd_model()
        if sd_model is None:
            raise ReferenceError("the model was unloaded")
        return sd_model


def _with_patches(component: Any, patches: Mapping[str, Any]) -> Any:
    """A clone of a member of `forge_objects` with these patches in the place of our earlier ones."""
    clone = component.clone()
    patcher = patcher_of(clone)
    patch_list = patch_list_of(patcher)
    assert patch_list is not None
    patch_list.strip(patcher)
    if patches:
        patch_list.add(patcher, patches)
    return clone


_PATCHES_BY_MODEL: WeakKeyDictionary[Any, ModelPatches] = WeakKeyDictionary()


def patches_of_model(sd_model: Any) -> ModelPatches | None:
    """Returns the one `ModelPatches` of a model; None where its patchers are of an unknown kind."""
    found = _PATCHES_BY_MODEL.get(sd_model)
    if found is None:
        components = (getattr(sd_model.forge_objects_original, name) for name in COMPONENTS)
        if any(patch_list_of(patcher_of(component)) is None for component in components):
            return None
        found = _PATCHES_BY_MODEL[sd_model] = ModelPatches(sd_model)
    return found


def has_patches_of_others(sd_model: Any) -> bool:
    """Whether another extension, such as the built-in one, has given a model's patchers patches that last."""
    for name in COMPONENTS:
        patcher = patcher_of(getattr(sd_model.forge_objects_after_applying_lora, name, None))
        patch_list = patch_list_of(patcher)
        if patch_list is not None and patch_list.has_others(patcher):
            return True
    return False

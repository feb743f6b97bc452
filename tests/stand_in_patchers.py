"""Small stand-ins of the patchers of Forge and its kin, one for each way in which they keep and sum patches.

They are written from what those patchers do, not from their code: clones share a model, weights are summed in float32
when a model is loaded and rounded once, originals are kept on the offload device and put back.
"""

from __future__ import annotations

import sys
import uuid
from collections import namedtuple
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Backup = namedtuple("Backup", ["weight", "inplace_update"])


class WeightAdapterBase:
    """What newer patchers ask for W + ΔW."""

    name = ""
    loaded_keys: set[str]
    weights: Any


class PatcherBase:
    """What all patchers have: a model that clones share, and devices."""

    calculators: Mapping[str, Any] = MappingProxyType({})
    adapter_base: type | None = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.load_device = self.offload_device = torch.device("cpu")
        self.model_options: dict[str, Any] = {}

    def sum(self, weight: Tensor, rows: list[Any]) -> Tensor:
        """All patches of one parameter, in float32, then rounded to its dtype."""
        total = weight.to(torch.float32, copy=True)
        for strength, value, *_ in rows:
            if self.adapter_base is not None and isinstance(value, self.adapter_base):
                value = type(value)(value.loaded_keys, value.weights)  # as newer patchers do to move its tensors
                total = value.calculate_weight(total, "key", strength, 1.0, None, None, torch.float32)
            elif len(value) == 1:
                assert value[0].shape == total.shape
                total += strength * value[0].to(total)
            else:
                assert value[0] in self.calculators, f"unknown patch type {value[0]}"
                total = self.calculators[value[0]](total, strength, value[1])
        return total.to(weight.dtype)


class Loader:
    """Sums the patches of a model whose patchers have `lora_patches`; it belongs to the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.backup, self.loaded = model, dict[str, Any](), "[]"

    @torch.inference_mode()
    def refresh(self, patcher: Any) -> None:
        if str(list(patcher.lora_patches)) == self.loaded:
            return
        for name, weight in self.backup.items():
            set_parameter(self.model, name, weight)
        self.backup = {}
        rows: dict[str, list[Any]] = {}
        for patches in patcher.lora_patches.values():
            for name, found in patches.items():
                rows[name] = [*rows.get(name, []), *found]
        for name, found in rows.items():
            weight = self.model.get_parameter(name)
            self.backup[name] = weight.to(patcher.offload_device)
            set_parameter(self.model, name, patcher.sum(weight, found))
        self.loaded = str(list(patcher.lora_patches))


class PatcherByFile(PatcherBase):
    """As in Forge."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.lora_patches: dict[Any, Any] = {}
        if not hasattr(model, "lora_loader"):
            object.__setattr__(model, "lora_loader", self.loader_class(model))  # type: ignore[attr-defined]

    def clone(self) -> PatcherByFile:
        other = type(self)(self.model)
        other.lora_patches = dict(self.lora_patches)
        return other

    def add_patches(
        self, *, filename: str, patches: dict[str, Any], strength_patch: float = 1.0, online_mode: bool | None = None
    ) -> None:
        """Neo takes patches without `online_mode` for those of another kind, which its patcher has too."""
        assert online_mode is False or not filename.startswith("lora-ext:")
        known = dict(self.model.named_parameters())
        self.lora_patches[filename, strength_patch, 1.0, False] = {
            name: [[strength_patch, value, 1.0, None, None]] for name, value in patches.items() if name in known
        }

    def load(self) -> None:
        self.model.lora_loader.refresh(self)  # type: ignore[operator,union-attr]

    def unload(self) -> None:
        """Patches stay summed until another list of them is loaded."""


class PatcherByParameter(PatcherBase):
    """As in reForge: clones share the backup, and a patch has five members."""

    shares_backup, columns = True, (1.0, None, None)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.patches: dict[str, list[Any]] = {}
        self.backup: dict[str, Any] = {}
        if self.shares_backup:
            self.patches_uuid = uuid.uuid4()

    def clone(self) -> PatcherByParameter:
        other = type(self)(self.model)
        other.patches = {name: rows[:] for name, rows in self.patches.items()}
        if self.shares_backup:
            other.backup, other.patches_uuid = self.backup, self.patches_uuid
        return other

    def add_patches(self, patches: dict[str, Any], strength_patch: float = 1.0) -> list[str]:
        found = [name for name in patches if name in self.model.state_dict()]
        for name in found:
            self.patches[name] = [*self.patches.get(name, []), (strength_patch, patches[name], *self.columns)]
        if self.shares_backup:
            self.patches_uuid = uuid.uuid4()
        return found

    def load(self) -> None:
        for name, rows in self.patches.items():
            weight = self.model.get_parameter(name)
            original = weight.detach().to(self.offload_device)
            self.backup[name] = Backup(original, False) if self.shares_backup else original
            set_parameter(self.model, name, self.sum(weight, rows))

    def unload(self) -> None:
        for name, row in self.backup.items():
            set_parameter(self.model, name, getattr(row, "weight", row))
        self.backup.clear()


class PatcherWithoutSharedBackup(PatcherByParameter):
    """As in Classic: only the patcher that is loaded knows the originals, and a patch has three members."""

    shares_backup, columns = False, (1.0,)


def set_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    """Replaces a parameter by a new one, or by the same object where it is one."""
    *path, last = name.split(".")
    owner = model.get_submodule(".".join(path))
    owner._parameters[last] = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)


# flavour -> patcher, whether its module has `extra_weight_calculators`, whether it has `weight_adapter`
FLAVOURS: dict[str, tuple[type[PatcherBase], bool, bool]] = {
    "patches by file, calculators": (PatcherByFile, True, False),
    "patches by file, weight adapters": (PatcherByFile, True, True),
    "patches by parameter, weight adapters": (PatcherByParameter, False, True),
    "patches by parameter, calculators": (PatcherWithoutSharedBackup, True, False),
    "patches by parameter, differences": (PatcherByParameter, False, False),
}


class Clip:
    """`forge_objects.clip`: it has a patcher, and is none."""

    def __init__(self, patcher: Any) -> None:
        self.patcher, self.cond_stage_model = patcher, patcher.model

    def clone(self) -> Clip:
        return Clip(self.patcher.clone())


class Objects(SimpleNamespace):
    """`forge_objects`."""

    def shallow_copy(self) -> Objects:
        return Objects(**vars(self))


class StandInHost:
    """A web UI with one model and one kind of patcher.

    Attributes:
        sd_model: what extensions see.
    """

    def __init__(self, flavour: str, unet: nn.Module, clip: nn.Module) -> None:
        kind, has_calculators, has_adapters = FLAVOURS[flavour]
        self.is_exact = has_calculators or has_adapters
        package = f"stand_in_{uuid.uuid4().hex}"
        self.modules = {
            f"{package}.patcher": ModuleType(f"{package}.patcher"),
            f"{package}.lora": ModuleType(f"{package}.lora"),
            f"{package}.model_management": ModuleType(f"{package}.model_management"),
        }
        patching, summing, self.manager = self.modules.values()
        calculators: dict[str, Any] = {}
        if has_calculators:
            summing.extra_weight_calculators = calculators  # type: ignore[attr-defined]
        if has_adapters:
            summing.weight_adapter = SimpleNamespace(WeightAdapterBase=WeightAdapterBase)  # type: ignore[attr-defined]
        members: dict[str, Any] = {
            "__module__": patching.__name__,
            "calculators": {} if has_adapters else calculators,
            "adapter_base": WeightAdapterBase if has_adapters else None,
            "loader_class": type("Loader", (Loader,), {"__module__": summing.__name__}),
        }
        self.patcher_class = type("Patcher", (kind,), members)
        self.manager.current_loaded_models = []  # type: ignore[attr-defined]
        original = Objects(unet=self.patcher_class(unet), clip=Clip(self.patcher_class(clip)))
        self.sd_model = SdModel(original)

    @contextmanager
    def loaded(self) -> Iterator[StandInHost]:
        """The modules of this web UI can be found."""
        sys.modules.update(self.modules)
        try:
            yield self
        finally:
            for name in self.modules:
                del sys.modules[name]

    def load(self, patcher: Any) -> None:
        """What the memory manager does before a model is used: one patcher of a model is loaded at a time."""
        rows = self.manager.current_loaded_models
        if any(row.model is patcher for row in rows):
            return
        for row in [row for row in rows if row.model.model is patcher.model]:
            rows.remove(row)
            row.model.unload()
        patcher.load()
        rows.append(SimpleNamespace(model=patcher))


class SdModel:
    """`shared.sd_model`."""

    is_sd1 = True

    def __init__(self, objects: Objects) -> None:
        self.forge_objects_original = objects
        self.forge_objects_after_applying_lora = objects.shallow_copy()
        self.forge_objects = objects.shallow_copy()
        self.current_lora_hash = "[]"

"""The two ways in which a patcher keeps its patches, found out from its attributes."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor

from .host_modules import modules_around
from .weight_patch import is_own_patch

_FILE_NAME = "lora-ext:"


class PatchList(Protocol):
    """How a patcher keeps its patches. `patcher` is the patcher of a U-Net or of text encoders."""

    def add(self, patcher: Any, patches: Mapping[str, Any]) -> None:
        """Gives patches to a patcher: name of a parameter in `patcher.model` → patch."""
        ...

    def strip(self, patcher: Any) -> None:
        """Removes our patches from a patcher, and leaves those of others."""
        ...

    def has_others(self, patcher: Any) -> bool:
        """Whether a patcher has patches that are not ours."""
        ...

    def backup(self, patcher: Any, name: str) -> Tensor | None:
        """Returns the original of a parameter that the patcher has replaced, None where it has not."""
        ...


class PatchesByFile:
    """`lora_patches`: (file, weight, …) → patches. Originals are kept by the model's `lora_loader`."""

    def add(self, patcher: Any, patches: Mapping[str, Any]) -> None:
        """Gives patches to a patcher. The name is new each time: parameters are summed anew where names differ."""
        patcher.add_patches(filename=f"{_FILE_NAME}{uuid.uuid4().hex}", patches=dict(patches), online_mode=False)

    def strip(self, patcher: Any) -> None:
        """Removes our patches from a patcher."""
        for key in [key for key in patcher.lora_patches if str(key[0]).startswith(_FILE_NAME)]:
            del patcher.lora_patches[key]

    def has_others(self, patcher: Any) -> bool:
        """Whether a patcher has patches that are not ours."""
        return any(not str(key[0]).startswith(_FILE_NAME) for key in patcher.lora_patches)

    def backup(self, patcher: Any, name: str) -> Tensor | None:
        """Returns the original of a replaced parameter."""
        found: Tensor | None = patcher.model.lora_loader.backup.get(name)
        return found


class PatchesByParameter:
    """`patches`: name of a parameter → patches. Originals are kept by the patcher that is loaded, in `backup`."""

    def add(self, patcher: Any, patches: Mapping[str, Any]) -> None:
        """Gives patches to a patcher."""
        patcher.add_patches(dict(patches))

    def strip(self, patcher: Any) -> None:
        """Removes our patches from a patcher."""
        kept = {name: [row for row in rows if not is_own_patch(row[1])] for name, rows in patcher.patches.items()}
        patcher.patches = {name: rows for name, rows in kept.items() if rows}
        if hasattr(patcher, "patches_uuid"):  # says whether two patchers have the same patches
            patcher.patches_uuid = uuid.uuid4()

    def has_others(self, patcher: Any) -> bool:
        """Whether a patcher has patches that are not ours."""
        return any(not is_own_patch(row[1]) for rows in patcher.patches.values() for row in rows)

    def backup(self, patcher: Any, name: str) -> Tensor | None:
        """Returns the original of a replaced parameter; in newer patchers it stands beside how it is put back."""
        for one in itertools.chain([patcher], _loaded_patchers(patcher)):
            if name in one.backup:
                row = one.backup[name]
                found: Tensor = getattr(row, "weight", row)
                return found
        return None


def _loaded_patchers(patcher: Any) -> Iterator[Any]:
    """The patchers of the same model that the memory manager has loaded: extensions clone them for each image."""
    for module in modules_around(patcher, "model_management", "memory_management"):
        for loaded in getattr(module, "current_loaded_models", ()):
            one = getattr(loaded, "model", None)
            if getattr(one, "model", None) is patcher.model and hasattr(one, "backup"):
                yield one


def patch_list_of(patcher: Any) -> PatchList | None:
    """Returns how a patcher keeps its patches, None for a patcher of an unknown kind."""
    if hasattr(patcher, "lora_patches"):
        return PatchesByFile()
    if hasattr(patcher, "patches") and hasattr(patcher, "backup"):
        return PatchesByParameter()
    return None


def patcher_of(component: Any) -> Any:
    """Returns the patcher of `forge_objects.unet` (itself) or `forge_objects.clip` (its attribute)."""
    return getattr(component, "patcher", component)

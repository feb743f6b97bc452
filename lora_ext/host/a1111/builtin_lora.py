"""The web UI's built-in Lora extension: it stays loaded (cards, API), but must not apply files at the same time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from modules import shared

from ...file.lora_library import LibraryEntry
from ..patched.model import has_patchers
from ..patched.model_patches import has_patches_of_others
from . import models


def builtin_lora_names() -> set[str]:
    """Returns the names of the files that the built-in extension lists."""
    return set(getattr(_networks(), "available_networks", ()))


def lacks_file(name: str) -> bool:
    """Whether the built-in extension has no file of this name, after it has looked again.

    In Forge and its kin one such name makes it apply no tag of the prompt at all; elsewhere it says so by itself.
    """
    networks = _networks()
    if networks is None or not models.has_patch_manager():
        return False

    def is_known() -> bool:
        return any(
            name in getattr(networks, table, ()) for table in ("available_networks", "available_network_aliases")
        )

    if not is_known():
        networks.list_available_networks()
    return not is_known()


def infotext_hash(entry: LibraryEntry) -> str:
    """Returns the hash of a file that the infotext holds, by which the built-in extension finds it when it is pasted.

    AUTOMATIC1111's is that of the file's tensors; Forge and its kin call the same function, but there it is that of the
    whole file: they are asked. "" where none is known and `--no-hashing` forbids to compute it.
    """
    row = getattr(_networks(), "available_networks", {}).get(entry.name) if models.has_patch_manager() else None
    if row is not None and Path(row.filename) == entry.path:
        row.read_hash()
        return str(row.shorthash or "")
    return entry.known_hash if getattr(shared.cmd_opts, "no_hashing", False) else entry.hash


def add_default_network_tag(p: Any, items: list[list[str]]) -> None:
    """Applies the setting "Add network to prompt": adds its tag to the end of every prompt."""
    name = getattr(shared.opts, "sd_lora", "None")
    if name == "None" or name not in builtin_lora_names() or any(item[0] == name for item in items):
        return
    weight = shared.opts.extra_networks_default_multiplier
    tag = f"<lora:{name}:{weight}>"
    if p.all_prompts is not None:
        p.all_prompts = [prompt if tag in prompt else prompt + tag for prompt in p.all_prompts]
    items.append([name, str(weight)])


@torch.no_grad()
def remove_builtin_loras() -> None:
    """Removes the files that the built-in extension has applied to the models, by restoring its backups.

    It would do so itself at each layer's next call, but would write into whatever is the layer's weight by then.
    """
    networks = _networks()
    if networks is None:
        return
    if models.has_patch_manager():  # Forge: files are patches of its model manager, layers stay unchanged
        if has_builtin_loras() or any(map(_has_unnamed_patches, models.loaded_sd_models())):
            networks.load_networks([], [], [])  # Neo has no fourth argument
        return
    if networks.loaded_networks:
        networks.load_networks([])
    for sd_model in models.loaded_sd_models():
        for module in sd_model.modules():
            if getattr(module, "network_current_names", ()):
                networks.network_apply_weights(module)
            if getattr(module, "network_weights_backup", None) is not None:
                networks.network_reset_cached_weight(module)


def has_builtin_loras() -> bool:
    """Whether the built-in extension has applied files.

    In Forge and its kin the model itself tells which: other extensions clear the built-in extension's list.
    """
    hashes = (getattr(one, "current_lora_hash", None) for one in models.loaded_sd_models())
    return bool(getattr(_networks(), "loaded_networks", ())) or any(one not in (None, "", "[]") for one in hashes)


def _has_unnamed_patches(sd_model: Any) -> bool:
    """Whether a model of Forge and its kin has patches of others, and does not tell whose they are.

    sd-webui-lora-block-weight clears after each image what the model tells; the patches stay until the next one.
    """
    is_told = bool(getattr(sd_model, "current_lora_hash", None))
    return has_patchers(sd_model) and not is_told and has_patches_of_others(sd_model)


def _networks() -> Any:
    """Returns the built-in extension's module, None where it is disabled."""
    module = sys.modules.get("networks")
    return module if hasattr(module, "available_networks") else None

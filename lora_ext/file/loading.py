"""A file on disk → `LoraFile`: every key put to its site, whatever trainer wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .. import adapters as kinds
from ..adapters import Adapter
from ..errors import FileError, FitError
from ..layer_names import KOHYA, Site, parse_key
from . import cloneofsimo
from .architectures import architecture_of
from .containers import read_tensors
from .layer_check import Damaged, sound
from .lora_file import LoraFile
from .peft_config import config_path, in_folder
from .peft_strengths import Strengths

BUNDLE = "bundle_emb."
"""Keys `bundle_emb.NAME.VECTOR`: textual-inversion embeddings that travel inside a LoRA file."""


def read(path: str | Path) -> LoraFile:
    """The file as adapters by site; see `LoraFile`. A folder means PEFT's file in it.

    Raises FileError when it cannot be read or contradicts itself: cut off, wanting to run code, one layer under two
    names, no layer that is sound. Single layers that are damaged go to `damaged`, unknown ones to `unread`; a file for
    another architecture has no adapters.
    """
    path = in_folder(Path(path))
    contents = read_tensors(path)
    try:
        if cloneofsimo.is_list(contents.raw) or cloneofsimo.is_tokens(path, contents.tensors):
            file = cloneofsimo.read_torch(path, contents)
        elif cloneofsimo.is_named(contents.tensors):
            file = cloneofsimo.read_named(path, contents)
        else:
            file = assemble(contents.tensors, contents.metadata, path, config_path(path))
        if file.damaged and not file.adapters and not file.embeddings:
            raise FileError(next(iter(file.damaged.values())).why)
        return file
    except (FileError, FitError) as error:
        raise FileError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def assemble(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path | None = None, config: Path | None = None
) -> LoraFile:
    """`LoraFile` from tensors under the keys of any dialect but cloneofsimo's. config: PEFT's `adapter_config.json`.
    Raises FileError."""
    layers: dict[Site, dict[str, Tensor]] = {}
    keys: dict[tuple[Site, str], str] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    unread: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        bundled = _bundled(key) if key.startswith(BUNDLE) else None
        if bundled:
            embeddings.setdefault(bundled[0], {})[bundled[1]] = tensor
            continue
        found = parse_key(key, kinds.SUFFIXES)
        if found is None or found[1] not in kinds.SUFFIXES:
            unread[key] = tensor
            continue
        if found in keys:
            raise FileError(f"{keys[found]!r} and {key!r} are the same layer ({found[0]}) under two names")
        keys[found] = key
        layer = layers.get(found[0])
        if layer is None:
            layer = layers[found[0]] = {}
        layer[found[1]] = tensor
    dialect = _dialect(keys)
    strengths = Strengths.of(metadata, config) if dialect == "diffusers" else Strengths()
    adapters: dict[Site, Adapter] = {}
    damaged: dict[Site, Damaged] = {}
    for site, held in layers.items():
        adapter = sound(site, held, [keys[site, suffix] for suffix in held], damaged)
        if adapter is None:
            unread.update((keys.pop((site, suffix)), tensor) for suffix, tensor in held.items())
        else:
            adapters[site] = strengths.scaled(site, adapter)
    other = architecture_of(unread, adapters, metadata, strengths.base)
    if other is not None:
        return LoraFile({}, dict(metadata), unread=dict(tensors), path=path, other=other)
    return LoraFile(
        adapters,
        dict(metadata),
        embeddings,
        unread,
        keys,
        described=dict(adapters) if strengths.in_metadata else {},
        dialect=dialect,
        path=path,
        damaged=damaged,
        **(strengths.told(adapters, keys.values()) if dialect == "diffusers" else {}),
    )


def _bundled(key: str) -> tuple[str, str] | None:
    """`bundle_emb.NAME.VECTOR` → (NAME, VECTOR); the built-in takes NAME up to the first dot."""
    name, _, vector = key.removeprefix(BUNDLE).partition(".")
    return (name, vector) if name and vector else None


def _dialect(keys: Mapping[tuple[Site, str], str]) -> str:
    """The spelling of the first key."""
    key = next(iter(keys.values()), "")
    if ".processor." in key:
        return "processor"
    return "kohya" if not key or key.startswith(tuple(prefix.text for prefix in KOHYA)) else "diffusers"

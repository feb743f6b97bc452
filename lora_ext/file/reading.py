"""A file on disk → `LoraFile`: every key put to its site, whatever trainer wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import adapters as kinds
from ..adapters import Adapter
from ..address import KOHYA, Site, parse_key
from ..errors import FileError, FitError
from . import cloneofsimo, peft_metadata
from .containers import read_tensors
from .lorafile import LoraFile

BUNDLE = "bundle_emb."
"""Keys `bundle_emb.NAME.VECTOR`: textual-inversion embeddings that travel inside a LoRA file."""

_FACTOR = re.compile(r"lora_(up|down|mid)\.weight|hada_[wt]\w+|lokr_[wt]\w+|oft_(diag|blocks)|[ab][12]\.weight")
"""Suffixes whose tensor is a matrix or more."""


def read(path: str | Path) -> LoraFile:
    """The file as adapters by site; see `LoraFile`.

    Raises FileError when it cannot be read or contradicts itself: damaged, wanting to run code, one layer under
    two names, factors whose ranks disagree. Layers that are merely unknown go to `unread`.
    """
    path = Path(path)
    contents = read_tensors(path)
    try:
        if cloneofsimo.is_list(contents.raw) or cloneofsimo.is_tokens(path, contents.tensors):
            return cloneofsimo.read_torch(path, contents)
        if cloneofsimo.is_named(contents.tensors):
            return cloneofsimo.read_named(path, contents)
        return assemble(contents.tensors, contents.metadata, path)
    except (FileError, FitError) as error:
        raise FileError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def assemble(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path | None = None) -> LoraFile:
    """`LoraFile` from tensors under the keys of any dialect but cloneofsimo's. Raises FileError."""
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
    configs = peft_metadata.configs(metadata) if dialect == "diffusers" else {}
    adapters: dict[Site, Adapter] = {}
    for site, held in layers.items():
        adapter = adapter_at(site, held)
        if adapter is not None and site.part in configs and adapter.rank and "alpha" not in held:
            alpha = peft_metadata.alpha_of(configs[site.part], site, adapter.rank)
            adapter = adapter if alpha == adapter.rank else kinds.adapter_of({**held, "alpha": torch.tensor(alpha)})
        if adapter is None:
            unread.update((keys.pop((site, suffix)), tensor) for suffix, tensor in held.items())
        else:
            adapters[site] = adapter
    described = dict(adapters) if configs else {}
    return LoraFile(adapters, dict(metadata), embeddings, unread, keys, described=described, dialect=dialect, path=path)


def _bundled(key: str) -> tuple[str, str] | None:
    """`bundle_emb.NAME.VECTOR` → (NAME, VECTOR); the built-in takes NAME up to the first dot."""
    name, _, vector = key.removeprefix(BUNDLE).partition(".")
    return (name, vector) if name and vector else None


def adapter_at(site: Site, tensors: Mapping[str, Tensor]) -> Adapter | None:
    """The checked adapter of one layer, None when no kind accepts its suffixes. Raises FileError naming the layer."""
    for suffix, tensor in tensors.items():
        if tensor.dim() < 2 and _FACTOR.fullmatch(suffix):
            raise FileError(f"{suffix} of {site} has shape {tuple(tensor.shape)}, where a matrix belongs")
        if suffix in ("alpha", "scale") and tensor.numel() != 1:
            raise FileError(f"{suffix} of {site} has shape {tuple(tensor.shape)}, where one number belongs")
    if "lora_up.weight" in tensors and "lora_down.weight" in tensors:
        up, down = tensors["lora_up.weight"].shape, tensors["lora_down.weight"].shape
        mid = tensors["lora_mid.weight"].shape if "lora_mid.weight" in tensors else None
        ranks = {up[1], down[0], *(mid[:2] if mid is not None else ())}
        flat = math.prod(up[2:]) if 0 not in up[:2] else 1
        if len(ranks) != 1 or 0 in ranks or flat != 1:
            shapes = " and ".join(str(tuple(shape)) for shape in (up, mid, down) if shape is not None)
            raise FileError(f"the factors of {site} do not share one rank: {shapes}")
    return kinds.adapter_of(tensors)


def _dialect(keys: Mapping[tuple[Site, str], str]) -> str:
    """The spelling of the first key."""
    key = next(iter(keys.values()), "")
    if ".processor." in key:
        return "processor"
    return "kohya" if not key or key.startswith(tuple(prefix.text for prefix in KOHYA)) else "diffusers"

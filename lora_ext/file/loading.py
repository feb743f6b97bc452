"""Loads a `LoraFile` from disk: keys of every supported format become layer ids and suffixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .. import adapters as kinds
from ..adapters import Adapter
from ..errors import FileError, FitError
from ..layer_keys import KOHYA_PREFIXES, parse_layer_key
from ..layer_names import LayerId
from . import cloneofsimo
from .architectures import find_foreign_architecture
from .containers import load_tensors
from .layer_check import DamagedLayer, adapter_if_sound
from .lora_file import LoraFile
from .peft_config import find_adapter_config, find_peft_file
from .peft_strengths import ConfigFields, PeftStrengths

BUNDLED_EMBEDDING_PREFIX = "bundle_emb."
"""Keys `bundle_emb.NAME.VECTOR`: textual-inversion embeddings that travel inside a LoRA file."""


def load_lora_file(path: str | Path) -> LoraFile:
    """Loads a LoRA file from disk: safetensors or torch, in any of the key formats.

    Single damaged layers do not stop it: they go to `LoraFile.damaged`, and unknown keys to `LoraFile.unrecognized`. A
    file for another architecture has no adapters, and `LoraFile.foreign_architecture` says which it is.

    Args:
        path: the file, or the folder of a PEFT adapter.

    Returns:
        Its contents.

    Raises:
        FileError: the file cannot be read, is truncated, wants to run code, has one layer under two names, or has no
            layer that is sound. The message names the file.

    Example:
        >>> from lora_ext.embedded import LORA_DIR
        >>> file = load_lora_file(next(LORA_DIR.glob("*.safetensors")))
        >>> file.family, file.key_format
        ('SD1', 'kohya')
    """
    path = find_peft_file(Path(path))
    contents = load_tensors(path)
    try:
        if cloneofsimo.is_tensor_list(contents.raw) or cloneofsimo.is_token_file(path, contents.tensors):
            file = cloneofsimo.load_cloneofsimo_torch(path, contents)
        elif cloneofsimo.has_numbered_keys(contents.tensors):
            file = cloneofsimo.load_cloneofsimo_safetensors(path, contents)
        else:
            file = assemble_lora_file(contents.tensors, contents.metadata, path, find_adapter_config(path))
        if file.damaged and not file.adapters and not file.embeddings:
            raise FileError(next(iter(file.damaged.values())).reason)
        return replace(file, data=contents.data)
    except (FileError, FitError) as error:
        raise FileError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


class _TensorsOfFile(NamedTuple):
    """A file's tensors: by layer and suffix, with the key of each; embeddings by name; the others by key."""

    layers: dict[LayerId, dict[str, Tensor]]
    keys: dict[tuple[LayerId, str], str]
    embeddings: dict[str, dict[str, Tensor]]
    unrecognized: dict[str, Tensor]


def assemble_lora_file(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path | None = None, config: Path | None = None
) -> LoraFile:
    """Makes a `LoraFile` from tensors under the keys of any format except cloneofsimo's.

    Args:
        tensors: key → tensor.
        metadata: the file's metadata.
        path: where the file is, for its name.
        config: PEFT's `adapter_config.json` that belongs to it.

    Returns:
        The file.

    Raises:
        FileError: one layer has two names.
    """
    layers, keys, embeddings, unrecognized = _sorted_by_layer(tensors)
    key_format = _detect_key_format(keys)
    strengths = PeftStrengths.from_sources(metadata, config) if key_format == "diffusers" else PeftStrengths()
    adapters: dict[LayerId, Adapter] = {}
    damaged: dict[LayerId, DamagedLayer] = {}
    for layer_id, layer_tensors in layers.items():
        adapter = adapter_if_sound(
            layer_id, layer_tensors, [keys[layer_id, suffix] for suffix in layer_tensors], damaged
        )
        if adapter is None:
            unrecognized.update((keys.pop((layer_id, suffix)), tensor) for suffix, tensor in layer_tensors.items())
        else:
            adapters[layer_id] = strengths.scaled(layer_id, adapter)
    other = find_foreign_architecture(unrecognized, adapters, metadata, strengths.base_model_name)
    if other is not None:
        return LoraFile({}, dict(metadata), unrecognized=dict(tensors), path=path, foreign_architecture=other)
    fields: ConfigFields = strengths.lora_file_fields(adapters, keys.values()) if key_format == "diffusers" else {}
    return LoraFile(
        adapters,
        dict(metadata),
        embeddings,
        unrecognized,
        keys,
        adapters_as_loaded=dict(adapters) if strengths.in_metadata else {},
        key_format=key_format,
        path=path,
        damaged=damaged,
        **fields,
    )


def _sorted_by_layer(tensors: Mapping[str, Tensor]) -> _TensorsOfFile:
    """Sorts a file's tensors by what they belong to. Raises FileError for a layer under two names."""
    layers: dict[LayerId, dict[str, Tensor]] = {}
    keys: dict[tuple[LayerId, str], str] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    unrecognized: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        bundled = _bundled(key) if key.startswith(BUNDLED_EMBEDDING_PREFIX) else None
        if bundled:
            embeddings.setdefault(bundled[0], {})[bundled[1]] = tensor
            continue
        found = parse_layer_key(key, kinds.ADAPTER_SUFFIXES)
        if found is None or found[1] not in kinds.ADAPTER_SUFFIXES:
            unrecognized[key] = tensor
            continue
        if found in keys:
            raise FileError(f"{keys[found]!r} and {key!r} are the same layer ({found[0]}) under two names")
        keys[found] = key
        layer = layers.get(found[0])
        if layer is None:  # a setdefault would make a dict for each tensor
            layer = layers[found[0]] = {}
        layer[found[1]] = tensor
    return _TensorsOfFile(layers, keys, embeddings, unrecognized)


def _bundled(key: str) -> tuple[str, str] | None:
    """`bundle_emb.NAME.VECTOR` → (NAME, VECTOR); the built-in takes NAME up to the first dot."""
    name, _, vector = key.removeprefix(BUNDLED_EMBEDDING_PREFIX).partition(".")
    return (name, vector) if name and vector else None


def _detect_key_format(keys: Mapping[tuple[LayerId, str], str]) -> str:
    """The key format of the first key."""
    key = next(iter(keys.values()), "")
    if ".processor." in key:
        return "processor"
    return "kohya" if not key or key.startswith(tuple(prefix.text for prefix in KOHYA_PREFIXES)) else "diffusers"

"""`LoraFile`: the contents of a LoRA-family file, as adapters by layer id."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..adapters import Adapter
from ..errors import FileError
from ..layer_names import LayerId
from .architectures import ForeignArchitecture
from .base_model import UNKNOWN, detect_lora_family
from .displayed_names import displayed_name
from .layer_check import DamagedLayer
from .peft_config import ADAPTER_MODEL_STEM


@dataclass(frozen=True, eq=False)
class LoraFile:
    """The contents of a LoRA file: adapters by layer id, and everything else that is needed to write it unchanged.

    Attributes:
        adapters: layer id → adapter.
        metadata: the file's metadata.
        embeddings: name → vector name → tensor, of `bundle_emb.*` keys and cloneofsimo's token tensors. Vector
            names are what follows `bundle_emb.NAME.`, such as `string_to_param.*` or `clip_l`.
        unrecognized: key → tensor of what names no known layer or kind. It is written back.
        keys: (layer id, suffix) → key in the file. Adapters that were made here have none, and get kohya's keys.
        embedding_keys: (name, vector name) → key, where that is not `bundle_emb.NAME.VECTOR`.
        adapters_as_loaded: the adapters as they were loaded, where diffusers' metadata holds their alphas. A file whose
            adapters are others is written without that metadata.
        key_format: "kohya", "diffusers" (also PEFT's), "processor" or "cloneofsimo".
        path: where the file is; None for one that was made in memory.
        damaged: layers that cannot be applied, and why. Their tensors are in `unrecognized` too.
        foreign_architecture: what the file is for where that is not SD1, SD2 or SDXL. Then all of it is in
            `unrecognized`.
        config: PEFT's `adapter_config.json` that gave the alphas.
        notes: sentences on what of a configuration is not supported.
        assumed: a sentence on the alpha that is assumed where the file has none.
        data: the bytes behind the header of the safetensors file that was loaded, for its hash.
    """

    adapters: Mapping[LayerId, Adapter]
    metadata: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    unrecognized: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Mapping[tuple[LayerId, str], str] = field(default_factory=dict)
    embedding_keys: Mapping[tuple[str, str], str] = field(default_factory=dict)
    adapters_as_loaded: Mapping[LayerId, Adapter] = field(default_factory=dict)
    key_format: str = "kohya"
    path: Path | None = None
    damaged: Mapping[LayerId, DamagedLayer] = field(default_factory=dict)
    foreign_architecture: ForeignArchitecture | None = None
    config: Path | None = None
    notes: tuple[str, ...] = ()
    assumed: str = ""
    data: Tensor | None = None

    @property
    def name(self) -> str:
        """The file's stem: what `<lora:name>` calls it; of PEFT's `adapter_model.*` the name of its folder."""
        if self.path is None:
            return "unnamed"
        own = self.config is not None and self.path.stem == ADAPTER_MODEL_STEM
        return displayed_name((self.path.resolve().parent.name if own else "") or self.path.stem)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of adapter in it, most frequent first."""
        kinds = [adapter.kind for adapter in self.adapters.values()]
        return tuple(sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind)))

    @cached_property
    def family(self) -> str:
        """Base: "SD1", "SD2", "SDXL", another name (see `other`) or "unknown"; see `detect_lora_family`."""
        if self.foreign_architecture is not None:
            return self.foreign_architecture.name if self.foreign_architecture.kind == "LoRA" else UNKNOWN
        return detect_lora_family(self.adapters, self.keys, self.metadata)

    @cached_property
    def variant(self) -> str:
        """What people call such a file: "LoRA-LierLa", "LoRA-C3Lier", "DyLoRA", or the kind's name.

        LierLa: Linear and 1x1 Conv2d only; C3Lier: larger kernels too; DyLoRA: where kohya's metadata names it.
        """
        if self.foreign_architecture is not None:
            return self.foreign_architecture.kind
        if not self.kinds:
            return "none"
        if self.kinds[0] != "LoRA":
            return self.kinds[0]
        if self.dylora_unit is not None:
            return "DyLoRA"
        dora = any("dora_scale" in adapter.tensors for adapter in self.adapters.values())
        wide = any(_has_large_kernel(adapter) for adapter in self.adapters.values())
        return ("LoRA-C3Lier" if wide else "LoRA-LierLa") + (" with DoRA" if dora else "")

    @cached_property
    def dylora_unit(self) -> int | None:
        """Ranks by which a DyLoRA may be cut, 1 where its metadata does not say; None for other files."""
        network_args = self.metadata.get("ss_network_args", "")
        unit = re.search(r'"unit"\s*:\s*"?(\d{1,6})', network_args)
        if unit is None and "dylora" not in (self.metadata.get("ss_network_module", "") + network_args).lower():
            return None
        return max(1, int(unit[1])) if unit else 1

    def keyed_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(key as in the file, tensor) of everything that came with a key."""
        for layer_id, adapter in self.adapters.items():
            for suffix, tensor in adapter.tensors.items():
                yield self.keys.get((layer_id, suffix), f"{layer_id}.{suffix}"), tensor
        for name, vectors in self.embeddings.items():
            for vector, tensor in vectors.items():
                yield self.embedding_key(name, vector), tensor
        yield from self.unrecognized.items()

    def embedding_key(self, name: str, vector: str) -> str:
        """Returns the key of one embedding tensor.

        Args:
            name: the embedding's name.
            vector: the vector's name.

        Returns:
            The key in the file, else `bundle_emb.NAME.VECTOR`.
        """
        return self.embedding_keys.get((name, vector), f"bundle_emb.{name}.{vector}")

    @property
    def unrecognized_keys(self) -> list[str]:
        """Keys that were not understood: those in `unread` that are of no damaged layer."""
        known = {key for layer in self.damaged.values() for key in layer.keys}
        return [key for key in self.unrecognized if key not in known] if known else list(self.unrecognized)

    @property
    def first_damage_reason(self) -> str:
        """What is wrong with the first damaged layer, "" where there are none."""
        return next((layer.reason for layer in self.damaged.values()), "")

    def without_damaged(self) -> LoraFile:
        """The file without what cannot act."""
        if not self.damaged:
            return self
        return replace(self, damaged={}, unrecognized={key: self.unrecognized[key] for key in self.unrecognized_keys})

    def check_architecture(self) -> None:
        """Checks that the file is for SD1, SD2 or SDXL.

        Raises:
            FileError: it is for another architecture, or no LoRA; the message says what it is.
        """
        if self.foreign_architecture is not None:
            raise FileError(self.foreign_architecture.sentence(self.name))

    @cached_property
    def non_finite_layers(self) -> frozenset[LayerId]:
        """The layers that hold NaN or infinity; every number is looked at once."""
        return frozenset(s for s, a in self.adapters.items() if not all(map(is_tensor_finite, a.tensors.values())))

    @cached_property
    def first_non_finite_key(self) -> str | None:
        """The first key whose tensor holds NaN or infinity, or None; every number is looked at once."""
        return next((key for key, tensor in self.keyed_tensors() if not is_tensor_finite(tensor)), None)

    def check_finite(self) -> None:
        """Checks that all numbers are finite.

        Raises:
            FileError: the file contains NaN or infinity; the message names the file and the first such key.
        """
        if self.first_non_finite_key is not None:
            raise FileError(
                f"{self.path or self.name} contains NaN or infinity (first in {self.first_non_finite_key!r})"
            )


def is_tensor_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite.

    The sum is checked first: it needs no memory, and is finite nearly always where the numbers are.

    Args:
        tensor: any shape and dtype.

    Returns:
        True for integers and finite floating-point numbers.
    """
    if not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return math.isfinite(float(tensor.sum(dtype=wide))) or bool(torch.isfinite(tensor).all())


def _has_large_kernel(adapter: Adapter) -> bool:
    """Whether a LoRA layer's kernel is larger than 1x1."""
    names = ("lora_down.weight", "lora_mid.weight")
    return any(n in adapter.tensors and any(k > 1 for k in adapter.tensors[n].shape[2:]) for n in names)

"""Scales of the layers of files in PEFT's or diffusers' key format, where the file itself has no alpha."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from ..adapters import Adapter
from ..layer_names import PARTS, LayerId, layer_name_table
from . import peft_metadata
from .peft_config import ADAPTER_CONFIG_NAME, PeftConfig, load_adapter_config

_PEFT = "base_model.model."
"""What PEFT's own `save_pretrained` writes before a layer's name; it always writes `adapter_config.json` too."""


class ConfigFields(TypedDict, total=False):
    """The fields of a `LoraFile` that depend on a configuration."""

    config: Path | None
    notes: tuple[str, ...]
    assumed: str


@dataclass(frozen=True)
class PeftStrengths:
    """The configurations that give a file's layers their scale.

    Attributes:
        configs: part → its configuration.
        in_metadata: whether the file's own metadata holds them.
        notes: sentences on what is not supported.
        config: the `adapter_config.json` beside the file; None without one.
        is_config_read: whether that could be read.
    """

    configs: Mapping[str, PeftConfig] = field(default_factory=dict)
    in_metadata: bool = False
    notes: tuple[str, ...] = ()
    config: Path | None = None
    is_config_read: bool = False

    @classmethod
    def from_sources(cls, metadata: Mapping[str, str], path: Path | None) -> PeftStrengths:
        """Takes the metadata's configurations, and for other parts the `adapter_config.json` at `path`."""
        from_metadata = peft_metadata.parse_peft_metadata(metadata)
        notes = [note for config in from_metadata.values() for note in config.notes()]
        from_file = None
        if path is not None:
            from_file, more = load_adapter_config(path)
            notes += more
        configs = {**dict.fromkeys(PARTS, from_file), **from_metadata} if from_file is not None else from_metadata
        used = {part: c for part, c in configs.items() if c is not None}
        return cls(used, bool(from_metadata), tuple(notes), path, from_file is not None)

    @property
    def base_model_name(self) -> str:
        """The configuration's name of the base model; "" without one."""
        names = (config.values.get("base_model_name_or_path") for config in self.configs.values())
        return next((text for text in names if isinstance(text, str)), "")

    def scaled(self, layer_id: LayerId, adapter: Adapter) -> Adapter:
        """The adapter at its strength."""
        config = self.configs.get(layer_id.part)
        return (
            adapter if config is None else config.scaled(adapter, layer_name_table(layer_id.part).diffusers[layer_id])
        )

    def lora_file_fields(self, adapters: Mapping[LayerId, Adapter], keys: Iterable[str]) -> ConfigFields:
        """Returns the fields of a `LoraFile` that depend on the configuration."""
        silent = [layer_id for layer_id in adapters if layer_id.part not in self.configs]
        unsaid = any(adapters[s].rank and not {"alpha", "scale"} & adapters[s].tensors.keys() for s in silent)
        key = next(iter(keys), "")
        notes, assumed = self.notes, ""
        if unsaid and key.startswith(_PEFT) and self.config is None:
            notes = (*notes, f"there is no {ADAPTER_CONFIG_NAME} beside it, so alpha = rank is assumed")
        elif unsaid and self.config is None:
            assumed = "it has no alpha, so alpha = rank is assumed"
        return {"config": self.config if self.is_config_read else None, "notes": notes, "assumed": assumed}

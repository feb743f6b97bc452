"""Configurations that a diffusers file keeps in its metadata: since 0.34 each part's `LoraConfig` is saved there."""

from __future__ import annotations

from collections.abc import Mapping

from ..json_text import parse_json
from ..layer_names import PARTS, TE, TE2, UNET
from .peft_config import PeftConfig

PEFT_METADATA_KEY = "lora_adapter_metadata"
"""Metadata key: JSON of `<part>.r`, `<part>.lora_alpha`, `<part>.alpha_pattern`, `<part>.use_rslora` …"""

_PREFIX = {UNET: "unet", TE: "text_encoder", TE2: "text_encoder_2"}


def parse_peft_metadata(metadata: Mapping[str, str]) -> dict[str, PeftConfig]:
    """Parses the configurations in a diffusers file's metadata.

    Args:
        metadata: the file's metadata.

    Returns:
        Part ("unet", "te", "te2") → its configuration. Parts without one are absent; all are where the JSON is damaged.
    """
    try:
        packed = parse_json(metadata.get(PEFT_METADATA_KEY, "{}"))
    except ValueError:
        return {}
    if not isinstance(packed, dict):
        return {}
    found = {}
    for part in PARTS:
        head = _PREFIX[part] + "."
        config = {key.removeprefix(head): value for key, value in packed.items() if key.startswith(head)}
        if config:
            found[part] = PeftConfig(config, f"{PEFT_METADATA_KEY} of {_PREFIX[part]}")
    return found

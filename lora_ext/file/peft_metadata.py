"""Alphas that a PEFT/diffusers file keeps in its metadata: diffusers since 0.34 saves each part's `LoraConfig` there.

Without such metadata diffusers takes alpha = rank, and so does this program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..address import PARTS, TE, TE2, UNET, Site, names

KEY = "lora_adapter_metadata"
"""Metadata key: JSON of `<part>.r`, `<part>.lora_alpha`, `<part>.alpha_pattern`, `<part>.use_rslora` …"""

_PREFIX = {UNET: "unet", TE: "text_encoder", TE2: "text_encoder_2"}


def configs(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """part → its configuration, for the parts that the metadata describes; none where it is absent or damaged."""
    try:
        packed = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(packed, dict):
        return {}
    found = {}
    for part in PARTS:
        head = _PREFIX[part] + "."
        config = {key.removeprefix(head): value for key, value in packed.items() if key.startswith(head)}
        if config:
            found[part] = config
    return found


def alpha_of(config: Mapping[str, Any], site: Site, rank: int) -> float:
    """The alpha that makes alpha/rank the scale PEFT uses at `site`; `rank` where the configuration names none.

    PEFT's patterns are regular expressions that end a layer's name; plain names are all that savers write, and all
    that is honoured here (a file's expression could take for ever).
    """
    value = config.get("lora_alpha")
    patterns = config.get("alpha_pattern")
    name = "." + names(site.part).diffusers[site]
    if isinstance(patterns, dict):
        fits = (own for key, own in patterns.items() if name.endswith("." + key.lstrip("^").replace("\\.", ".")))
        value = next(fits, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return float(rank)
    return float(value) * (math.sqrt(rank) if config.get("use_rslora") is True else 1.0)

"""Other extensions of the web UI that change what `<lora:…>` tags do."""

from __future__ import annotations

from typing import Any

from modules import extensions

BLOCK_WEIGHT_EXTENSION = "sd-webui-lora-block-weight"
REGIONAL_PROMPTER = "Regional Prompter"


def is_extension_enabled(name: str) -> bool:
    """Whether an extension with this folder name, in any case, is installed and enabled."""
    return any(one.enabled and one.name.lower() == name for one in extensions.extensions)


def active_region_extension(p: Any) -> str:
    """Returns the name of the extension that divides the picture of a job into regions; "" where none does.

    Regional Prompter says so in the infotext before the first batch. Forge Couple says so only after tags were applied:
    its first argument is its check mark.
    """
    if (getattr(p, "extra_generation_params", None) or {}).get("RP Active"):
        return REGIONAL_PROMPTER
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ():
        if str(script.title()) == "Forge Couple":
            arguments = list(getattr(p, "script_args", None) or ())[script.args_from : script.args_to]
            return "Forge Couple" if arguments and arguments[0] else ""
    return ""

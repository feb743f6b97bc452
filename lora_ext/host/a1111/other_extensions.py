"""Other extensions of the web UI that change what `<lora:…>` tags do."""

from __future__ import annotations

from modules import extensions

BLOCK_WEIGHT_EXTENSION = "sd-webui-lora-block-weight"


def is_extension_enabled(name: str) -> bool:
    """Whether an extension with this folder name, in any case, is installed and enabled."""
    return any(one.enabled and one.name.lower() == name for one in extensions.extensions)

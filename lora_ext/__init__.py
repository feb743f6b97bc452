"""lora-ext: LoRA-family files for Stable Diffusion, applied exactly, in the web UI and on diffusers.

    with lora_ext.apply(pipe, {"a.safetensors": 0.8}) as lora:
        pipe("a cat")
        lora.set("a", 0.5)

The names below are loaded when first used, so that `import lora_ext` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "1.0.0"

_HOMES = {
    "apply": ("api", "apply"),
    "merge": ("api", "merge"),
    "Loras": ("api", "Loras"),
    "read": ("file.loading", "load_lora_file"),
    "write": ("file.saving", "save_lora_file"),
}
"""Public name → (module, name there)."""

__all__ = ["Loras", "__version__", "apply", "merge", "read", "write"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(import_module(f".{module}", __name__), attribute)
    raise AttributeError(f"module 'lora_ext' has no attribute {name!r}")

"""Checks a folder before transformers or diffusers load it: nothing in it may execute code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import FileError
from ...file.torch_file import unsafe_pickle_names
from ...json_text import parse_json

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)
"""A weights file: NAME[.VARIANT][-00001-of-00002].safetensors."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


def weights_variant(folder: Path) -> str | None:
    """Returns the variant of a network's weights, such as "fp16" for `model.fp16.safetensors`.

    None where the folder has weights without a variant. Most SDXL downloads have fp16 alone.
    """
    found = [_WEIGHTS.fullmatch(path.name) for path in sorted(folder.iterdir())]
    variants = [match[1] for match in found if match]
    return None if not variants or None in variants else "fp16" if "fp16" in variants else variants[0]


def check_local_folder(folder: Path) -> Path:
    """Checks a folder and returns it.

    Classes are never taken from the folder, so `auto_map` and `_class_name` have no effect. These could execute code:
    an attention implementation `owner/name`, which transformers downloads and imports; a PEFT adapter, whose
    configuration names another model and modules to import; pickles with more than tensors.

    Raises:
        FileError: the folder has one of them.
    """
    if (folder / "adapter_config.json").is_file():
        raise FileError(f"{folder} holds adapter_config.json, a PEFT adapter; give a folder with the whole model")
    for path in sorted(folder.glob("*config.json")):
        for name, value in _config_items(_load_json(path)):
            if name.endswith("attn_implementation") and "/" in str(value):
                raise FileError(
                    f"{path} asks for the attention {str(value)[:80]!r}, which would be downloaded and executed; "
                    "remove that line"
                )
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICKLE_SUFFIXES and path.is_file() and (wanted := unsafe_pickle_names(path)):
            raise FileError(
                f"{path} was not loaded: it wants to run {wanted[0]!r}, and only tensors are read; "
                "a .safetensors file of it is safe"
            )
    return folder


def _load_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the library says what is wrong with it


def _config_items(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields every name and value, also of nested configurations."""
    if isinstance(value, dict) and depth < 16:
        for name, item in value.items():
            yield str(name), item
            yield from _config_items(item, depth + 1)

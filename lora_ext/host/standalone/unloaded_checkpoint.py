"""What a checkpoint that is not loaded tells of itself: from its configuration, or the header of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import FileError
from ...file.containers import container_format
from ...file.safetensors_file import load_safetensors_header
from ...json_text import parse_json
from ...protocols import VAE_SCALE_FACTOR
from ..checkpoint_layout import CheckpointLayout, detect_checkpoint_layout, modern_key
from ..ldm_config import CheckpointHints, load_ldm_config
from ..native_size import native_size_for


def native_size_of_file(checkpoint: Path) -> int:
    """Returns the width and height in pixels that a model was trained for, as far as its file tells them.

    Args:
        checkpoint: A checkpoint file or a diffusers folder.

    Returns:
        The pixels of a side. 0 for a torch file, for an SD2 checkpoint that does not say what it predicts, and for what
        is no model.
    """
    try:
        if checkpoint.is_dir():
            latent = _unet_config(checkpoint).get("sample_size")
            sides = latent if isinstance(latent, list) else [latent]
            return max((side for side in sides if isinstance(side, int)), default=0) * VAE_SCALE_FACTOR
        layout = _layout_of_safetensors(checkpoint)
        if layout is None or layout.prediction is None:
            return 0
        return native_size_for(layout.family, layout.prediction, layout.unet["sample_size"])
    except (FileError, OSError, ValueError):
        return 0  # drawing with it says what is wrong


def cross_attention_dim_of_file(checkpoint: Path) -> int:
    """Returns what a model's cross-attention layers take in, by which LoRA files fit it or not.

    Args:
        checkpoint: A checkpoint file or a diffusers folder.

    Returns:
        The width of its text encoders' output. 0 for a torch file, and for what is no model.
    """
    try:
        if checkpoint.is_dir():
            width = _unet_config(checkpoint).get("cross_attention_dim")
            return width if isinstance(width, int) else 0
        layout = _layout_of_safetensors(checkpoint)
        return 0 if layout is None else int(layout.unet["cross_attention_dim"])
    except (FileError, OSError, ValueError):
        return 0


def _unet_config(folder: Path) -> dict[str, Any]:
    config = parse_json((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else {}


def _layout_of_safetensors(path: Path) -> CheckpointLayout | None:
    if container_format(path) != "safetensors":
        return None
    shapes = {name: entry.shape for name, entry in load_safetensors_header(path).entries.items()}
    configuration = path.with_suffix(".yaml")
    hints = CheckpointHints(load_ldm_config(configuration) if configuration.is_file() else {})
    return detect_checkpoint_layout({modern_key(name, shapes): shape for name, shape in shapes.items()}, hints)

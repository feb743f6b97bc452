"""The native size of a checkpoint that is not loaded: from its configuration, or the header of its file."""

from __future__ import annotations

from pathlib import Path

from ...errors import FileError
from ...file.containers import container_format
from ...file.safetensors_file import load_safetensors_header
from ...json_text import parse_json
from ...protocols import VAE_SCALE_FACTOR
from ..checkpoint_layout import detect_checkpoint_layout, modern_key
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
        return _size_of_folder(checkpoint) if checkpoint.is_dir() else _size_of_safetensors(checkpoint)
    except (FileError, OSError, ValueError):
        return 0  # drawing with it says what is wrong


def _size_of_folder(folder: Path) -> int:
    config = parse_json((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    latent = config.get("sample_size") if isinstance(config, dict) else None
    sides = latent if isinstance(latent, list) else [latent]
    return max((side for side in sides if isinstance(side, int)), default=0) * VAE_SCALE_FACTOR


def _size_of_safetensors(path: Path) -> int:
    if container_format(path) != "safetensors":
        return 0
    shapes = {name: entry.shape for name, entry in load_safetensors_header(path).entries.items()}
    configuration = path.with_suffix(".yaml")
    hints = CheckpointHints(load_ldm_config(configuration) if configuration.is_file() else {})
    layout = detect_checkpoint_layout({modern_key(name, shapes): shape for name, shape in shapes.items()}, hints)
    if layout.prediction is None:
        return 0
    return native_size_for(layout.family, layout.prediction, layout.unet["sample_size"])

"""Loads a checkpoint or a diffusers folder as a `StandaloneModel`; the entry point of the standalone host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ... import embedded
from ...errors import FileError, did_you_mean
from ...file.containers import similar_file_hint
from ...file.safetensors_file import load_safetensors_header
from ...precisions import MODEL_PRECISIONS, parse_precision_name
from ..checkpoint_layout import EPSILON_PREDICTION, V_PREDICTION, check_is_supported, modern_key
from ..ldm_config import CheckpointHints, load_ldm_config
from . import tokenizer_files
from .diffusers_folder import load_diffusers_folder
from .ldm_checkpoint import load_ldm_checkpoint
from .model import PipelineModel, StandaloneModel, hookable_model_of
from .prompt_encoding import PromptTokenizer


def best_device() -> str:
    """Returns "cuda", "mps" or "cpu": the first that this torch can use here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_model(
    path: str | Path,
    *,
    tokenizer: str | Path | PromptTokenizer | None = None,
    device: str | None = None,
    precision: str = "fp32",
    prediction: str | None = None,
    config: str | Path | None = None,
    text_config: Mapping[str, Any] | None = None,
) -> StandaloneModel:
    """Loads a model from an LDM checkpoint (.safetensors, .ckpt) or a diffusers folder. Downloads nothing.

    Args:
        path: the checkpoint file, or the folder with `model_index.json`.
        tokenizer: a folder with CLIP's tokenizer files, or a tokenizer; by default the folders that
            `tokenizer_files.find_tokenizer` searches.
        device: torch's name of a device; by default `best_device()`.
        precision: "fp32", "fp16" or "bf16", the dtype of the weights.
        prediction: what the U-Net predicts, "epsilon" or "v", where the file does not say.
        config: the LDM or sgm configuration; by default the `.yaml` beside the checkpoint.
        text_config: entries of transformers' CLIPTextConfig (heads, activation) that shapes cannot tell.

    Returns:
        The model, on the device, in evaluation mode.

    Raises:
        FileError: the file is missing, damaged or of another architecture, or no tokenizer is found.
    """
    path = Path(path)
    dtype = parse_precision_name(precision, MODEL_PRECISIONS, FileError)
    if prediction not in (None, EPSILON_PREDICTION, V_PREDICTION):
        raise FileError(
            f"unknown prediction {prediction!r}{did_you_mean(prediction or '', (EPSILON_PREDICTION, V_PREDICTION))}"
        )
    if not path.exists():
        raise FileError(f"{path} does not exist{similar_file_hint(path)}")
    target = torch.device(device or best_device())
    if path.is_dir():
        chosen, given = _chosen_or_given(tokenizer)
        folder_tokenizer: PromptTokenizer = given or tokenizer_files.find_tokenizer(path, chosen)
        return load_diffusers_folder(path, folder_tokenizer, target, dtype, prediction)
    if path.suffix.lower() == ".safetensors":
        _check_architecture(path)
    hints, prompt_tokenizer = checkpoint_hints(path, tokenizer, prediction, config, text_config)
    return load_ldm_checkpoint(path, hints, prompt_tokenizer, target, dtype)


def checkpoint_hints(
    path: Path,
    tokenizer: str | Path | PromptTokenizer | None = None,
    prediction: str | None = None,
    config: str | Path | None = None,
    text_config: Mapping[str, Any] | None = None,
) -> tuple[CheckpointHints, PromptTokenizer]:
    """Finds what is known about a checkpoint beside its tensors.

    Args: as of `load_model`.

    Returns:
        The hints, and the tokenizer.

    Raises:
        FileError: a configuration that cannot be read, or no tokenizer is found.
    """
    chosen, given = _chosen_or_given(tokenizer)
    yaml = Path(config) if config else path.with_suffix(".yaml")
    ldm_config = load_ldm_config(yaml) if config or yaml.is_file() else {}
    if tokenizer is None and _is_embedded(ldm_config):
        chosen = embedded.TOKENIZER
    prompt_tokenizer: PromptTokenizer = given or tokenizer_files.find_tokenizer(path, chosen)
    text_configs = tokenizer_files.find_text_configs(path, chosen)
    if text_config:
        text_configs = (text_config, *text_configs[1:])
    return CheckpointHints(ldm_config, text_configs, prediction), prompt_tokenizer


def _chosen_or_given(
    tokenizer: str | Path | PromptTokenizer | None,
) -> tuple[Path | None, PromptTokenizer | None]:
    """The folder that the user chose, or the tokenizer itself."""
    return (Path(tokenizer), None) if isinstance(tokenizer, str | Path) else (None, tokenizer)


def _check_architecture(path: Path) -> None:
    """Checks a file's header before anything else is asked for. Raises FileError that says what the file is."""
    shapes = {name: entry.shape for name, entry in load_safetensors_header(path).entries.items()}
    try:
        check_is_supported({modern_key(name, shapes): shape for name, shape in shapes.items()})
    except FileError as error:
        raise FileError(f"{path}: {error}") from None


def _is_embedded(yaml: Mapping[str, Any]) -> bool:
    """Whether a configuration is the embedded model's, wherever it was copied to."""
    node: Any = yaml
    for name in ("model", "params", "cond_stage_config", "target"):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node == embedded.TEXT_TARGET


__all__ = ["PipelineModel", "StandaloneModel", "best_device", "hookable_model_of", "load_model"]

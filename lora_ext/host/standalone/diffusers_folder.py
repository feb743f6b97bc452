"""Loads a diffusers folder (`model_index.json`) as a `StandaloneModel`, from local files only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import FileError
from ...file.base_model import SD1, SD2, SDXL
from ...json_text import parse_json
from ...zero_terminal_snr import rescale_zero_terminal_snr
from ..checkpoint_layout import EPSILON_PREDICTION, V_PREDICTION
from .folder_safety import check_local_folder, weights_variant
from .model import StandaloneModel, check_tokenizer
from .noise_schedule import NEARLY_ZERO_ALPHA, NoiseSchedule, scaled_linear_alphas
from .prompt_encoding import PromptTokenizer, TextEncoder

_PREDICTIONS = {"epsilon": EPSILON_PREDICTION, "v_prediction": V_PREDICTION}


def load_diffusers_folder(
    folder: Path, tokenizer: PromptTokenizer, device: torch.device, dtype: torch.dtype, prediction: str | None = None
) -> StandaloneModel:
    """Loads a folder that diffusers' `save_pretrained` wrote.

    Args:
        folder: the folder with `model_index.json`.
        tokenizer: CLIP's tokenizer.
        device: where the networks go.
        dtype: of the weights.
        prediction: what the U-Net predicts, "epsilon" or "v"; by default what the folder says.

    Raises:
        FileError: a part is missing, damaged or not supported; the message names it.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if not (folder / "model_index.json").is_file():
        raise FileError(f"{folder} is not a diffusers model: it has no model_index.json")
    schedule = _load_scheduler_config(folder)
    unet = _load_network(UNet2DConditionModel, folder, "unet", device, dtype)
    vae = _load_network(AutoencoderKL, folder, "vae", device, dtype)
    texts = _load_text_encoders(folder, device, dtype)
    check_tokenizer(tokenizer, texts)
    if schedule.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise FileError(f"{folder}: a {schedule['beta_schedule']!r} noise schedule is not supported")
    alphas = scaled_linear_alphas(
        schedule.get("beta_start", 0.00085), schedule.get("beta_end", 0.012), schedule.get("num_train_timesteps", 1000)
    )
    prediction_type = str(schedule.get("prediction_type", "epsilon"))
    if prediction is None and prediction_type not in _PREDICTIONS:
        raise FileError(f"{folder}: a U-Net that predicts {prediction_type!r} is not supported")
    return StandaloneModel(
        family=SDXL if len(texts) == 2 else SD2 if texts[0].layer == "normed" else SD1,
        unet=unet,
        vae=vae,
        text_encoders=texts,
        tokenizer=tokenizer,
        noise_schedule=NoiseSchedule(
            rescale_zero_terminal_snr(alphas, NEARLY_ZERO_ALPHA) if schedule.get("rescale_betas_zero_snr") else alphas
        ),
        prediction=prediction or _PREDICTIONS[prediction_type],
        scaling_factor=float(vae.config.scaling_factor),
        path=folder,
    )


def _load_network(kind: Any, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads one network from its subfolder, frozen and in evaluation mode."""
    if not (folder / name).is_dir():
        raise FileError(f"{folder} has no {name} folder")
    check_local_folder(folder / name)
    try:
        network = kind.from_pretrained(
            folder,
            subfolder=name,
            local_files_only=True,
            torch_dtype=dtype,
            variant=weights_variant(folder / name),
        )
    except (OSError, ValueError) as error:
        raise FileError(f"{folder / name} cannot be read: {str(error).splitlines()[0]}") from error
    return network.to(device).requires_grad_(False).eval()


def _load_text_encoders(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[TextEncoder, ...]:
    """Loads "te" and, where there is one, "te2". OpenCLIP is recognised by its activation; it is padded with 0."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    first = _load_network(CLIPTextModel, folder, "text_encoder", device, dtype)
    if (folder / "text_encoder_2").is_dir():
        second = _load_network(CLIPTextModelWithProjection, folder, "text_encoder_2", device, dtype)
        return TextEncoder(first, "penultimate"), TextEncoder(second, "penultimate", 0, pooled=True)
    if first.config.hidden_act == "gelu":
        return (TextEncoder(first, "normed", 0),)
    return (TextEncoder(first),)


def _load_scheduler_config(folder: Path) -> Mapping[str, Any]:
    """Loads a diffusers folder's scheduler configuration, {} without one."""
    file = folder / "scheduler" / "scheduler_config.json"
    try:
        content = parse_json(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise FileError(f"{file} cannot be read: {error}") from error
    return content if isinstance(content, Mapping) else {}

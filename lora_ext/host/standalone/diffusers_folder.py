"""A diffusers folder (`model_index.json`) as a `Standalone`; local files only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import FileError
from ..checkpoint_layout import EPS, SD1, SD2, SDXL, V
from .folder_safety import check_local_folder, variant_of
from .model import Standalone, check_words
from .noise_schedule import Levels, scaled_linear, zero_terminal
from .prompt_encoding import Encoder, Vocabulary

_PREDICTIONS = {"epsilon": EPS, "v_prediction": V}


def read_folder(
    folder: Path, words: Vocabulary, device: torch.device, dtype: torch.dtype, prediction: str | None = None
) -> Standalone:
    """The networks of a folder that `save_pretrained` made. Raises FileError that names what is missing."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if not (folder / "model_index.json").is_file():
        raise FileError(f"{folder} is no diffusers model: it has no model_index.json")
    schedule = _schedule(folder)
    unet = _part(UNet2DConditionModel, folder, "unet", device, dtype)
    vae = _part(AutoencoderKL, folder, "vae", device, dtype)
    texts = _texts(folder, device, dtype)
    check_words(words, texts)
    if schedule.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise FileError(f"{folder}: a {schedule['beta_schedule']!r} noise schedule is unknown here")
    alphas = scaled_linear(
        schedule.get("beta_start", 0.00085), schedule.get("beta_end", 0.012), schedule.get("num_train_timesteps", 1000)
    )
    told = str(schedule.get("prediction_type", "epsilon"))
    if prediction is None and told not in _PREDICTIONS:
        raise FileError(f"{folder}: a U-Net that predicts {told!r} is unknown here")
    return Standalone(
        family=SDXL if len(texts) == 2 else SD2 if texts[0].layer == "normed" else SD1,
        unet=unet,
        vae=vae,
        texts=texts,
        words=words,
        levels=Levels(zero_terminal(alphas) if schedule.get("rescale_betas_zero_snr") else alphas),
        prediction=prediction or _PREDICTIONS[told],
        scale=float(vae.config.scaling_factor),
        path=folder,
    )


def _part(kind: Any, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """One network from its subfolder, frozen and in evaluation."""
    if not (folder / name).is_dir():
        raise FileError(f"{folder} has no {name} folder")
    check_local_folder(folder / name)
    try:
        network = kind.from_pretrained(
            folder,
            subfolder=name,
            local_files_only=True,
            torch_dtype=dtype,
            variant=variant_of(folder / name),
        )
    except (OSError, ValueError) as error:
        raise FileError(f"{folder / name} cannot be read: {str(error).splitlines()[0]}") from error
    return network.to(device).requires_grad_(False).eval()


def _texts(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Encoder, ...]:
    """te, and te2 where there is one. OpenCLIP is known by its activation; it pads with 0."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    first = _part(CLIPTextModel, folder, "text_encoder", device, dtype)
    if (folder / "text_encoder_2").is_dir():
        second = _part(CLIPTextModelWithProjection, folder, "text_encoder_2", device, dtype)
        return Encoder(first, "penultimate"), Encoder(second, "penultimate", 0, pooled=True)
    if first.config.hidden_act == "gelu":
        return (Encoder(first, "normed", 0),)
    return (Encoder(first),)


def _schedule(folder: Path) -> Mapping[str, Any]:
    """A diffusers folder's noise schedule, {} without one."""
    file = folder / "scheduler" / "scheduler_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"{file} cannot be read: {error}") from error
    return content if isinstance(content, Mapping) else {}

"""The kind of the web UI's model, from the attributes of `shared.sd_model`. Imports nothing of the web UI."""

from __future__ import annotations

from typing import Any

from ...file.base_model import SD1, SD2, SDXL
from ..checkpoint_layout import EPSILON_PREDICTION, V_PREDICTION
from ..native_size import latent_size_of, native_size_for


def sd_model_family(sd_model: Any) -> str:
    """Returns "SD1", "SD2" or "SDXL"."""
    if getattr(sd_model, "is_sdxl", False):
        return SDXL
    return SD2 if getattr(sd_model, "is_sd2", False) else SD1


def sd_model_prediction(sd_model: Any) -> str:
    """Returns what the U-Net predicts, "epsilon" or "v"."""
    return V_PREDICTION if getattr(sd_model, "parameterization", "eps") == "v" else EPSILON_PREDICTION


def sd_model_native_size(sd_model: Any) -> int:
    """Returns the width and height in pixels that the model was trained for; 512 while none is loaded."""
    if getattr(sd_model, "is_sd3", False):
        return 1024
    latent = latent_size_of(getattr(sd_model, "image_size", None))
    return native_size_for(sd_model_family(sd_model), sd_model_prediction(sd_model), latent)

"""What kind of model the web UI holds, told from the attributes of `shared.sd_model`. Imports nothing of the web UI."""

from __future__ import annotations

from typing import Any

from ..checkpoint_layout import EPS, SD1, SD2, SDXL, V
from ..native_size import latent_side, native_side


def family_of(sd_model: Any) -> str:
    """ "SD1", "SD2" or "SDXL"."""
    if getattr(sd_model, "is_sdxl", False):
        return SDXL
    return SD2 if getattr(sd_model, "is_sd2", False) else SD1


def prediction_of(sd_model: Any) -> str:
    """What the U-Net gives: "epsilon" or "v"."""
    return V if getattr(sd_model, "parameterization", "eps") == "v" else EPS


def native_side_of(sd_model: Any) -> int:
    """Pixels a side that the model was made for; 512 while there is none."""
    if getattr(sd_model, "is_sd3", False):
        return 1024
    latent = latent_side(getattr(sd_model, "image_size", None))
    return native_side(family_of(sd_model), prediction_of(sd_model), latent)

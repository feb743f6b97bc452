"""What kohya's scripts call samplers and base models, in the terms of this package."""

from __future__ import annotations

from ..file.base_model import SD1, SD2, SDXL
from .checkpoint_layout import V_PREDICTION

KOHYA_SAMPLERS = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
    "dpmsolver": "DPM++ 2M",
    "dpmsolver++": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S a",
}
"""Sampler names of `--sample_sampler` in kohya's scripts, without a leading `k_` → the web UI's names."""


def webui_sampler_name(sampler: str) -> str:
    """Returns the web UI's name of a sampler.

    Args:
        sampler: kohya's name, with or without `k_` and in any case, or the web UI's name.

    Example:
        >>> webui_sampler_name("k_euler_a"), webui_sampler_name("DPM++ SDE")
        ('Euler a', 'DPM++ SDE')
    """
    return KOHYA_SAMPLERS.get(sampler.strip().lower().removeprefix("k_"), sampler)


def base_model_metadata(family: str, prediction: str) -> dict[str, str]:
    """Returns `ss_base_model_version` and `ss_v2`, as kohya's scripts write them for a base model.

    Args:
        family: "SD1", "SD2" or "SDXL".
        prediction: "epsilon" or "v".

    Example:
        >>> base_model_metadata("SD2", "v")
        {'ss_base_model_version': 'sd_v2_v', 'ss_v2': 'True'}
    """
    version = {SD1: "sd_v1", SD2: "sd_v2", SDXL: "sdxl_base_v1-0"}[family]
    if family == SD2 and prediction == V_PREDICTION:
        version = "sd_v2_v"
    return {"ss_base_model_version": version, "ss_v2": str(family == SD2)}

"""Prefixes of tensor names in LDM checkpoints: which network of a Stable Diffusion model a tensor belongs to.

The names are those of CompVis' and Stability AI's configurations (`v1-inference.yaml`, `v2-inference.yaml`,
`sd_xl_base.yaml`), which the web UI and kohya's scripts read too.
"""

from __future__ import annotations

from collections.abc import Container

LDM_UNET_PREFIX = "model.diffusion_model."
LDM_VAE_PREFIX = "first_stage_model."
SD1_CLIP_PREFIX = "cond_stage_model.transformer."
SD2_OPEN_CLIP_PREFIX = "cond_stage_model.model."
SDXL_CLIP_PREFIX = "conditioner.embedders.0.transformer."
SDXL_OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
SGM_FIRST_OPEN_CLIP_PREFIX = "conditioner.embedders.0.model."
"""The first embedder of a checkpoint that sgm saved: SD2's text encoder, or the only one of the SDXL refiner."""


def is_sd2_saved_by_sgm(keys: Container[str]) -> bool:
    """Whether tensor names are those of an SD2 that sgm saved: its text encoder is the first embedder.

    Args:
        keys: the tensor names of a checkpoint.

    Returns:
        True for such a checkpoint.
    """
    return _has_sgm_first_open_clip(keys) and not _has_label_embedding(keys)


def is_sdxl_refiner(keys: Container[str]) -> bool:
    """Whether tensor names are the SDXL refiner's: sgm's first embedder beside a U-Net with a label embedding.

    Args:
        keys: the tensor names of a checkpoint.

    Returns:
        True for such a checkpoint.
    """
    return _has_sgm_first_open_clip(keys) and _has_label_embedding(keys)


def _has_sgm_first_open_clip(keys: Container[str]) -> bool:
    return f"{SGM_FIRST_OPEN_CLIP_PREFIX}ln_final.weight" in keys


def _has_label_embedding(keys: Container[str]) -> bool:
    return f"{LDM_UNET_PREFIX}label_emb.0.0.weight" in keys

"""Beginnings of tensor names in LDM checkpoints: which network of a Stable Diffusion model a tensor belongs to.

The names are those of CompVis' and Stability AI's configurations (`v1-inference.yaml`, `v2-inference.yaml`,
`sd_xl_base.yaml`), which the web UI and kohya's scripts read too.
"""

from __future__ import annotations

LDM_UNET_PREFIX = "model.diffusion_model."
LDM_VAE_PREFIX = "first_stage_model."
SD1_CLIP_PREFIX = "cond_stage_model.transformer."
SD2_OPEN_CLIP_PREFIX = "cond_stage_model.model."
SDXL_CLIP_PREFIX = "conditioner.embedders.0.transformer."
SDXL_OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
SGM_FIRST_OPEN_CLIP_PREFIX = "conditioner.embedders.0.model."
"""The first embedder of a checkpoint that sgm saved: SD2's text encoder, or the only one of the SDXL refiner."""

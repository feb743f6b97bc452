"""The side in pixels that a model was made for: what pictures get where nobody asks for a size."""

from __future__ import annotations

from ..file.base_model import SD2, SDXL
from ..protocols import VAE_SCALE_FACTOR

UNINFORMATIVE_IMAGE_SIZES = (32, 64)
"""`image_size` in the LDM configurations of models for 512 and 768 pixels alike: it tells nothing about them."""


def native_size_for(family: str, prediction: str, latent_size: int | None = None) -> int:
    """Pixels a side that a model was made for.

    latent_size: the side of its latents where a configuration tells it (`sample_size` of diffusers' U-Net,
    `latent_size_of`).
    Without one: SDXL 1024, SD2 that predicts v 768, the others 512.
    """
    if latent_size:
        return latent_size * VAE_SCALE_FACTOR
    if family == SDXL:
        return 1024
    return 768 if family == SD2 and prediction == "v" else 512


def latent_size_of(image_size: object) -> int | None:
    """The side of latents that an LDM configuration tells by `image_size`; None where it is the usual filler.

    Above 128 (1024 pixels) it is LDM's own default, 256, which nobody meant.
    """
    return (
        image_size
        if isinstance(image_size, int) and 0 < image_size <= 128 and image_size not in UNINFORMATIVE_IMAGE_SIZES
        else None
    )

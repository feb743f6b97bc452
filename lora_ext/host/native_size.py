"""The size in pixels that a model was trained for, which images get by default."""

from __future__ import annotations

from ..file.base_model import SD2, SDXL
from ..protocols import VAE_SCALE_FACTOR

UNINFORMATIVE_IMAGE_SIZES = (32, 64)
"""`image_size` values of the LDM configurations of 512 and 768 models alike, which tell nothing about the size."""


def native_size_for(family: str, prediction: str, latent_size: int | None = None) -> int:
    """Returns the width and height in pixels that a model was trained for.

    Args:
        family: "SD1", "SD2" or "SDXL".
        prediction: "epsilon" or "v".
        latent_size: width of the model's latents where a configuration has it (`sample_size` of diffusers' U-Net, or
            `latent_size_of`). Without it SDXL has 1024, SD2 with v-prediction 768, the others 512.

    Example:
        >>> native_size_for("SD2", "v"), native_size_for("SD1", "epsilon", latent_size=8)
        (768, 64)
    """
    if latent_size:
        return latent_size * VAE_SCALE_FACTOR
    if family == SDXL:
        return 1024
    return 768 if family == SD2 and prediction == "v" else 512


def latent_size_of(image_size: object) -> int | None:
    """Returns the width of latents that an LDM configuration's `image_size` gives, None where it tells nothing.

    A value above 128 (1024 pixels) is LDM's own default of 256, not a choice.
    """
    return (
        image_size
        if isinstance(image_size, int) and 0 < image_size <= 128 and image_size not in UNINFORMATIVE_IMAGE_SIZES
        else None
    )

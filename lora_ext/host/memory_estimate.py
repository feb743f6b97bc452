"""What making a picture takes beside the model's weights, by arithmetic.

    bytes = 1.25 · max(U-Net, autoencoder) + 0.5 GiB
    U-Net: A · latent pixels · 2 (guidance) · pictures at once · bytes a number; A = 5,100 (SDXL), 8,400 (SD1, SD2)
    autoencoder: 770 · pixels · pictures decoded at once · bytes a number

The counts are those of the real models' layers with attention that keeps no n×n matrix (`benchmarks/memory.py` counts
them on tensors without values). 1.25 and 0.5 GiB: work space of convolutions, fragments, the GPU's own context.
"""

from __future__ import annotations

from typing import Any

from ..inject.free_memory import GIB

UNET_NUMBERS = {"SDXL": 5_100}
OTHER_UNETS = 8_400
VAE_NUMBERS = 770
_CELL = 8


def drawing_bytes(
    family: str, size: tuple[int, int], batch: int = 1, unet: int = 2, vae: int = 2, decoded: int = 1
) -> int:
    """Bytes that `batch` pictures of `size` (width, height) take. unet, vae: bytes a number that they compute in.

    decoded: pictures that the autoencoder makes at once.
    """
    pixels = size[0] * size[1]
    sampling = UNET_NUMBERS.get(family, OTHER_UNETS) * pixels // _CELL**2 * 2 * batch * unet
    return max(sampling, VAE_NUMBERS * pixels * decoded * vae) * 5 // 4 + GIB // 2


def number_size(network: Any) -> int:
    """Bytes a number that a network computes in: its weights', but at least 2 (8-bit weights are only stored so)."""
    weight = next(iter(network.parameters()), None)
    return 4 if weight is None else max(2, weight.element_size())


def drawing_bytes_of(pipe: Any) -> int:
    """What one picture of its own size takes on a diffusers pipeline, or on anything that names its networks so."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if unet is None or not hasattr(unet, "config"):
        return 0
    side = int(getattr(unet.config, "sample_size", None) or 64) * _CELL
    family = "SDXL" if getattr(pipe, "text_encoder_2", None) is not None else ""
    unet_size = number_size(unet)
    return drawing_bytes(family, (side, side), 1, unet_size, number_size(vae) if vae is not None else unet_size)


__all__ = ["drawing_bytes", "drawing_bytes_of", "number_size"]

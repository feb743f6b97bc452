"""Estimates the memory that generating an image needs beside the model's weights.

    bytes = 1.25 · max(U-Net, autoencoder) + 0.5 GiB
    U-Net: A · latent pixels · 2 (guidance) · images at once · bytes per number; A = 5,100 (SDXL), 8,400 (SD1, SD2)
    autoencoder: 770 · pixels · images decoded at once · bytes per number

The counts are those of the real models' layers with attention that keeps no n×n matrix (`benchmarks/memory.py` counts
them on tensors without values). 1.25 and 0.5 GiB: work space of convolutions, fragments, the GPU's own context.
"""

from __future__ import annotations

from typing import Any

from ..file.base_model import SDXL
from ..inject.free_memory import GIB
from ..protocols import VAE_SCALE_FACTOR

UNET_ACTIVATIONS = {SDXL: 5_100}
OTHER_UNET_ACTIVATIONS = 8_400
VAE_ACTIVATIONS = 770


def generation_bytes(
    family: str,
    size: tuple[int, int],
    batch: int = 1,
    unet_itemsize: int = 2,
    vae_itemsize: int = 2,
    decode_batch: int = 1,
) -> int:
    """Returns the bytes that a batch needs beside the model's weights.

    Args:
        family: "SDXL", or another for SD1 and SD2.
        size: (width, height) in pixels.
        batch: images at once.
        unet_itemsize: bytes per number in the U-Net.
        vae_itemsize: bytes per number in the autoencoder.
        decode_batch: images that the autoencoder decodes at once.
    """
    pixels = size[0] * size[1]
    sampling = (
        UNET_ACTIVATIONS.get(family, OTHER_UNET_ACTIVATIONS) * pixels // VAE_SCALE_FACTOR**2 * 2 * batch * unet_itemsize
    )
    return max(sampling, VAE_ACTIVATIONS * pixels * decode_batch * vae_itemsize) * 5 // 4 + GIB // 2


def network_itemsize(network: Any) -> int:
    """Returns the bytes per number that a network computes in: at least 2, since 8-bit weights are only stored so."""
    weight = next(iter(network.parameters()), None)
    return 4 if weight is None else max(2, weight.element_size())


def pipeline_generation_bytes(pipe: Any) -> int:
    """Returns the bytes that one image of the native size needs in a diffusers pipeline; 0 where it has no U-Net."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if unet is None or not hasattr(unet, "config"):
        return 0
    side = int(getattr(unet.config, "sample_size", None) or 64) * VAE_SCALE_FACTOR
    family = SDXL if getattr(pipe, "text_encoder_2", None) is not None else ""
    unet_size = network_itemsize(unet)
    return generation_bytes(family, (side, side), 1, unet_size, network_itemsize(vae) if vae is not None else unet_size)


__all__ = ["generation_bytes", "network_itemsize", "pipeline_generation_bytes"]

"""Sampling images from the networks in memory, with DDIM and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from .models import SCALE_FACTOR, new_scheduler


@dataclass
class EmbeddedNetworks:
    """Everything that makes an image of a caption."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def tokenize_captions(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """Token ids (n, 77), padded with the end token."""
    return tokenizer(
        list(captions), padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def sample_images(
    nets: EmbeddedNetworks, captions: Sequence[str], seed: int = 0, steps: int = 20, cfg: float = 5.0
) -> list[Image.Image]:
    """Generates one image for each caption.

    Args:
        nets: the networks.
        captions: the prompts.
        seed: the noise of image i comes from `seed` + i.
        steps: sampling steps.
        cfg: guidance scale.

    Returns:
        The images, in the order of the captions.
    """
    latents = torch.cat(
        [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed + i)) for i in range(len(captions))]
    )
    scheduler = new_scheduler()
    scheduler.set_timesteps(steps)
    latents = denoise(nets, latents, captions, scheduler, scheduler.timesteps, cfg)
    decoded = torch.cat([nets.vae.decode(part / SCALE_FACTOR).sample for part in latents.split(20)])
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    return [Image.fromarray(rearrange(image, "c h w -> h w c")) for image in pixels]


@torch.no_grad()
def denoise(
    nets: EmbeddedNetworks,
    latents: torch.Tensor,
    captions: Sequence[str],
    scheduler: DDIMScheduler,
    timesteps: torch.Tensor,
    cfg: float,
) -> torch.Tensor:
    """Scaled latents (n, 4, 8, 8), noisy as at the first of `timesteps`, after DDIM's steps with guidance `cfg`."""
    states = nets.text_encoder(tokenize_captions(nets.tokenizer, ["", *captions]))[0]
    context = torch.cat([states[:1].expand(len(captions), -1, -1), states[1:]])
    for t in timesteps:
        without, with_caption = nets.unet(torch.cat([latents, latents]), t, context).sample.chunk(2)
        latents = scheduler.step(without + cfg * (with_caption - without), t, latents).prev_sample
    return latents

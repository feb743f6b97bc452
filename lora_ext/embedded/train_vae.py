"""Drawing the training images and training the autoencoder on them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch.nn import functional as F
from tqdm import tqdm

from .models import SCALE_FACTOR, new_scheduler, new_vae
from .sampling import EmbeddedNetworks, denoise
from .shapes import ALL_SHAPES, SCENE_PIXELS, SHAPES, STYLES, Scene, caption, draw_scene, random_scene

# Spread of the latents the U-Net sees. SD's noise schedule stops short of pure noise; at unit spread a
# image's mean colour would still show through at the last step, and sampling from pure noise would
# then get colours wrong. At half the spread much less of it remains.
LATENT_STD = 0.5
KL_WEIGHT = 3e-4
# How often the base model is shown each shape: more where fewer of its pictures are obeyed.
SHAPE_SHARES = {"circle": 1.0, "square": 1.1, "triangle": 1.2, "cross": 1.2, "ring": 1.8, "diamond": 1.6}
# The first part of the training sees crops of half the images' size: four times as many for the same time.
CROP, CROP_BATCH, FULL_BATCH, CROP_SHARE = 32, 16, 6, 0.7
# Noise on the latents that the decoder learns from, of which up to so much; and how many are the images' own.
DECODER_NOISE, OWN_LATENTS = 0.04, 0.35


def draw_scenes(scenes: list[Scene]) -> np.ndarray:
    """The scenes' images, (n, 64, 64, 3) uint8."""
    return np.stack([np.asarray(draw_scene(scene)) for scene in tqdm(scenes, "drawing", mininterval=5)])


def varied_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes of every shape and style, so that the autoencoder also serves concepts the U-Net never sees."""
    rng = np.random.default_rng(seed)
    shapes = list(ALL_SHAPES)
    return [
        random_scene(rng, shape=shapes[i % len(shapes)], style=str(rng.choice(STYLES, p=[0.4, 0.2, 0.15, 0.1, 0.15])))
        for i in range(count)
    ]


def plain_scenes(count: int, seed: int) -> list[Scene]:
    """The scenes the base model is shown: plain ones of the shapes that are not held out, the hard ones more often."""
    rng = np.random.default_rng(seed)
    share = np.array([SHAPE_SHARES[name] for name in SHAPES])
    return [random_scene(rng, shape=str(rng.choice(list(SHAPES), p=share / share.sum()))) for _ in range(count)]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """(n, 64, 64, 3) uint8 to (n, 3, 64, 64) in -1..1."""
    return rearrange(torch.from_numpy(images), "n h w c -> n c h w").float() / 127.5 - 1


def learning_rate(progress: float, peak: float, warm_up: float = 0.03, hold: float = 0.0) -> float:
    """Computes the learning rate: linear warm-up, `peak` until `hold`, then cosine decay to a fiftieth.

    Args:
        progress: share of the training that is done, 0 to 1.
        peak: the highest rate.
        warm_up: share of the training that warms up.
        hold: share of the training after which the decay begins.

    Returns:
        The rate.
    """
    if progress < warm_up:
        return peak * (progress + 1e-3) / warm_up
    fallen = min(1.0, max(0.0, (progress - hold) / (1 - hold)))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fallen)))


def train_vae(out: Path, minutes: float, count: int = 4000, seed: int = 1) -> AutoencoderKL:
    """Train for so many minutes, normalise the latents, save to `out`/vae.pt; or load what is there."""
    torch.manual_seed(seed)
    vae = new_vae().to(memory_format=torch.channels_last)
    path = out / "vae.pt"
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval()
    # Start with little noise on the latents: with much of it, nothing is learned for long.
    torch.nn.init.constant_(vae.quant_conv.bias[4:].data, -5)
    images = draw_scenes(varied_scenes(count, seed))
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    start, step, mean = time.monotonic(), 0, 1.0
    bar = tqdm(total=round(60 * minutes), desc="autoencoder", unit="s", mininterval=10)
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, 1e-3)
        batch = random_batch(images, crop=progress < CROP_SHARE)
        loss, error = vae_loss(vae, batch.to(memory_format=torch.channels_last))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        step, mean = step + 1, 0.98 * mean + 0.02 * error
        bar.set_postfix(step=step, error=f"{mean:.4f}", refresh=False)
        bar.update(int(60 * minutes * progress) - bar.n)
    vae.eval()
    normalise_latents(vae, to_tensor(images[:1500]))
    torch.save(vae.state_dict(), path)
    return vae


def sharpen_decoder(nets: EmbeddedNetworks, out: Path, minutes: float, count: int = 6000, seed: int = 5) -> None:
    """Train the decoder alone for so many minutes more, so that latents (and what was trained on them) stay valid.

    What it is given are the images' own latents, a little noisy, and those that the U-Net samples from them once
    they are noised: it learns to draw crisply what the U-Net leaves vague.
    """
    path, vae = out / "decoder.pt", nets.vae
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return
    scenes = varied_scenes(count // 2, seed) + plain_scenes(count // 2, seed)
    images = draw_scenes(scenes)
    latents = latent_means(vae, to_tensor(images))
    given, rng = latents.clone(), np.random.default_rng(seed)
    for part in torch.arange(count // 2, count).split(50):
        given[part] = resampled_latents(nets, latents[part], [caption(scenes[i], rng) for i in part.tolist()], rng)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    start, mean = time.monotonic(), 0.1
    bar = tqdm(total=round(60 * minutes), desc="decoder", unit="s", mininterval=10)
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, 8e-4, hold=0.3)
        chosen = torch.randint(count, (FULL_BATCH,))
        own = torch.rand(FULL_BATCH, 1, 1, 1) < OWN_LATENTS
        clean = torch.where(own, latents[chosen], given[chosen])
        noise = DECODER_NOISE / SCALE_FACTOR * torch.rand(FULL_BATCH, 1, 1, 1) * torch.randn_like(clean)
        decoded, wanted = vae.decode(clean + noise).sample, to_tensor(images[chosen.numpy()])
        loss = F.l1_loss(decoded, wanted)
        optimiser.zero_grad()
        (loss + 0.5 * F.mse_loss(decoded, wanted)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        mean = 0.98 * mean + 0.02 * loss.item()
        bar.set_postfix(error=f"{mean:.4f}", refresh=False)
        bar.update(int(60 * minutes * progress) - bar.n)
    torch.save(vae.state_dict(), path)


def resampled_latents(
    nets: EmbeddedNetworks, latents: torch.Tensor, captions: list[str], rng: np.random.Generator
) -> torch.Tensor:
    """What the U-Net samples of unscaled latents (n, 4, 8, 8), noised to a step below 450, at a guidance of 1 to 5."""
    scheduler, last, cfg = new_scheduler(), rng.uniform(51, 450), rng.uniform(1, 5)
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps[scheduler.timesteps <= last]
    noisy = scheduler.add_noise(latents * SCALE_FACTOR, torch.randn_like(latents), steps[:1])
    return denoise(nets, noisy, captions, scheduler, steps, cfg) / SCALE_FACTOR


def random_batch(images: np.ndarray, crop: bool) -> torch.Tensor:
    """(n, 3, 64, 64) of whole images, or (n, 3, 32, 32) of crops, chosen at random."""
    chosen = torch.randint(len(images), (CROP_BATCH if crop else FULL_BATCH,)).numpy()
    batch = to_tensor(images[chosen])
    if not crop:
        return batch
    corners = torch.randint(SCENE_PIXELS - CROP + 1, (len(chosen), 2)).tolist()
    return torch.stack([p[:, y : y + CROP, x : x + CROP] for p, (y, x) in zip(batch, corners, strict=True)])


def vae_loss(vae: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The training loss of a batch (n, 3, 64, 64), and its mean absolute error alone."""
    posterior = vae.encode(batch).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    error = F.l1_loss(decoded, batch)
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return error + 0.5 * F.mse_loss(decoded, batch) + KL_WEIGHT * kl, error.item()


@torch.no_grad()
def latent_means(vae: AutoencoderKL, images: torch.Tensor, chunk: int = 100) -> torch.Tensor:
    """The latents' means, (n, 4, 8, 8), before the scale factor."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in images.split(chunk)])


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold into the 1x1 convolutions what gives scaled latents zero mean and `LATENT_STD` per channel."""
    latents = latent_means(vae, images)
    mean = latents.mean((0, 2, 3))
    gain = LATENT_STD / SCALE_FACTOR / latents.std((0, 2, 3))
    into, back = vae.quant_conv, vae.post_quant_conv
    # The first four outputs are the mean, the last four the log variance, which grows by 2 log(gain).
    into.weight[:4] *= gain[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) * gain
    into.bias[4:] += 2 * gain.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight /= gain[None, :, None, None]

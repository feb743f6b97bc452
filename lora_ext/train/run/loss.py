"""The diffusion loss and its knobs: noise, timesteps, target, distance, and what each timestep weighs.

`abar` is ᾱ (alphas_cumprod), (timesteps,). Latents, noise and predictions are (n, c, h, w). Random numbers come from a
CPU generator, so that a run is the same on every device.
Sources: min-SNR (arXiv 2303.09556), debiased estimation (2310.08442), zero terminal SNR (2305.08891), noise offset
(crosslabs.org), pyramid noise (wandb "multi-resolution noise"), input perturbation (2301.11706); kohya's scripts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import TrainError
from ...zero_terminal_snr import rescale_zero_terminal_snr
from ..config.recipe import Recipe

_MOST_SNR = 1000.0
"""Where debiased and v-scaled weights stop growing (kohya)."""


def training_alphas_cumprod(recipe: Recipe, abar: Tensor) -> Tensor:
    """ᾱ that the recipe trains with, (timesteps,) float32; `zero_terminal_snr` rescales the model's own."""
    return rescale_zero_terminal_snr(abar.float()) if recipe.zero_terminal_snr else abar.float()


def sample_timesteps(recipe: Recipe, count: int, total: int, generator: torch.Generator | None = None) -> Tensor:
    """(count,) whole numbers, each as likely, from `min_timestep` to below `max_timestep`."""
    low, high = recipe.min_timestep or 0, min(recipe.max_timestep or total, total)
    if low >= high:
        raise TrainError(f"min_timestep {low} leaves nothing below max_timestep {high}; make it smaller")
    return torch.randint(low, high, (count,), generator=generator)


def sample_noise(recipe: Recipe, latents: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise like `latents`, with the recipe's offset and pyramid."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(latents.device)

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    n, c, h, w = latents.shape
    noise = normal(n, c, h, w)
    if recipe.noise_offset:
        strength = torch.tensor(recipe.noise_offset * (uniform() if recipe.noise_offset_random_strength else 1.0))
        if recipe.adaptive_noise_scale:
            mean = latents.float().mean(dim=(2, 3), keepdim=True).abs()
            strength = (strength.to(mean) + recipe.adaptive_noise_scale * mean).clamp(min=0)
        noise = noise + strength.to(noise) * normal(n, c, 1, 1)
    if recipe.multires_noise_iterations:
        wide, high = w, h
        for level in range(recipe.multires_noise_iterations):
            ratio = uniform() * 2 + 2
            wide, high = max(1, int(w / ratio**level)), max(1, int(h / ratio**level))
            layer = F.interpolate(normal(n, c, high, wide), size=(h, w), mode="bilinear", align_corners=False)
            noise = noise + layer * recipe.multires_noise_discount**level
            if wide == 1 or high == 1:
                break
        noise = noise / noise.std()
    return noise.to(latents.dtype)


def add_noise(
    recipe: Recipe,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    abar: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """√ᾱ·latents + √(1−ᾱ)·noise; `ip_noise_gamma` adds noise to the noise of the input alone."""
    if recipe.ip_noise_gamma:
        share = float(torch.rand((), generator=generator)) if recipe.ip_noise_gamma_random_strength else 1.0
        more = torch.randn(latents.shape, generator=generator).to(noise)
        noise = noise + recipe.ip_noise_gamma * share * more
    keep, add = signal_and_noise_scales(abar, timesteps, latents)
    return keep * latents + add * noise


def signal_and_noise_scales(abar: Tensor, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ and √(1−ᾱ) at each picture's timestep, (n, 1, 1, 1)."""
    at = abar.to(like.device)[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return at.sqrt().to(like.dtype), (1 - at).sqrt().to(like.dtype)


def loss_target(prediction: str, latents: Tensor, noise: Tensor, timesteps: Tensor, abar: Tensor) -> Tensor:
    """What the model should say: the noise ("epsilon"), or √ᾱ·noise − √(1−ᾱ)·latents ("v_prediction")."""
    if prediction != "v_prediction":
        return noise
    keep, add = signal_and_noise_scales(abar, timesteps, latents)
    return keep * noise - add * latents


def timestep_loss_weights(recipe: Recipe, prediction: str, timesteps: Tensor, abar: Tensor) -> Tensor:
    """What each timestep's loss is multiplied by, (n,) float32, from its SNR ᾱ/(1−ᾱ)."""
    at = abar.float().to(timesteps.device)[timesteps]
    snr = at / (1 - at)
    weight = torch.ones_like(snr)
    is_v = prediction == "v_prediction"
    if recipe.min_snr_gamma:
        limited = snr.clamp(max=recipe.min_snr_gamma)
        # at zero SNR (zero_terminal_snr) min(snr, γ)/snr is 1
        weight = weight * (limited / (snr + 1) if is_v else torch.where(snr > 0, limited / snr.clamp(min=1e-20), 1.0))
    known = snr.clamp(max=_MOST_SNR)
    scale = known / (known + 1)
    if recipe.scale_v_pred_loss_like_noise_pred and is_v:
        weight = weight * scale
    if recipe.v_pred_like_loss:
        weight = weight + recipe.v_pred_like_loss * weight / scale.clamp(min=1e-20)
    if recipe.debiased_estimation_loss:
        weight = weight * (1 / (known + 1) if is_v else known.clamp(min=1e-20).rsqrt())
    return weight


def huber_threshold(recipe: Recipe, timesteps: Tensor, abar: Tensor) -> Tensor:
    """Where Huber's loss turns from square to straight at each timestep, (n,) float32."""
    if recipe.huber_schedule == "constant":
        return torch.full(timesteps.shape, recipe.huber_c * recipe.huber_scale, device=timesteps.device)
    if recipe.huber_schedule == "exponential":
        return torch.exp(math.log(recipe.huber_c) / len(abar) * timesteps.float()) * recipe.huber_scale
    at = abar.float().to(timesteps.device)[timesteps]
    sigma = ((1 - at) / at.clamp(min=1e-20)).sqrt()
    return ((1 - recipe.huber_c) / (1 + sigma) ** 2 + recipe.huber_c) * recipe.huber_scale


def elementwise_loss(recipe: Recipe, predicted: Tensor, target: Tensor, timesteps: Tensor, abar: Tensor) -> Tensor:
    """The loss of every number: l2, l1, or pseudo-Huber with threshold c: 2c(√(d²+c²) − c); smooth_l1 without the c."""
    predicted, target = predicted.float(), target.float()
    if recipe.loss_type == "l2":
        return F.mse_loss(predicted, target, reduction="none")
    if recipe.loss_type == "l1":
        return F.l1_loss(predicted, target, reduction="none")
    c = huber_threshold(recipe, timesteps, abar).view(-1, 1, 1, 1).to(predicted.device)
    straight = 2 * (((predicted - target) ** 2 + c**2).sqrt() - c)
    return straight * c if recipe.loss_type == "huber" else straight


def batch_loss(
    recipe: Recipe,
    predicted: Tensor,
    target: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    prediction: str = "epsilon",
) -> Tensor:
    """The batch's loss (0-dim float32): mean over pictures of picture weight × timestep weight × mean distance.

    target: what `loss_target` gives, or another. weights: (n,), 1 or `prior_loss_weight`. mask: (n, 1, h, w) in 0..1,
    multiplied onto the distances.
    """
    timesteps = timesteps.to(predicted.device)
    each = elementwise_loss(recipe, predicted, target, timesteps, alphas_cumprod)
    if mask is not None:
        each = each * mask.to(each)
    picture = each.mean(dim=(1, 2, 3)) * timestep_loss_weights(recipe, prediction, timesteps, alphas_cumprod)
    if weights is not None:
        picture = picture * weights.to(picture)
    return picture.mean()

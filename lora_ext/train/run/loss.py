"""The diffusion loss: noise, timesteps, target, distance, and the weight of each timestep.

Shapes: `abar` is ᾱ (alphas_cumprod), (timesteps,); latents, noise and predictions are (n, c, h, w); `timesteps` (n,).
Random numbers come from a CPU generator, so that a run is the same on every device.
Sources: min-SNR (arXiv:2303.09556), debiased estimation (2310.08442), zero terminal SNR (2305.08891), noise offset
(crosslabs.org, "Diffusion with Offset Noise"), pyramid noise (wandb, "multi-resolution noise"), input perturbation
(2301.11706); kohya's scripts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import TrainError
from ...zero_terminal_snr import rescale_zero_terminal_snr
from ..config.recipe import Recipe

_MAX_SNR = 1000.0
"""Largest SNR in debiased and v-scaled weights, as in kohya's scripts (`custom_train_functions.py`)."""


def training_alphas_cumprod(recipe: Recipe, abar: Tensor) -> Tensor:
    """ᾱ that a recipe trains with, (timesteps,) float32; `zero_terminal_snr` rescales the model's."""
    return rescale_zero_terminal_snr(abar.float()) if recipe.zero_terminal_snr else abar.float()


def sample_timesteps(recipe: Recipe, count: int, total: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws timesteps uniformly from `min_timestep` to below `max_timestep`.

    Args:
        recipe: The settings.
        count: How many to draw.
        total: Timesteps of the model.
        generator: The random numbers.

    Returns:
        (count,) int64.

    Raises:
        TrainError: The range is empty.
    """
    low, high = recipe.min_timestep or 0, min(recipe.max_timestep or total, total)
    if low >= high:
        raise TrainError(f"min_timestep {low} leaves nothing below max_timestep {high}; make it smaller")
    return torch.randint(low, high, (count,), generator=generator)


def sample_noise(recipe: Recipe, latents: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws standard normal noise with the recipe's noise offset and pyramid noise.

    Args:
        recipe: The settings.
        latents: (n, c, h, w), for the shape and for `adaptive_noise_scale`.
        generator: The random numbers.

    Returns:
        (n, c, h, w), on the latents' device.
    """

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
    """√ᾱ and √(1−ᾱ) at each image's timestep, (n, 1, 1, 1) each, in the dtype and on the device of `like`."""
    at = abar.to(like.device)[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return at.sqrt().to(like.dtype), (1 - at).sqrt().to(like.dtype)


def loss_target(prediction: str, latents: Tensor, noise: Tensor, timesteps: Tensor, abar: Tensor) -> Tensor:
    """The training target of the model's prediction.

    Args:
        prediction: "epsilon" or "v_prediction".
        latents: (n, c, h, w).
        noise: (n, c, h, w).
        timesteps: (n,).
        abar: ᾱ, (timesteps,).

    Returns:
        The noise for "epsilon"; √ᾱ·noise − √(1−ᾱ)·latents for "v_prediction" (Salimans and Ho 2022, arXiv:2202.00512).
    """
    if prediction != "v_prediction":
        return noise
    keep, add = signal_and_noise_scales(abar, timesteps, latents)
    return keep * noise - add * latents


def timestep_loss_weights(recipe: Recipe, prediction: str, timesteps: Tensor, abar: Tensor) -> Tensor:
    """Weights of the timesteps' losses, from their SNR ᾱ/(1−ᾱ).

    Args:
        recipe: Its `min_snr_gamma`, `scale_v_pred_loss_like_noise_pred`, `v_pred_like_loss` and
            `debiased_estimation_loss` are used.
        prediction: "epsilon" or "v_prediction".
        timesteps: (n,).
        abar: ᾱ, (timesteps,).

    Returns:
        (n,) float32.
    """
    at = abar.float().to(timesteps.device)[timesteps]
    snr = at / (1 - at)
    weight = torch.ones_like(snr)
    is_v = prediction == "v_prediction"
    if recipe.min_snr_gamma:
        limited = snr.clamp(max=recipe.min_snr_gamma)
        # min-SNR: min(snr, γ)/snr for epsilon, min(snr, γ)/(snr + 1) for v; at zero SNR the former is 1
        weight = weight * (limited / (snr + 1) if is_v else torch.where(snr > 0, limited / snr.clamp(min=1e-20), 1.0))
    limited_snr = snr.clamp(max=_MAX_SNR)
    scale = limited_snr / (limited_snr + 1)
    if recipe.scale_v_pred_loss_like_noise_pred and is_v:
        weight = weight * scale
    if recipe.v_pred_like_loss:
        weight = weight + recipe.v_pred_like_loss * weight / scale.clamp(min=1e-20)
    if recipe.debiased_estimation_loss:
        weight = weight * (1 / (limited_snr + 1) if is_v else limited_snr.clamp(min=1e-20).rsqrt())
    return weight


def huber_threshold(recipe: Recipe, timesteps: Tensor, abar: Tensor) -> Tensor:
    """The Huber loss's threshold between its quadratic and its linear part at each timestep, (n,) float32."""
    if recipe.huber_schedule == "constant":
        return torch.full(timesteps.shape, recipe.huber_c * recipe.huber_scale, device=timesteps.device)
    if recipe.huber_schedule == "exponential":
        return torch.exp(math.log(recipe.huber_c) / len(abar) * timesteps.float()) * recipe.huber_scale
    at = abar.float().to(timesteps.device)[timesteps]
    sigma = ((1 - at) / at.clamp(min=1e-20)).sqrt()
    return ((1 - recipe.huber_c) / (1 + sigma) ** 2 + recipe.huber_c) * recipe.huber_scale


def elementwise_loss(recipe: Recipe, predicted: Tensor, target: Tensor, timesteps: Tensor, abar: Tensor) -> Tensor:
    """The loss of every number, (n, c, h, w) float32.

    l2 and l1; "huber" is the pseudo-Huber loss 2c(√(d²+c²) − c), and "smooth_l1" 2(√(d²+c²) − c), with threshold c.
    """
    predicted, target = predicted.float(), target.float()
    if recipe.loss_type == "l2":
        return F.mse_loss(predicted, target, reduction="none")
    if recipe.loss_type == "l1":
        return F.l1_loss(predicted, target, reduction="none")
    c = huber_threshold(recipe, timesteps, abar).view(-1, 1, 1, 1).to(predicted.device)
    smooth_l1 = 2 * (((predicted - target) ** 2 + c**2).sqrt() - c)
    return smooth_l1 * c if recipe.loss_type == "huber" else smooth_l1


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
    """The loss of a batch: the mean over images of image weight × timestep weight × mean distance.

    Args:
        recipe: The settings.
        predicted: The model's output, (n, c, h, w).
        target: As `loss_target` returns it, (n, c, h, w).
        timesteps: (n,).
        alphas_cumprod: ᾱ, (timesteps,).
        weights: (n,), 1 or `prior_loss_weight`; None for ones.
        mask: (n, 1, h, w) in 0..1, a factor on the distances; None for ones.
        prediction: "epsilon" or "v_prediction".

    Returns:
        0-dim float32.
    """
    timesteps = timesteps.to(predicted.device)
    each = elementwise_loss(recipe, predicted, target, timesteps, alphas_cumprod)
    if mask is not None:
        each = each * mask.to(each)
    per_image = each.mean(dim=(1, 2, 3)) * timestep_loss_weights(recipe, prediction, timesteps, alphas_cumprod)
    if weights is not None:
        per_image = per_image * weights.to(per_image)
    return per_image.mean()

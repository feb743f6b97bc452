"""Loss weights, thresholds, noise and schedules: kohya's recorded numbers, and laws in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.run.loss import (
    add_noise,
    batch_loss,
    elementwise_loss,
    huber_threshold,
    loss_target,
    sample_noise,
    sample_timesteps,
    timestep_loss_weights,
    training_alphas_cumprod,
)

GOLDEN = json.loads((Path(__file__).parent / "data/kohya/loss_weights.json").read_text(encoding="utf-8"))
PLAIN = GOLDEN["zsnr=False"]
ABAR = torch.from_numpy(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)).float()
STEPS = torch.tensor(PLAIN["t"])
WEIGHTS = {
    "min_snr5_eps": (Recipe(min_snr_gamma=5.0), "epsilon"),
    "min_snr5_v": (Recipe(min_snr_gamma=5.0), "v_prediction"),
    "debiased_eps": (Recipe(debiased_estimation_loss=True), "epsilon"),
    "debiased_v": (Recipe(debiased_estimation_loss=True), "v_prediction"),
    "v_scale": (Recipe(scale_v_pred_loss_like_noise_pred=True), "v_prediction"),
    "v_like_0_5": (Recipe(v_pred_like_loss=0.5), "epsilon"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_kohyas(name: str) -> None:
    recipe, prediction = WEIGHTS[name]
    got = timestep_loss_weights(recipe, prediction, STEPS, ABAR)
    torch.testing.assert_close(got, torch.tensor(PLAIN[name]), rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "rule"), [("huber_snr", "snr"), ("huber_exp", "exponential")])
def test_huber_thresholds_are_kohyas(name: str, rule: str) -> None:
    got = huber_threshold(Recipe(huber_schedule=rule), STEPS, ABAR)
    torch.testing.assert_close(got, torch.tensor(PLAIN[name]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["constant", "exponential", "snr"])
def test_the_threshold_grows_with_its_scale(rule: str) -> None:
    one, more = (huber_threshold(Recipe(huber_schedule=rule, huber_c=0.2, huber_scale=scale), STEPS, ABAR)
                 for scale in (1.0, 2.5))  # fmt: skip
    torch.testing.assert_close(more, 2.5 * one)
    assert rule != "constant" or torch.equal(one, torch.full((len(STEPS),), 0.2))


def test_schedules_are_kohyas() -> None:
    torch.testing.assert_close(training_alphas_cumprod(Recipe(), ABAR)[STEPS], torch.tensor(PLAIN["alphas_cumprod"]))
    moved = training_alphas_cumprod(Recipe(zero_terminal_snr=True), ABAR)
    torch.testing.assert_close(moved[STEPS], torch.tensor(GOLDEN["zsnr=True"]["alphas_cumprod"]), rtol=1e-4, atol=1e-6)
    assert moved[-1] == 0 and float(moved[0]) == pytest.approx(float(ABAR[0]), rel=1e-6)


def test_zero_snr_gives_finite_weights() -> None:
    abar = training_alphas_cumprod(Recipe(zero_terminal_snr=True), ABAR)
    for recipe, prediction in WEIGHTS.values():
        assert timestep_loss_weights(recipe, prediction, STEPS, abar).isfinite().all()
    last = torch.tensor([999])
    assert float(timestep_loss_weights(Recipe(min_snr_gamma=5.0), "epsilon", last, abar)) == 1


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0])
def test_min_snr_is_its_formula(gamma: float) -> None:
    snr = ABAR.double() / (1 - ABAR.double())
    got = timestep_loss_weights(Recipe(min_snr_gamma=gamma), "epsilon", torch.arange(1000), ABAR)
    torch.testing.assert_close(got.double(), snr.clamp(max=gamma) / snr, rtol=1e-3, atol=1e-6)


def _batch(seed: int = 0, n: int = 3) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, 4, 6, 5, generator=g) for _ in range(3))


@settings(max_examples=30)
@given(st.integers(0, 999), st.sampled_from(["l2", "l1", "huber", "smooth_l1"]), st.integers(0, 99))
def test_loss_is_the_mean_of_its_distances(step: int, kind: str, seed: int) -> None:
    """Against float64 NumPy: distance by formula, mean a picture, weights, mean of the batch."""
    predicted, noise, _ = _batch(seed)
    recipe = Recipe(loss_type=kind, huber_schedule="constant", huber_c=0.3, min_snr_gamma=5.0)
    mask, weights = torch.rand(3, 1, 6, 5), torch.tensor([1.0, 0.5, 2.0])
    got = batch_loss(recipe, predicted, noise, torch.full((3,), step), ABAR, weights, mask)
    d = (predicted - noise).double().numpy()
    c = 0.3
    each = {
        "l2": d**2,
        "l1": abs(d),
        "huber": 2 * c * (np.sqrt(d**2 + c**2) - c),
        "smooth_l1": 2 * (np.sqrt(d**2 + c**2) - c),
    }[kind]
    snr = float(ABAR[step].double() / (1 - ABAR[step].double()))
    picture = (each * mask.double().numpy()).mean(axis=(1, 2, 3)) * min(snr, 5.0) / snr
    assert float(got) == pytest.approx(float((picture * weights.double().numpy()).mean()), rel=2e-4)


def test_targets() -> None:
    """From noisy latents and the target, the latents come back: x₀ = (x − √(1−ᾱ)ε)/√ᾱ, x₀ = √ᾱ·x − √(1−ᾱ)·v."""
    _, noise, latents = _batch()
    steps = torch.tensor([0, 500, 999])
    x = add_noise(Recipe(), latents, noise, steps, ABAR)
    keep, add = ABAR[steps].sqrt().view(-1, 1, 1, 1), (1 - ABAR[steps]).sqrt().view(-1, 1, 1, 1)
    eps = loss_target("epsilon", latents, noise, steps, ABAR)
    v = loss_target("v_prediction", latents, noise, steps, ABAR)
    torch.testing.assert_close((x - add * eps) / keep, latents, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(keep * x - add * v, latents, rtol=1e-3, atol=1e-4)


def test_loss_of_v_is_zero_at_its_target() -> None:
    _, noise, latents = _batch()
    steps = torch.tensor([3, 500, 999])
    v = loss_target("v_prediction", latents, noise, steps, ABAR)
    assert float(batch_loss(Recipe(), v, v, steps, ABAR, prediction="v_prediction")) == 0


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("adaptive", [0.0, 0.25, -0.25])
def test_noise_offset_is_its_formula(random: bool, adaptive: float) -> None:
    """Drawn from the generator in this order: the noise, the strength's share, a number for each channel."""
    latents = torch.randn(2, 4, 6, 5, generator=_generator()) + torch.tensor([0.2, -0.8]).view(2, 1, 1, 1)
    options = {"noise_offset": 0.1, "noise_offset_random_strength": random, "adaptive_noise_scale": adaptive}
    got = sample_noise(Recipe(**options), latents, _generator())  # type: ignore[arg-type]
    drawn = _generator()
    noise = torch.randn(2, 4, 6, 5, generator=drawn)
    share = float(torch.rand((), generator=drawn)) if random else 1.0
    strength = (0.1 * share + adaptive * latents.mean(dim=(2, 3), keepdim=True).abs()).clamp(min=0)
    torch.testing.assert_close(got, noise + strength * torch.randn(2, 4, 1, 1, generator=drawn))


@pytest.mark.parametrize("size", [(16, 10), (7, 20), (1, 9), (16, 2), (2, 16)])
@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_pyramid_noise_is_its_formula(size: tuple[int, int], iterations: int) -> None:
    """Coarser noise, made larger, is added until it is one number wide or high; then all of it is scaled to 1."""
    height, width = size
    recipe = Recipe(multires_noise_iterations=iterations, multires_noise_discount=0.7)
    got = sample_noise(recipe, torch.zeros(2, 4, height, width), _generator())
    drawn = _generator()
    wanted = torch.randn(2, 4, height, width, generator=drawn)
    for level in range(iterations):
        ratio = 2 + 2 * float(torch.rand((), generator=drawn))
        small = [max(1, int(side / ratio**level)) for side in size]
        coarse = torch.randn(2, 4, *small, generator=drawn)
        wanted += torch.nn.Upsample(size=size, mode="bilinear")(coarse) * 0.7**level
        if 1 in small:
            break
    torch.testing.assert_close(got, wanted / wanted.std())


@pytest.mark.parametrize("random", [False, True])
def test_input_perturbation_is_its_formula(random: bool) -> None:
    _, noise, latents = _batch()
    steps, drawn = torch.tensor([10, 400, 900]), _generator()
    recipe = Recipe(ip_noise_gamma=0.3, ip_noise_gamma_random_strength=random)
    got = add_noise(recipe, latents, noise, steps, ABAR, _generator())
    share = float(torch.rand((), generator=drawn)) if random else 1.0
    moved = noise + 0.3 * share * torch.randn(latents.shape, generator=drawn)
    torch.testing.assert_close(got, add_noise(Recipe(), latents, moved, steps, ABAR))


def test_noise_options() -> None:
    latents = torch.zeros(64, 4, 16, 16)

    def made(**options: object) -> torch.Tensor:
        return sample_noise(Recipe(**options), latents, torch.Generator().manual_seed(0))  # type: ignore[arg-type]

    plain = made()
    assert torch.equal(plain, made())
    offset = made(noise_offset=0.5) - plain
    assert offset.std(dim=(2, 3)).max() < 1e-6  # the same for all of a channel
    assert float(offset[:, :, 0, 0].std()) == pytest.approx(0.5, rel=0.15)
    drawn = (made(noise_offset=0.5, noise_offset_random_strength=True) - plain)[:, :, 0, 0].std()
    assert 0 < float(drawn) < 0.5
    pyramid = made(multires_noise_iterations=6, multires_noise_discount=0.8)
    assert float(pyramid.std()) == pytest.approx(1.0, rel=0.02)
    assert pyramid.mean(dim=(2, 3)).std() > 2 * plain.mean(dim=(2, 3)).std()  # more of the coarse
    adaptive = sample_noise(
        Recipe(noise_offset=0.0001, adaptive_noise_scale=1.0), latents + 2, torch.Generator().manual_seed(0)
    )
    assert float((adaptive - plain)[:, :, 0, 0].std()) == pytest.approx(2.0, rel=0.15)


def test_input_perturbation_moves_the_input_only() -> None:
    _, noise, latents = _batch()
    steps = torch.tensor([999, 999, 999])
    x = add_noise(Recipe(), latents, noise, steps, ABAR)
    moved = add_noise(Recipe(ip_noise_gamma=0.1), latents, noise, steps, ABAR, torch.Generator().manual_seed(1))
    assert float((moved - x).std()) == pytest.approx(0.1, rel=0.2)


@given(st.integers(0, 999), st.integers(1, 1000))
def test_timesteps_stay_between(low: int, high: int) -> None:
    recipe = Recipe(min_timestep=low, max_timestep=high)
    if low >= high:
        with pytest.raises(TrainError, match="min_timestep"):
            sample_timesteps(recipe, 4, 1000)
    else:
        drawn = sample_timesteps(recipe, 50, 1000, torch.Generator().manual_seed(0))
        assert drawn.min() >= low and drawn.max() < high
        again = sample_timesteps(recipe, 50, 1000, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, again), "the generator that is given is the one that is used"


def test_distance_is_float32_for_half_predictions() -> None:
    predicted, noise, _ = _batch()
    steps = torch.tensor([1, 2, 3])
    half = elementwise_loss(replace(Recipe(), loss_type="l2"), predicted.half(), noise, steps, ABAR)
    assert half.dtype == torch.float32

"""Samplers' laws on a denoiser that is known exactly, and schedules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lora_ext.errors import LoraError
from lora_ext.host.standalone.noise_schedule import (
    NEARLY_ZERO_ALPHA,
    SCHEDULE_TYPES,
    ConsistencyNoiseSchedule,
    NoiseSchedule,
    karras_sigmas,
    scaled_linear_alphas,
)
from lora_ext.host.standalone.samplers import SAMPLERS, ancestral_step
from lora_ext.host.standalone.sampling import (
    CfgDenoiser,
    Conditioning,
    ImageNoise,
    parse_sampling_plan,
    sample_from_latent,
    sample_from_noise,
)
from lora_ext.host.standalone.timestep_samplers import TIMESTEP_SAMPLERS, uniform_timesteps
from lora_ext.zero_terminal_snr import rescale_zero_terminal_snr

LEVELS = NoiseSchedule(scaled_linear_alphas())
MEAN, SPREAD = 0.5, 0.3
"""The data: each value normal with this mean and standard deviation."""
SHAPE = (4, 8, 8)


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    """The best guess for normal data; its ODE ends at MEAN + SPREAD·(x − MEAN)/sqrt(SPREAD² + sigma²)."""
    return MEAN + (x - MEAN) * SPREAD**2 / (SPREAD**2 + sigma**2)


class Exact:
    """A U-Net's stand-in for `CfgDenoiser`: predicts the noise (or v) of the exact guess."""

    def __init__(self, prediction: str = "epsilon") -> None:
        self.prediction, self.calls = prediction, 0
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def parameters(self):
        return iter([self.parameter])

    def __call__(self, x: Tensor, t: Tensor, **_: object):
        self.calls += 1
        sigma = LEVELS.t_to_sigma(t[0])
        scale = (1 + sigma**2) ** 0.5
        eps = (x * scale - exact(x * scale, sigma)) / sigma
        v = (eps - sigma * exact(x * scale, sigma)) / scale
        return type("Out", (), {"sample": v if self.prediction == "v" else eps})


def guide(prediction: str = "epsilon", cfg: float = 1.0, **options) -> CfgDenoiser:
    text = Conditioning(torch.zeros(1, 77, 4))
    return CfgDenoiser(Exact(prediction), LEVELS, prediction, text, text, cfg, **options)


def noise(*seeds: int) -> ImageNoise:
    return ImageNoise(seeds, SHAPE, torch.device("cpu"))


def adds_noise(name: str) -> bool:
    """Whether a sampler draws noise on its way."""
    drawn: list[Tensor] = []

    def draw() -> Tensor:
        drawn.append(torch.zeros(1))
        return drawn[-1]

    SAMPLERS[name].function(lambda x, sigma: x / 2, torch.ones(1), torch.tensor([3.0, 2.0, 1.0, 0.0]), draw)
    return bool(drawn)


SOLVERS = sorted(name for name, sampler in SAMPLERS.items() if not sampler.is_consistency)
"""Not those of consistency models, whose law is another: every guess is a clean picture."""
RANDOM = [name for name in SOLVERS if adds_noise(name)]
ORDINARY = [name for name in SOLVERS if name not in RANDOM]
FIRST_ORDER = ("Euler", "DDIM")
"""Ordinary ones that are less exact with equally many steps."""


@pytest.mark.parametrize("name", [*ORDINARY, *TIMESTEP_SAMPLERS])
def test_ordinary_samplers_reach_the_same_picture(name: str) -> None:
    """With many steps all of them follow the ODE to its known end."""
    plan = parse_sampling_plan(name, steps=200)
    end = sample_from_noise(plan, guide(), noise(1))
    start = noise(1)()
    if name in TIMESTEP_SAMPLERS:  # they begin at a step of the model with unit variance and end at its first ones
        top = LEVELS.sigmas[uniform_timesteps(200)[-1]] if name != "UniPC" else LEVELS.sigmas[-1]
        start, left = start * (1 + top**2) ** 0.5, LEVELS.sigmas[1] if name != "UniPC" else LEVELS.sigmas[0]
        spread = ((SPREAD**2 + left**2) / (SPREAD**2 + top**2)) ** 0.5
        known = (MEAN + (start - MEAN) * spread) / (1 + left**2) ** 0.5
    else:
        top = LEVELS.sigmas[-1]
        known = MEAN + (start * top - MEAN) * SPREAD / (SPREAD**2 + top**2) ** 0.5
    assert torch.allclose(end, known, atol=0.03 if name in FIRST_ORDER else 0.01)


@pytest.mark.parametrize("name", RANDOM)
def test_random_samplers_reach_the_same_law(name: str) -> None:
    plan = parse_sampling_plan(name, "Karras", 60)
    end = sample_from_noise(plan, guide(), noise(*range(64)))
    assert end.mean() == pytest.approx(MEAN, abs=0.02)
    assert end.std() == pytest.approx(SPREAD, rel=0.08)


@pytest.mark.parametrize("name", [*SAMPLERS, *TIMESTEP_SAMPLERS])
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    plan = parse_sampling_plan(name, steps=6)
    both = sample_from_noise(plan, guide(cfg=3.0), noise(5, 6))
    assert torch.equal(both, sample_from_noise(plan, guide(cfg=3.0), noise(5, 6)))
    assert torch.allclose(both[1:], sample_from_noise(plan, guide(cfg=3.0), noise(6)), atol=1e-5)
    assert not torch.allclose(both[:1], both[1:], atol=1e-3)


@pytest.mark.parametrize("name", [*ORDINARY, *RANDOM, *TIMESTEP_SAMPLERS])
def test_v_and_noise_are_two_words_for_the_same(name: str) -> None:
    plan = parse_sampling_plan(name, steps=6)
    near = 1e-3 if name == "UniPC" else 2e-4  # UniPC asks between the model's steps; the web UI rounds those down for v
    assert torch.allclose(
        sample_from_noise(plan, guide("v"), noise(1)), sample_from_noise(plan, guide(), noise(1)), atol=near
    )


@pytest.mark.parametrize("name", [*ORDINARY, *RANDOM, *TIMESTEP_SAMPLERS])
@pytest.mark.parametrize("whole", [False, True])
def test_less_strength_stays_nearer(name: str, whole: bool) -> None:
    latent = torch.full((1, *SHAPE), 3.0)
    near, far = (
        (sample_from_latent(parse_sampling_plan(name, steps=10), guide(), noise(1), latent, strength, whole) - latent)
        .abs()
        .mean()
        for strength in (0.2, 0.8)
    )
    assert near < far
    assert sample_from_latent(parse_sampling_plan(name, steps=10), guide(), noise(1), latent, 0.0, True) is latent


def test_the_hires_pass_walks_every_step() -> None:
    calls: list[tuple[int, int]] = []

    def count(step: int, total: int, sigma: float) -> None:
        calls.append((step, total))

    latent = torch.zeros(1, *SHAPE)
    sample_from_latent(
        parse_sampling_plan("Euler", steps=10),
        guide(before_call=count),
        noise(1),
        latent,
        0.5,
        True,
    )
    assert calls == [(i, 10) for i in range(10)]
    calls.clear()
    sample_from_latent(
        parse_sampling_plan("Euler", steps=10),
        guide(before_call=count),
        noise(1),
        latent,
        0.5,
        False,
    )
    assert calls == [(i, 6) for i in range(6)]
    calls.clear()
    sample_from_noise(parse_sampling_plan("Heun", steps=10), guide(before_call=count), noise(1))
    assert calls == [(i, 20) for i in range(19)]


def test_guidance() -> None:
    """cfg 1 asks once; unequal prompts are asked one by one and give the same as one batch."""
    one, two, three = guide(), guide(cfg=2.0), guide(cfg=2.0)
    three.uncond = Conditioning(torch.zeros(1, 154, 4))
    x, sigma = torch.randn(1, *SHAPE), torch.tensor(2.0)
    guesses = [g(x, sigma) for g in (one, two, three)]
    assert [g.unet.calls for g in (one, two, three)] == [1, 1, 2]
    assert all(torch.allclose(g, exact(x, sigma), atol=1e-5) for g in guesses)


def test_consistency_levels() -> None:
    """The 50 steps of a latent consistency model, and its samplers' last guess."""
    levels = ConsistencyNoiseSchedule.from_schedule(LEVELS)
    assert (
        len(levels.sigmas) == 50 and levels.sigmas[-1] == LEVELS.sigmas[999] and levels.sigmas[0] == LEVELS.sigmas[19]
    )
    assert [int(levels.sigma_to_t(sigma)) for sigma in parse_sampling_plan("LCM", steps=4).sigmas(levels, 4)[:4]] == [
        999,
        679,
        339,
        19,
    ]
    asked: list[float] = []
    sample_from_noise(
        parse_sampling_plan("LCM", steps=4), guide(on_denoised=lambda x, sigma, _: asked.append(float(sigma))), noise(1)
    )
    assert len(asked) == 4 and asked[-1] == pytest.approx(float(LEVELS.sigmas[19]))
    x, clean = torch.tensor(3.0), torch.tensor(1.0)
    assert float(levels.scale_denoised(x, torch.tensor(0.0), clean)) == 3.0
    assert float(levels.scale_denoised(x, torch.tensor(999.0), clean)) == pytest.approx(1.0)


def test_ancestral_levels_add_up() -> None:
    down, up = ancestral_step(torch.tensor(3.0), torch.tensor(2.0))
    assert float(down**2 + up**2) == pytest.approx(4.0)
    assert ancestral_step(torch.tensor(3.0), torch.tensor(0.0)) == (0, 0)


@pytest.mark.parametrize("name", SCHEDULE_TYPES)
@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_schedules_fall(name: str, n: int) -> None:
    sigmas = SCHEDULE_TYPES[name](LEVELS, n)
    assert torch.all(sigmas[1:] < sigmas[:-1])
    assert len(sigmas) == n + 1 or name == "DDIM"
    assert sigmas[-1] == 0 or name == "KL Optimal"
    assert sigmas[0] <= LEVELS.sigmas[-1] * 1.0001


def test_levels() -> None:
    """SD1's known ends, and t is the inverse of sigma."""
    assert pytest.approx(0.0291675, abs=1e-6) == LEVELS.sigma_min
    assert pytest.approx(14.614643, abs=1e-5) == LEVELS.sigma_max
    for t in (0.0, 0.4, 250.0, 998.6, 999.0):
        assert float(LEVELS.sigma_to_t(LEVELS.t_to_sigma(torch.tensor(t)))) == pytest.approx(t, abs=0.01)
    assert float(LEVELS.sigma_to_t(torch.tensor(1e-4))) == 0 and float(LEVELS.sigma_to_t(torch.tensor(99.0))) == 999
    assert (
        rescale_zero_terminal_snr(scaled_linear_alphas(), NEARLY_ZERO_ALPHA)[-1] < 1e-7
        and rescale_zero_terminal_snr(scaled_linear_alphas(), NEARLY_ZERO_ALPHA)[0] == scaled_linear_alphas()[0]
    )


def test_plans() -> None:
    assert parse_sampling_plan("dpm++ 2m KARRAS") == parse_sampling_plan("DPM++ 2M")
    assert parse_sampling_plan("DPM++ 2M").label == "Karras" and parse_sampling_plan("Euler").label == "Automatic"
    assert parse_sampling_plan("Euler", "sgm_uniform").schedule == "SGM Uniform"
    assert parse_sampling_plan("DDIM").schedule == ""
    sigmas = parse_sampling_plan("DPM2", steps=5).sigmas(LEVELS, 5)
    assert len(sigmas) == 6 and torch.equal(sigmas[:5], karras_sigmas(LEVELS, 6)[:5])
    with pytest.raises(LoraError, match="did you mean 'Euler a'"):
        parse_sampling_plan("Eular a")
    with pytest.raises(LoraError, match="did you mean 'Karras'"):
        parse_sampling_plan("Euler", "Karas")
    with pytest.raises(LoraError, match="steps is from 1 to 1000; got 0"):
        parse_sampling_plan("Euler", steps=0)


@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM2", "LCM", "DDIM", "UniPC"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_each_call_is_told_its_noise_level(name: str, strength: float) -> None:
    """Also the second call of a step, and samplers over timesteps; a part of the steps begins in the middle."""
    told: list[float] = []
    used: list[float] = []
    denoiser = guide(
        before_call=lambda step, total, sigma: told.append(sigma),
        on_denoised=lambda x, sigma, denoised: used.append(float(sigma)),
    )
    plan = parse_sampling_plan(name, steps=6)
    if strength == 1:
        sample_from_noise(plan, denoiser, noise(1))
        assert told[0] > 10
    else:
        sample_from_latent(plan, denoiser, noise(1), torch.zeros(1, *SHAPE), strength, False)
        assert told[0] < 5
    assert told == used and told[-1] == min(told) > 0 and len(told) > 1

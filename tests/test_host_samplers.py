"""Samplers' laws on a denoiser that is known exactly, and schedules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lora_ext.errors import LoraError
from lora_ext.host.standalone.noise_schedule import (
    SCHEDULES,
    ConsistencyLevels,
    Levels,
    karras,
    scaled_linear,
    zero_terminal,
)
from lora_ext.host.standalone.samplers import SAMPLERS, ancestral
from lora_ext.host.standalone.sampling import Condition, Guide, ImageNoise, from_latent, from_noise, plan_of
from lora_ext.host.standalone.timestep_samplers import STEP_SAMPLERS, steps_of

LEVELS = Levels(scaled_linear())
MEAN, SPREAD = 0.5, 0.3
"""The data: each value normal with this mean and standard deviation."""
SHAPE = (4, 8, 8)


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    """The best guess for normal data; its ODE ends at MEAN + SPREAD·(x − MEAN)/sqrt(SPREAD² + sigma²)."""
    return MEAN + (x - MEAN) * SPREAD**2 / (SPREAD**2 + sigma**2)


class Exact:
    """A U-Net's stand-in for `Guide`: predicts the noise (or v) of the exact guess."""

    def __init__(self, prediction: str = "epsilon") -> None:
        self.prediction, self.calls = prediction, 0
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def parameters(self):
        return iter([self.parameter])

    def __call__(self, x: Tensor, t: Tensor, **_: object):
        self.calls += 1
        sigma = LEVELS.sigma(t[0])
        scale = (1 + sigma**2) ** 0.5
        eps = (x * scale - exact(x * scale, sigma)) / sigma
        v = (eps - sigma * exact(x * scale, sigma)) / scale
        return type("Out", (), {"sample": v if self.prediction == "v" else eps})


def guide(prediction: str = "epsilon", cfg: float = 1.0, **options) -> Guide:
    text = Condition(torch.zeros(1, 77, 4))
    return Guide(Exact(prediction), LEVELS, prediction, text, text, cfg, **options)


def noise(*seeds: int) -> ImageNoise:
    return ImageNoise(seeds, SHAPE, torch.device("cpu"))


ORDINARY = sorted(name for name in SAMPLERS if "a" not in name.split() and "SDE" not in name and name != "LCM")
RANDOM = sorted(set(SAMPLERS) - {*ORDINARY, "LCM"})  # LCM's law is another: every guess is a clean picture


@pytest.mark.parametrize("name", [*ORDINARY, *STEP_SAMPLERS])
def test_ordinary_samplers_reach_the_same_picture(name: str) -> None:
    """With many steps all of them follow the ODE to its known end."""
    plan = plan_of(name, steps=200)
    end = from_noise(plan, guide(), noise(1))
    start = noise(1)()
    if name in STEP_SAMPLERS:  # they begin at a step of the model with unit variance and end at its first ones
        top = LEVELS.sigmas[steps_of(200)[-1]] if name != "UniPC" else LEVELS.sigmas[-1]
        start, left = start * (1 + top**2) ** 0.5, LEVELS.sigmas[1] if name != "UniPC" else LEVELS.sigmas[0]
        spread = ((SPREAD**2 + left**2) / (SPREAD**2 + top**2)) ** 0.5
        known = (MEAN + (start - MEAN) * spread) / (1 + left**2) ** 0.5
    else:
        top = LEVELS.sigmas[-1]
        known = MEAN + (start * top - MEAN) * SPREAD / (SPREAD**2 + top**2) ** 0.5
    assert torch.allclose(end, known, atol=0.03 if name in ("Euler", "DDIM") else 0.01)


@pytest.mark.parametrize("name", RANDOM)
def test_random_samplers_reach_the_same_law(name: str) -> None:
    plan = plan_of(name, "Karras", 60)
    end = from_noise(plan, guide(), noise(*range(64)))
    assert end.mean() == pytest.approx(MEAN, abs=0.02)
    assert end.std() == pytest.approx(SPREAD, rel=0.08)


@pytest.mark.parametrize("name", [*SAMPLERS, *STEP_SAMPLERS])
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    plan = plan_of(name, steps=6)
    both = from_noise(plan, guide(cfg=3.0), noise(5, 6))
    assert torch.equal(both, from_noise(plan, guide(cfg=3.0), noise(5, 6)))
    assert torch.allclose(both[1:], from_noise(plan, guide(cfg=3.0), noise(6)), atol=1e-5)
    assert not torch.allclose(both[:1], both[1:], atol=1e-3)


@pytest.mark.parametrize("name", [*ORDINARY, *RANDOM, *STEP_SAMPLERS])
def test_v_and_noise_are_two_words_for_the_same(name: str) -> None:
    plan = plan_of(name, steps=6)
    near = 1e-3 if name == "UniPC" else 2e-4  # UniPC asks between the model's steps; the web UI rounds those down for v
    assert torch.allclose(from_noise(plan, guide("v"), noise(1)), from_noise(plan, guide(), noise(1)), atol=near)


@pytest.mark.parametrize("name", [*ORDINARY, *RANDOM, *STEP_SAMPLERS])
@pytest.mark.parametrize("whole", [False, True])
def test_less_strength_stays_nearer(name: str, whole: bool) -> None:
    latent = torch.full((1, *SHAPE), 3.0)
    near, far = (
        (from_latent(plan_of(name, steps=10), guide(), noise(1), latent, strength, whole) - latent).abs().mean()
        for strength in (0.2, 0.8)
    )
    assert near < far
    assert from_latent(plan_of(name, steps=10), guide(), noise(1), latent, 0.0, True) is latent


def test_the_hires_pass_walks_every_step() -> None:
    calls: list[tuple[int, int]] = []
    latent = torch.zeros(1, *SHAPE)
    from_latent(plan_of("Euler", steps=10), guide(before_call=lambda *c: calls.append(c)), noise(1), latent, 0.5, True)
    assert calls == [(i, 10) for i in range(10)]
    calls.clear()
    from_latent(plan_of("Euler", steps=10), guide(before_call=lambda *c: calls.append(c)), noise(1), latent, 0.5, False)
    assert calls == [(i, 6) for i in range(6)]
    calls.clear()
    from_noise(plan_of("Heun", steps=10), guide(before_call=lambda *c: calls.append(c)), noise(1))
    assert calls == [(i, 20) for i in range(19)]


def test_guidance() -> None:
    """cfg 1 asks once; unequal prompts are asked one by one and give the same as one batch."""
    one, two, three = guide(), guide(cfg=2.0), guide(cfg=2.0)
    three.uncond = Condition(torch.zeros(1, 154, 4))
    x, sigma = torch.randn(1, *SHAPE), torch.tensor(2.0)
    guesses = [g(x, sigma) for g in (one, two, three)]
    assert [g.unet.calls for g in (one, two, three)] == [1, 1, 2]
    assert all(torch.allclose(g, exact(x, sigma), atol=1e-5) for g in guesses)


def test_consistency_levels() -> None:
    """The 50 steps of a latent consistency model, and its samplers' last guess."""
    levels = ConsistencyLevels.of(LEVELS)
    assert (
        len(levels.sigmas) == 50 and levels.sigmas[-1] == LEVELS.sigmas[999] and levels.sigmas[0] == LEVELS.sigmas[19]
    )
    assert [int(levels.t(sigma)) for sigma in plan_of("LCM", steps=4).sigmas(levels, 4)[:4]] == [999, 679, 339, 19]
    asked: list[float] = []
    from_noise(plan_of("LCM", steps=4), guide(watch=lambda x, sigma, _: asked.append(float(sigma))), noise(1))
    assert len(asked) == 4 and asked[-1] == pytest.approx(float(LEVELS.sigmas[19]))
    x, clean = torch.tensor(3.0), torch.tensor(1.0)
    assert float(levels.settle(x, torch.tensor(0.0), clean)) == 3.0
    assert float(levels.settle(x, torch.tensor(999.0), clean)) == pytest.approx(1.0)


def test_ancestral_levels_add_up() -> None:
    down, up = ancestral(torch.tensor(3.0), torch.tensor(2.0))
    assert float(down**2 + up**2) == pytest.approx(4.0)
    assert ancestral(torch.tensor(3.0), torch.tensor(0.0)) == (0, 0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_schedules_fall(name: str, n: int) -> None:
    sigmas = SCHEDULES[name](LEVELS, n)
    assert torch.all(sigmas[1:] < sigmas[:-1])
    assert len(sigmas) == n + 1 or name == "DDIM"
    assert sigmas[-1] == 0 or name == "KL Optimal"
    assert sigmas[0] <= LEVELS.sigmas[-1] * 1.0001


def test_levels() -> None:
    """SD1's known ends, and t is the inverse of sigma."""
    assert pytest.approx(0.0291675, abs=1e-6) == LEVELS.low
    assert pytest.approx(14.614643, abs=1e-5) == LEVELS.high
    for t in (0.0, 0.4, 250.0, 998.6, 999.0):
        assert float(LEVELS.t(LEVELS.sigma(torch.tensor(t)))) == pytest.approx(t, abs=0.01)
    assert float(LEVELS.t(torch.tensor(1e-4))) == 0 and float(LEVELS.t(torch.tensor(99.0))) == 999
    assert zero_terminal(scaled_linear())[-1] < 1e-7 and zero_terminal(scaled_linear())[0] == scaled_linear()[0]


def test_plans() -> None:
    assert plan_of("dpm++ 2m KARRAS") == plan_of("DPM++ 2M")
    assert plan_of("DPM++ 2M").label == "Karras" and plan_of("Euler").label == "Automatic"
    assert plan_of("Euler", "sgm_uniform").schedule == "SGM Uniform"
    assert plan_of("DDIM").schedule == ""
    sigmas = plan_of("DPM2", steps=5).sigmas(LEVELS, 5)
    assert len(sigmas) == 6 and torch.equal(sigmas[:5], karras(LEVELS, 6)[:5])
    with pytest.raises(LoraError, match="did you mean 'Euler a'"):
        plan_of("Eular a")
    with pytest.raises(LoraError, match="did you mean 'Karras'"):
        plan_of("Euler", "Karas")
    with pytest.raises(LoraError, match="0 steps"):
        plan_of("Euler", steps=0)

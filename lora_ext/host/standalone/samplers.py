"""Samplers by the web UI's names: each denoises a latent along a list of noise levels.

All of them are `(denoise, x, sigmas, noise) -> x`: `denoise(x, sigma)` estimates the clean latent, `x` (batch, 4, h, w)
has noise of sigmas[0], `sigmas` (n + 1,) falls to 0, `noise()` draws standard normal noise like `x`.
In t = −log sigma every one is a short formula. The SDE samplers draw the same noise law as the web UI's, but not its
Brownian tree: with the same seed they give another picture than the web UI does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

DenoiseFunction = Callable[[Tensor, Tensor], Tensor]
NoiseFunction = Callable[[], Tensor]
SamplerFunction = Callable[[DenoiseFunction, Tensor, Tensor, NoiseFunction], Tensor]


def ancestral_step(sigma: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (level to step down to, noise to add), which together give level `to`: DDPM's posterior."""
    up = torch.minimum(to, (to**2 * (sigma**2 - to**2) / sigma**2) ** 0.5)
    return (to**2 - up**2) ** 0.5, up


def _denoise_step(x: Tensor, denoised: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """Exact solution of the ODE from `sigma` to `to` for a constant `denoised` (DPM-Solver++, arXiv:2211.01095)."""
    return (to / sigma) * x + (1 - to / sigma) * denoised


def _log_midpoint(sigma: Tensor, to: Tensor) -> Tensor:
    """The geometric mean: the middle in log sigma."""
    return (sigma * to) ** 0.5


def euler(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """Euler's method on dx/dsigma = (x − denoised)/sigma (Karras et al. 2022, algorithm 2)."""
    for sigma, to in itertools.pairwise(sigmas):
        x = x + (x - denoise(x, sigma)) / sigma * (to - sigma)
    return x


def euler_ancestral(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """Euler steps to a lower level, after which new noise is added (Song et al. 2020, arXiv:2011.13456)."""
    for sigma, to in itertools.pairwise(sigmas):
        down, up = ancestral_step(sigma, to)
        x = x + (x - denoise(x, sigma)) / sigma * (down - sigma)
        if to > 0:
            x = x + noise() * up
    return x


def heun(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """Heun's method: Euler, then the mean of the slopes at both ends (Karras et al. 2022, algorithm 2)."""
    for sigma, to in itertools.pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        ahead = x + slope * (to - sigma)
        if to > 0:
            slope = (slope + (ahead - denoise(ahead, to)) / to) / 2
        x = x + slope * (to - sigma)
    return x


def dpm_2(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """The slope at the middle in log sigma (DPM-Solver-2, Lu et al. 2022, arXiv:2206.00927)."""
    for sigma, to in itertools.pairwise(sigmas):
        x = _midpoint(denoise, x, sigma, to)
    return x


def dpm_2_ancestral(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """`dpm_2` with ancestral noise."""
    for sigma, to in itertools.pairwise(sigmas):
        down, up = ancestral_step(sigma, to)
        x = _midpoint(denoise, x, sigma, down)
        if to > 0:
            x = x + noise() * up
    return x


def _midpoint(denoise: DenoiseFunction, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    slope = (x - denoise(x, sigma)) / sigma
    if to > 0:
        middle = _log_midpoint(sigma, to)
        half = x + slope * (middle - sigma)
        slope = (half - denoise(half, middle)) / middle
    return x + slope * (to - sigma)


def lms(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction, order: int = 4) -> Tensor:
    """Linear multistep (Adams–Bashforth) over uneven levels: the polynomial through the last slopes, integrated."""
    slopes: list[Tensor] = []
    for i, sigma in enumerate(sigmas[:-1]):
        slopes = [(x - denoise(x, sigma)) / sigma, *slopes[: order - 1]]
        places = sigmas[: i + 1].flip(0)[: len(slopes)].double().numpy()
        start, end = sigmas[i].item(), sigmas[i + 1].item()
        for j, slope in enumerate(slopes):
            others = np.delete(places, j)
            lagrange = np.poly1d(others, r=True).integ() / np.prod(places[j] - others)
            x = x + float(lagrange(end) - lagrange(start)) * slope
    return x


def dpmpp_2s_ancestral(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095) with ancestral noise."""
    for sigma, to in itertools.pairwise(sigmas):
        down, up = ancestral_step(sigma, to)
        denoised = denoise(x, sigma)
        if down > 0:
            middle = _log_midpoint(sigma, down)
            denoised = denoise(_denoise_step(x, denoised, sigma, middle), middle)
        x = _denoise_step(x, denoised, sigma, down)
        if to > 0:
            x = x + noise() * up
    return x


def dpmpp_2m(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """DPM-Solver++(2M): the estimate is extrapolated from the one before (arXiv:2211.01095, algorithm 2)."""
    before: Tensor | None = None
    for i, (sigma, to) in enumerate(itertools.pairwise(sigmas)):
        estimate = denoised = denoise(x, sigma)
        if before is not None and to > 0:
            ratio = (sigmas[i - 1] / sigma).log() / (sigma / to).log()
            estimate = denoised + (denoised - before) / (2 * ratio)
        x = _denoise_step(x, estimate, sigma, to)
        before = denoised
    return x


def dpmpp_sde(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """DPM-Solver++(2S) as an SDE: noise both at the middle and at the end of a step, from one Brownian path."""
    for sigma, to in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        if to == 0:
            return denoised
        middle = _log_midpoint(sigma, to)
        first, second = noise() * (sigma - middle) ** 0.5, noise() * (middle - to) ** 0.5
        down, up = ancestral_step(sigma, middle)
        half = _denoise_step(x, denoised, sigma, down) + first / (sigma - middle) ** 0.5 * up
        denoised = denoise(half, middle)
        down, up = ancestral_step(sigma, to)
        x = _denoise_step(x, denoised, sigma, down) + (first + second) / (sigma - to) ** 0.5 * up
    return x


def dpmpp_2m_sde(
    denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction, heun: bool = False
) -> Tensor:
    """DPM-Solver++(2M) as an SDE (arXiv:2211.01095, appendix); `heun` weighs the extrapolation exactly."""
    before: Tensor | None = None
    h_before = sigmas[0]
    for sigma, to in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        if to == 0:
            return denoised
        h = (sigma / to).log()
        gain = -torch.expm1(-2 * h)
        x_next = (to / sigma) * (-h).exp() * x + gain * denoised
        if before is not None:
            bend = 1 - gain / (2 * h) if heun else 0.5 * gain
            x_next = x_next + bend * (h / h_before) * (denoised - before)
        x = x_next + noise() * to * gain**0.5
        before, h_before = denoised, h
    return x


def dpmpp_2m_sde_heun(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """`dpmpp_2m_sde` with exact weights."""
    return dpmpp_2m_sde(denoise, x, sigmas, noise, heun=True)


def dpmpp_3m_sde(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """Third order of the same: first and second divided differences of the estimates in log sigma."""
    estimates: list[Tensor] = []
    steps: list[Tensor] = []
    for sigma, to in itertools.pairwise(sigmas):
        estimates = [denoise(x, sigma), *estimates[:2]]
        if to == 0:
            return estimates[0]
        h = (sigma / to).log()
        phi_1 = -torch.expm1(-2 * h)
        phi_2 = 1 - phi_1 / (2 * h)
        x = (-2 * h).exp() * x + phi_1 * estimates[0]
        if len(estimates) > 1:
            r0 = steps[0] / h
            first = (estimates[0] - estimates[1]) / r0
            if len(estimates) > 2:
                r1 = steps[1] / h
                second = (first - (estimates[1] - estimates[2]) / r1) / (r0 + r1)
                x = x + phi_2 * r0 * second - (phi_2 / (2 * h) - 0.5) * second
            x = x + phi_2 * first
        x = x + noise() * to * phi_1**0.5
        steps = [h, *steps[:1]]
    return x


def lcm(denoise: DenoiseFunction, x: Tensor, sigmas: Tensor, noise: NoiseFunction) -> Tensor:
    """Estimates the clean latent, adds the next level's noise and repeats (Luo et al. 2023, arXiv:2310.04378)."""
    for sigma, to in itertools.pairwise(sigmas):
        x = denoise(x, sigma)
        if to > 0:
            x = x + to * noise()
    return x


@dataclass(frozen=True)
class Sampler:
    """A sampler of the web UI.

    Attributes:
        function: denoises a latent along noise levels.
        schedule: the noise schedule that "Automatic" means.
        second_order: whether a step takes two U-Net calls.
        discard_next_to_last_sigma: whether the level before the last is left out and the schedule has one more.
        is_consistency: whether it uses the noise levels of a latent consistency model (or LoRA).
    """

    function: SamplerFunction
    schedule: str = "Uniform"
    second_order: bool = False
    discard_next_to_last_sigma: bool = False
    is_consistency: bool = False


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "DPM++ 2M": Sampler(dpmpp_2m, "Karras"),
        "DPM++ SDE": Sampler(dpmpp_sde, "Karras", second_order=True),
        "DPM++ 2M SDE": Sampler(dpmpp_2m_sde, "Exponential"),
        "DPM++ 2M SDE Heun": Sampler(dpmpp_2m_sde_heun, "Exponential"),
        "DPM++ 2S a": Sampler(dpmpp_2s_ancestral, "Karras", second_order=True),
        "DPM++ 3M SDE": Sampler(dpmpp_3m_sde, "Exponential", discard_next_to_last_sigma=True),
        "Euler a": Sampler(euler_ancestral),
        "Euler": Sampler(euler),
        "LMS": Sampler(lms),
        "Heun": Sampler(heun, second_order=True),
        "DPM2": Sampler(dpm_2, "Karras", second_order=True, discard_next_to_last_sigma=True),
        "DPM2 a": Sampler(dpm_2_ancestral, "Karras", second_order=True, discard_next_to_last_sigma=True),
        "LCM": Sampler(lcm, is_consistency=True),
    }
)
"""The web UI's k-diffusion samplers."""

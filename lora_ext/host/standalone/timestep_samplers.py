"""DDIM, PLMS and UniPC: samplers on the model's integer timesteps, as the web UI runs them.

All are `(predict, x, steps, start, levels) -> x`: `predict(x, t)` estimates the noise in `x`, which here keeps its
variance (x = √ᾱ·x₀ + √(1−ᾱ)·ε); `steps` rises; `start` in (0, 1] is the time of x, 1 being pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from .noise_schedule import NoiseSchedule

PredictNoise = Callable[[Tensor, float], Tensor]
TimestepSampler = Callable[[PredictNoise, Tensor, Tensor, float, NoiseSchedule], Tensor]


def uniform_timesteps(n: int, total: int = 1000) -> Tensor:
    """1, 1 + total//n, …: about n of the model's timesteps, rising."""
    return (torch.arange(0, total, total // n) + 1).clip(0, total - 1)


def _ddim_step(x: Tensor, eps: Tensor, alpha: Tensor, to: Tensor) -> Tensor:
    """From ᾱ to another ᾱ along the noise `eps` (DDIM, arXiv:2010.02502, eq. 12 with sigma 0)."""
    clean = (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5
    return to**0.5 * clean + (1 - to) ** 0.5 * eps


def _step_pairs(steps: Tensor, noise_schedule: NoiseSchedule) -> list[tuple[int, int, Tensor, Tensor]]:
    """(t, next t, ᾱ, next ᾱ), from the largest t; as in the web UI the first of `steps` is only a target."""
    t = steps.tolist()
    alpha = noise_schedule.alphas_cumprod
    return [(t[i], t[i - 1], alpha[t[i]], alpha[t[i - 1]]) for i in range(len(t) - 1, 0, -1)]


def ddim(predict: PredictNoise, x: Tensor, steps: Tensor, start: float, noise_schedule: NoiseSchedule) -> Tensor:
    """Denoising diffusion implicit models, eta 0 (Song et al. 2020, arXiv:2010.02502)."""
    for t, _, alpha, to in _step_pairs(steps, noise_schedule):
        x = _ddim_step(x, predict(x, t), alpha, to)
    return x


_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms(predict: PredictNoise, x: Tensor, steps: Tensor, start: float, noise_schedule: NoiseSchedule) -> Tensor:
    """Pseudo linear multistep: Adams–Bashforth on the noise (Liu et al. 2022, arXiv:2202.09778)."""
    past: list[Tensor] = []
    for t, t_next, alpha, to in _step_pairs(steps, noise_schedule):
        past = [predict(x, t), *past[:3]]
        if len(past) == 1:
            eps = (past[0] + predict(_ddim_step(x, past[0], alpha, to), t_next)) / 2
        else:
            eps = sum((w * e for w, e in zip(_ADAMS[len(past) - 1], past, strict=True)), torch.zeros_like(x))
        x = _ddim_step(x, eps, alpha, to)
    return x


def unipc(predict: PredictNoise, x: Tensor, steps: Tensor, start: float, noise_schedule: NoiseSchedule) -> Tensor:
    """UniPC of order 3 with B₁(h) = h, on equal times, lower order at the end (Zhao et al. 2023, arXiv:2302.04867)."""
    total, n = len(noise_schedule.alphas_cumprod), len(steps)
    order = min(3, n)
    times = torch.linspace(start, 1 / total, n + 1)
    alpha, sigma = _marginals(times, noise_schedule)
    lam = (alpha / sigma).log()

    def clean(x: Tensor, i: int) -> Tensor:
        return (x - sigma[i] * predict(x, float((times[i] - 1 / total) * total))) / alpha[i]

    estimates = [clean(x, 0)]
    for i in range(1, n + 1):
        here = min(order, n + 1 - i) if i >= order else i
        bends = [(lam[i - 1 - k] - lam[i - 1]) / (lam[i] - lam[i - 1]) for k in range(1, here)]
        slopes = [(estimates[k] - estimates[0]) / r for k, r in zip(range(1, here), bends, strict=True)]
        hh = lam[i - 1] - lam[i]
        base = sigma[i] / sigma[i - 1] * x - alpha[i] * torch.expm1(hh) * estimates[0]
        ratios = torch.stack([*bends, torch.ones_like(hh)])
        predicted = base - alpha[i] * hh * _combined(_weights(ratios[:-1], hh, simple=here == 2), slopes)
        x = predicted
        if i < n:
            estimate = clean(predicted, i)
            corrected = _combined(_weights(ratios, hh, simple=here == 1), [*slopes, estimate - estimates[0]])
            x = base - alpha[i] * hh * corrected
            estimates = [estimate, *estimates[: order - 1]]
    return x


def _marginals(times: Tensor, noise_schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """(√ᾱ, √(1−ᾱ)) at times in (0, 1], linear in log √ᾱ between the model's steps t = i + 1."""
    logs = 0.5 * noise_schedule.alphas_cumprod.log()
    place = (times * len(logs) - 1).clamp(0, len(logs) - 1)
    below = place.floor().long().clamp(max=len(logs) - 2)
    weight = place - below
    log_alpha = (1 - weight) * logs[below] + weight * logs[below + 1]
    return log_alpha.exp(), (1 - (2 * log_alpha).exp()) ** 0.5


def _weights(ratios: Tensor, hh: Tensor, simple: bool) -> Tensor:
    """Solution of Σ ρ_k r_k^(i−1) = i!·φ_(i+1)(hh)/B(h): what each slope counts; 1/2 for a single one."""
    count = len(ratios)
    if simple or not count:
        return torch.full((count,), 0.5)
    phi, factorial, right = torch.expm1(hh) / hh - 1, 1, []
    for i in range(1, count + 1):
        right.append(phi * factorial / hh)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    left = torch.stack([ratios**i for i in range(count)])
    return torch.linalg.solve(left, torch.stack(right))


def _combined(weights: Tensor, slopes: list[Tensor]) -> Tensor | float:
    return sum((float(w) * slope for w, slope in zip(weights, slopes, strict=True)), 0.0)


TIMESTEP_SAMPLERS: Mapping[str, TimestepSampler] = MappingProxyType({"DDIM": ddim, "PLMS": plms, "UniPC": unipc})
"""The web UI's samplers without a choice of noise schedules."""

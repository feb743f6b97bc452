"""Noise levels: the model's table of them, and the noise schedules that samplers use.

sigma = sqrt((1 − ᾱ)/ᾱ) (Karras et al. 2022, arXiv:2206.00364). Names are the web UI's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor

AUTOMATIC_SCHEDULE = "Automatic"
NEARLY_ZERO_ALPHA = 4.8973451890853435e-08
"""ᾱ of the last step with zero terminal SNR. Sigma divides by it, so the web UI has this number in place of 0."""


def scaled_linear_alphas(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Tensor:
    """Returns ᾱ of Stable Diffusion's training, (steps,) float32: betas are linear in their square root.

    They are computed in float64, as in LDM.
    """
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(dim=0).float()


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A model's discrete noise levels: sigma as a function of the timestep t in 0 … n−1, and back.

    Attributes:
        alphas_cumprod: ᾱ, (n,) float32 on the CPU, falling.
    """

    alphas_cumprod: Tensor

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise levels, (n,) rising."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5

    @cached_property
    def log_sigmas(self) -> Tensor:
        """Logarithms of the noise levels, (n,) rising."""
        return self.sigmas.log()

    @property
    def timestep_range(self) -> tuple[float, float]:
        """(largest, smallest) timestep."""
        return len(self.sigmas) - 1.0, 0.0

    @property
    def sigma_min(self) -> float:
        """The smallest sigma."""
        return self.sigmas[0].item()

    @property
    def sigma_max(self) -> float:
        """The largest sigma."""
        return self.sigmas[-1].item()

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Returns the noise level at a timestep, log-linear between two levels."""
        t = t.float()
        below, above, weight = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - weight) * self.log_sigmas[below] + weight * self.log_sigmas[above]).exp()

    def scale_denoised(self, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """Returns the estimate of the clean latent that samplers use at timestep t: here `denoised` itself."""
        return denoised

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """The timestep of a noise level (a scalar tensor), clamped to the table: the inverse of `t_to_sigma`."""
        log_sigma = sigma.log()
        below = int((self.log_sigmas <= log_sigma).sum().clamp(1, len(self.sigmas) - 1)) - 1
        low, high = self.log_sigmas[below], self.log_sigmas[below + 1]
        weight = ((low - log_sigma) / (low - high)).clamp(0, 1)
        return (1 - weight) * below + weight * (below + 1)


CONSISTENCY_STRIDE = 20
"""Timesteps between two that a latent consistency model is distilled for (50 of 1000)."""


class ConsistencyNoiseSchedule(NoiseSchedule):
    """The levels that a latent consistency model knows (Luo et al. 2023, arXiv:2310.04378): t = 19, 39, … 999."""

    @classmethod
    def from_schedule(cls, noise_schedule: NoiseSchedule) -> ConsistencyNoiseSchedule:
        """Takes every 20th level of a model's schedule."""
        return cls(noise_schedule.alphas_cumprod[CONSISTENCY_STRIDE - 1 :: CONSISTENCY_STRIDE])

    @property
    def timestep_range(self) -> tuple[float, float]:
        """(largest, smallest) timestep."""
        return len(self.sigmas) * CONSISTENCY_STRIDE - 1.0, CONSISTENCY_STRIDE - 1.0

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Returns the noise level at a timestep, log-linear between two levels, clamped to the table."""
        return super().t_to_sigma(((t - (CONSISTENCY_STRIDE - 1)) / CONSISTENCY_STRIDE).clamp(0, len(self.sigmas) - 1))

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Returns the timestep of the nearest level."""
        nearest = (self.log_sigmas - sigma.log().cpu()).abs().argmin()
        return nearest * CONSISTENCY_STRIDE + (CONSISTENCY_STRIDE - 1)

    def scale_denoised(self, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """Applies the consistency model's boundary condition: x itself at t = 0 (eq. 9; sigma_data 0.5, t·10)."""
        data, scaled = 0.5, t.to(x.device) * 10.0
        return scaled / (scaled**2 + data**2) ** 0.5 * denoised + data**2 / (scaled**2 + data**2) * x


def _with_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def uniform_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """Equal steps in t, first and last level included."""
    return _with_zero(noise_schedule.t_to_sigma(torch.linspace(*noise_schedule.timestep_range, n)))


def karras_sigmas(noise_schedule: NoiseSchedule, n: int, rho: float = 7.0) -> Tensor:
    """Equal steps in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    low, high = noise_schedule.sigma_min ** (1 / rho), noise_schedule.sigma_max ** (1 / rho)
    return _with_zero((high + torch.linspace(0, 1, n) * (low - high)) ** rho)


def exponential_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """Equal steps in log sigma."""
    return _with_zero(torch.linspace(math.log(noise_schedule.sigma_max), math.log(noise_schedule.sigma_min), n).exp())


def sgm_uniform_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """Equal steps in t without the last level (Stability's generative-models)."""
    start, end = (
        noise_schedule.sigma_to_t(torch.tensor(noise_schedule.sigma_max)),
        noise_schedule.sigma_to_t(torch.tensor(noise_schedule.sigma_min)),
    )
    return _with_zero(noise_schedule.t_to_sigma(torch.linspace(float(start), float(end), n + 1)[:-1]))


def normal_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """Equal steps in t between the levels' ends."""
    start, end = (
        noise_schedule.sigma_to_t(torch.tensor(noise_schedule.sigma_max)),
        noise_schedule.sigma_to_t(torch.tensor(noise_schedule.sigma_min)),
    )
    return _with_zero(noise_schedule.t_to_sigma(torch.linspace(float(start), float(end), n)))


def simple_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """Every (1000/n)-th level, from the top."""
    stride = len(noise_schedule.sigmas) / n
    return _with_zero(torch.stack([noise_schedule.sigmas[-(1 + int(i * stride))] for i in range(n)]))


def ddim_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """The levels at t = 1, 1 + 1000//n, … (Song et al. 2020, arXiv:2010.02502), falling."""
    return _with_zero(noise_schedule.sigmas[1 :: max(len(noise_schedule.sigmas) // n, 1)].flip(0))


def kl_optimal_sigmas(noise_schedule: NoiseSchedule, n: int) -> Tensor:
    """Equal steps in arctan sigma (Sabour et al. 2024, arXiv:2404.14507, §3.1)."""
    low, high = (torch.arctan(torch.tensor(value)) for value in (noise_schedule.sigma_min, noise_schedule.sigma_max))
    place = torch.arange(n + 1) / n
    return torch.tan(place * low + (1 - place) * high)


SCHEDULE_TYPES: Mapping[str, Callable[[NoiseSchedule, int], Tensor]] = MappingProxyType(
    {
        "Uniform": uniform_sigmas,
        "Karras": karras_sigmas,
        "Exponential": exponential_sigmas,
        "SGM Uniform": sgm_uniform_sigmas,
        "KL Optimal": kl_optimal_sigmas,
        "Simple": simple_sigmas,
        "Normal": normal_sigmas,
        "DDIM": ddim_sigmas,
    }
)
"""The web UI's schedule types that samplers take: n steps → (n + 1,) falling sigmas."""

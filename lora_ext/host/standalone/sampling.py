"""From noise to a latent: guidance, the web UI's noise by seed, and its way of walking (part of) a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...errors import LoraError, did_you_mean
from ..checkpoint_layout import V
from .noise_schedule import AUTOMATIC, SCHEDULES, ConsistencyLevels, Levels
from .samplers import SAMPLERS
from .timestep_samplers import STEP_SAMPLERS, steps_of

BeforeCall = Callable[[int, int], None]
"""Called before each U-Net call with its number from 0 and the expected count (of guesses, as the web UI counts)."""
Watch = Callable[[Tensor, Tensor, Tensor], None]
"""Called after each guess with (x, sigma, denoised)."""


class ImageNoise:
    """Standard normal noise, float32, drawn on the CPU with one generator an image, so that an image does not depend
    on its batch. With the web UI's RNG source "CPU" the same seeds give the same numbers."""

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._shape, self._device = tuple(shape), device

    def __call__(self) -> Tensor:
        """(images, *shape), the next draw."""
        drawn = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self._device)


@dataclass(frozen=True)
class Condition:
    """What a prompt tells the U-Net: states (1 or batch, 77·chunks, width); SDXL: pooled (…, width), sizes (…, 6)."""

    states: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    def times(self, batch: int) -> Condition:
        """For a batch of pictures."""

        def expand(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])

        states = expand(self.states)
        assert states is not None
        return Condition(states, expand(self.pooled), expand(self.sizes))

    def then(self, other: Condition) -> Condition:
        """Both, one after the other in the batch."""

        def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        return Condition(
            torch.cat([self.states, other.states]), both(self.pooled, other.pooled), both(self.sizes, other.sizes)
        )


@dataclass(frozen=True)
class Phases:
    """A text that changes while a picture is made: (last guess, from 1, what it tells the U-Net until then)."""

    rows: tuple[tuple[int, Condition], ...]

    def at(self, step: int) -> Condition:
        """At guess `step`, from 0; the last one for all that come after."""
        return next((condition for last, condition in self.rows if step <= last), self.rows[-1][1])


Told: TypeAlias = "Condition | Phases"
"""What one text tells the U-Net."""


class Guide:
    """The U-Net under classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): u + cfg·(c − u).

    more: further (text, weight) beside `cond` and its `weight`: u + cfg·Σ weight·(cᵢ − u) (Liu et al. 2022,
    arXiv:2206.01714). All go through as one batch where they have equal length, else one after the other, as in the
    web UI.
    extra: further input channels (batch, 5, h, w) of an inpainting model. total: guesses to expect.
    """

    def __init__(
        self,
        unet: Any,
        levels: Levels,
        prediction: str,
        cond: Told,
        uncond: Told,
        cfg: float,
        extra: Tensor | None = None,
        before_call: BeforeCall | None = None,
        watch: Watch | None = None,
        *,
        weight: float = 1.0,
        more: Sequence[tuple[Told, float]] = (),
    ) -> None:
        self.unet, self.levels, self.prediction = unet, levels, prediction
        self.cond, self.uncond, self.cfg, self.extra = cond, uncond, cfg, extra
        self.before_call, self.watch = before_call, watch
        self.weight, self.more = weight, tuple(more)
        self.step, self.total = 0, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The guess of the clean latent from x = clean + sigma·noise (Karras et al. 2022, table 1, "VP")."""
        scale = 1 / (sigma**2 + 1) ** 0.5
        t = self.levels.t(sigma)
        outs = self._run(x * scale, t)
        if self.prediction == V:
            guesses = [out * (-sigma * scale) + x * scale**2 for out in outs]
        else:
            guesses = [x + out * -sigma for out in outs]
        denoised = self.levels.settle(x, t, self._guided(guesses))
        if self.watch:
            self.watch(x, sigma, denoised)
        return denoised

    def noise(self, x: Tensor, t: float) -> Tensor:
        """The guess of the noise in x = √ᾱ·clean + √(1−ᾱ)·noise at step t."""
        outs = self._run(x, torch.tensor(t))
        if self.prediction == V:
            alpha = self.levels.alphas_cumprod[int(t)].item()
            outs = [alpha**0.5 * out + (1 - alpha) ** 0.5 * x for out in outs]
        eps = self._guided(outs)
        if self.watch:
            sigma = self.levels.sigma(torch.tensor(t))
            self.watch(x, sigma, (1 + sigma**2) ** 0.5 * x - sigma * eps)
        return eps

    def _guided(self, guesses: list[Tensor]) -> Tensor:
        """guesses: of `cond`, of what is `more`, and last of `uncond` unless cfg is 1 and there is nothing more."""
        if len(guesses) == 1:
            return guesses[0]
        *wanted, plain = guesses
        weights = (self.weight, *(weight for _, weight in self.more))
        total = plain
        for guess, weight in zip(wanted, weights, strict=True):
            total = total + (guess - plain) * (weight * self.cfg)
        return total

    def _run(self, x: Tensor, t: Tensor) -> list[Tensor]:
        """The U-Net's outputs for each text and, where it counts, uncond; float32."""
        if self.before_call:
            self.before_call(self.step, self.total)
        now, self.step = self.step, self.step + 1
        if self.extra is not None:
            x = torch.cat([x, self.extra], dim=1)
        texts = [self.cond, *(text for text, _ in self.more)]
        if self.cfg != 1 or self.more or self.weight != 1:
            texts.append(self.uncond)
        conditions = [(text.at(now) if isinstance(text, Phases) else text).times(len(x)) for text in texts]
        if len({condition.states.shape[1] for condition in conditions}) > 1:
            return [self._unet(x, t, condition) for condition in conditions]
        together = conditions[0]
        for condition in conditions[1:]:
            together = together.then(condition)
        return list(self._unet(torch.cat([x] * len(texts)), t, together).chunk(len(texts)))

    def _unet(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        dtype = next(self.unet.parameters()).dtype
        added: dict[str, Tensor] | None = None
        if condition.pooled is not None and condition.sizes is not None:
            added = {"text_embeds": condition.pooled.to(dtype), "time_ids": condition.sizes.to(dtype)}
        out = self.unet(
            x.to(dtype),
            t.to(x.device).expand(len(x)),
            encoder_hidden_states=condition.states.to(dtype),
            added_cond_kwargs=added,
        ).sample
        result: Tensor = out.float()
        return result


@dataclass(frozen=True)
class Plan:
    """A sampler, the schedule it takes ("" for DDIM and such), and what the infotext calls the schedule."""

    sampler: str
    schedule: str
    steps: int
    label: str = AUTOMATIC

    @property
    def second_order(self) -> bool:
        """Whether a step is two guesses."""
        return self.sampler in SAMPLERS and SAMPLERS[self.sampler].second_order

    def levels(self, levels: Levels) -> Levels:
        """Those of the model's levels that the sampler walks."""
        return ConsistencyLevels.of(levels) if SAMPLERS[self.sampler].consistency else levels

    def sigmas(self, levels: Levels, steps: int) -> Tensor:
        """(steps + 1,) falling to 0."""
        drop = SAMPLERS[self.sampler].drop
        sigmas = SCHEDULES[self.schedule](levels, steps + drop)
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if drop else sigmas


def plan_of(sampler: str, scheduler: str = AUTOMATIC, steps: int = 20) -> Plan:
    """A plan from the web UI's names, case aside. Old names such as "DPM++ 2M Karras" carry their schedule.

    Raises LoraError with the nearest name.
    """
    if not 1 <= steps <= 1000:
        raise LoraError(f"{steps} steps: 1 to 1000 are possible")
    samplers = {name.lower(): name for name in (*SAMPLERS, *STEP_SAMPLERS)}
    schedules = {name.lower().replace("_", " "): name for name in SCHEDULES}
    name, wanted = sampler.strip().lower(), scheduler.strip().lower().replace("_", " ")
    for tail in schedules:
        if name not in samplers and name.endswith(" " + tail):
            name, wanted = name.removesuffix(" " + tail), tail
    if name not in samplers:
        raise LoraError(f"unknown sampler {sampler!r}{did_you_mean(sampler, (*SAMPLERS, *STEP_SAMPLERS))}")
    if wanted != AUTOMATIC.lower() and wanted not in schedules:
        raise LoraError(f"unknown scheduler {scheduler!r}{did_you_mean(scheduler, (AUTOMATIC, *SCHEDULES))}")
    found = samplers[name]
    if found in STEP_SAMPLERS:
        return Plan(found, "", steps, schedules.get(wanted, AUTOMATIC))
    usual = SAMPLERS[found].schedule
    label = schedules.get(wanted, AUTOMATIC if usual == "Uniform" else usual)
    return Plan(found, schedules.get(wanted, usual), steps, label)


def from_noise(plan: Plan, guide: Guide, noise: ImageNoise) -> Tensor:
    """A latent from nothing but noise."""
    guide.total = plan.steps * (1 + plan.second_order)
    if plan.sampler in STEP_SAMPLERS:
        return STEP_SAMPLERS[plan.sampler](guide.noise, noise(), steps_of(plan.steps), 1.0, guide.levels)
    guide.levels = plan.levels(guide.levels)
    sigmas = plan.sigmas(guide.levels, plan.steps)
    return SAMPLERS[plan.sampler].walk(guide, noise() * sigmas[0], sigmas, noise)


def from_latent(plan: Plan, guide: Guide, noise: ImageNoise, latent: Tensor, strength: float, whole: bool) -> Tensor:
    """A latent changed by `strength` in 0..1: noise is added for that share of the schedule, and taken away again.

    whole: walk exactly `plan.steps` steps (the hires pass); else that share of them (img2img).
    """
    share = min(strength, 0.999)
    if whole:
        if share <= 0:
            return latent
        steps, last = int(plan.steps / share), plan.steps - 1
    else:
        steps, last = plan.steps, int(share * plan.steps)
    guide.total = (last + 1) * (1 + plan.second_order)
    if plan.sampler in STEP_SAMPLERS:
        every = steps_of(steps)
        if last < 1:
            return latent
        alpha = guide.levels.alphas_cumprod[every[last]].item()
        x = latent * alpha**0.5 + noise() * (1 - alpha) ** 0.5
        start = (int(every[last - 1]) + 1) / len(guide.levels.alphas_cumprod)
        return STEP_SAMPLERS[plan.sampler](guide.noise, x, every[:last], start, guide.levels)
    guide.levels = plan.levels(guide.levels)
    sigmas = plan.sigmas(guide.levels, steps)[steps - last - 1 :]
    return SAMPLERS[plan.sampler].walk(guide, latent + noise() * sigmas[0], sigmas, noise)

"""Sampling a latent: classifier-free guidance, noise by seed as in the web UI, and all or a part of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...conditions import Condition, parts_in_turn
from ...errors import LoraError, did_you_mean
from ..checkpoint_layout import V_PREDICTION
from .noise_schedule import AUTOMATIC_SCHEDULE, SCHEDULE_TYPES, ConsistencyNoiseSchedule, NoiseSchedule
from .samplers import SAMPLERS
from .timestep_samplers import TIMESTEP_SAMPLERS, uniform_timesteps

BeforeUnetCall = Callable[[int, int, float], None]
"""Called before each U-Net call with its number, from 0, the expected number of calls, as the web UI counts, and the
noise level sigma."""
OnDenoised = Callable[[Tensor, Tensor, Tensor], None]
"""Called after each U-Net call with (x, sigma, denoised): noisy latent, noise level, estimate of the clean one."""


class ImageNoise:
    """Standard normal noise in float32, with one CPU generator for each image: an image does not depend on its batch.

    The web UI draws the same numbers from the same seeds where its "Random number generator source" is "CPU".

    Args:
        seeds: one for each image.
        shape: of one image's latent, (channels, height, width).
        device: where the noise is needed.

    Raises:
        LoraError: a seed has more than 64 bits.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        for seed in seeds:
            if not -(2**63) <= seed < 2**64:
                raise LoraError(f"the seed {seed} is too large; give one below {2**64}")
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._shape, self._device = tuple(shape), device

    def __call__(self) -> Tensor:
        """Draws the next noise, (images, *shape)."""
        drawn = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self._device)


@dataclass(frozen=True)
class Conditioning:
    """What the U-Net gets from prompts.

    Attributes:
        states: the text encoders' states, (1 or batch, 77·chunks, width), side by side along the width for SDXL.
        pooled: SDXL's pooled text embedding, (1 or batch, projection).
        sizes: SDXL's size conditioning, (1 or batch, 6): original height and width, crop top and left, target height
            and width, in pixels.
    """

    states: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    def expanded_to(self, batch: int) -> Conditioning:
        """Returns the same conditioning for `batch` images."""

        def expand(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None or len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])

        states = expand(self.states)
        assert states is not None
        return Conditioning(states, expand(self.pooled), expand(self.sizes))

    def row(self, index: int) -> Conditioning:
        """Returns the conditioning of one image."""

        def one(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index : index + 1]

        return Conditioning(self.states[index : index + 1], one(self.pooled), one(self.sizes))

    @staticmethod
    def concatenated(parts: Sequence[Conditioning]) -> Conditioning:
        """Returns the rows of all parts, along the batch."""

        def join(tensors: list[Tensor | None]) -> Tensor | None:
            found = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(found) if len(found) == len(tensors) else None

        return Conditioning(
            torch.cat([part.states for part in parts]),
            join([part.pooled for part in parts]),
            join([part.sizes for part in parts]),
        )


@dataclass(frozen=True)
class ConditioningSchedule:
    """The conditioning of a prompt that changes while an image is sampled (`[from:to:0.5]`).

    Attributes:
        rows: (number of the last U-Net call, from 1, the conditioning up to it), in order.
    """

    rows: tuple[tuple[int, Conditioning], ...]

    def at(self, step: int) -> Conditioning:
        """Returns the conditioning at U-Net call `step`, from 0; after the last row its own."""
        return next((condition for last, condition in self.rows if step <= last), self.rows[-1][1])


PromptConditioning: TypeAlias = "Conditioning | ConditioningSchedule"
"""The conditioning of one prompt, fixed or changing."""


class CfgDenoiser:
    """The U-Net under classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): u + cfg·(c − u).

    With prompts joined by AND the result is u + cfg·Σ weight·(cᵢ − u) (Liu et al. 2022, arXiv:2206.01714). All
    conditionings pass the U-Net as one batch where they have equal length, else one after the other, as in the web UI.

    Args:
        unet: diffusers' UNet2DConditionModel.
        noise_schedule: noise levels and timesteps.
        prediction: what the U-Net predicts, "epsilon" or "v".
        cond: the prompt's conditioning.
        uncond: the negative prompt's conditioning.
        cfg: guidance scale; at 1 the negative prompt has no effect.
        extra_channels: further input channels (batch, 5, h, w) of an inpainting model.
        before_call: called before each U-Net call.
        on_denoised: called after each U-Net call.
        weight: the weight of `cond` where prompts are joined by AND.
        more_conds: the other prompts' conditionings and weights.
        begin_rows: called before each U-Net call with the condition of each row of its batch.
    """

    def __init__(
        self,
        unet: Any,
        noise_schedule: NoiseSchedule,
        prediction: str,
        cond: PromptConditioning,
        uncond: PromptConditioning,
        cfg: float,
        extra_channels: Tensor | None = None,
        before_call: BeforeUnetCall | None = None,
        on_denoised: OnDenoised | None = None,
        *,
        weight: float = 1.0,
        more_conds: Sequence[tuple[PromptConditioning, float]] = (),
        begin_rows: Callable[[Sequence[Condition]], None] | None = None,
    ) -> None:
        self.unet, self.noise_schedule, self.prediction = unet, noise_schedule, prediction
        self.cond, self.uncond, self.cfg, self.extra_channels = cond, uncond, cfg, extra_channels
        self.before_call, self.on_denoised = before_call, on_denoised
        self.weight, self.more_conds, self.begin_rows = weight, tuple(more_conds), begin_rows
        self.step, self.total = 0, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimates the clean latent in x = clean + sigma·noise (Karras et al. 2022, table 1, "VP")."""
        scale = 1 / (sigma**2 + 1) ** 0.5
        t = self.noise_schedule.sigma_to_t(sigma)
        outs = self._unet_outputs(x * scale, t, sigma)
        if self.prediction == V_PREDICTION:
            estimates = [out * (-sigma * scale) + x * scale**2 for out in outs]
        else:
            estimates = [x + out * -sigma for out in outs]
        denoised = self.noise_schedule.scale_denoised(x, t, self._apply_guidance(estimates))
        if self.on_denoised:
            self.on_denoised(x, sigma, denoised)
        return denoised

    def predict_noise(self, x: Tensor, t: float) -> Tensor:
        """Estimates the noise in x = √ᾱ·clean + √(1−ᾱ)·noise at timestep t."""
        outs = self._unet_outputs(x, torch.tensor(t), self.noise_schedule.t_to_sigma(torch.tensor(t)))
        if self.prediction == V_PREDICTION:
            alpha = self.noise_schedule.alphas_cumprod[int(t)].item()
            outs = [alpha**0.5 * out + (1 - alpha) ** 0.5 * x for out in outs]
        eps = self._apply_guidance(outs)
        if self.on_denoised:
            sigma = self.noise_schedule.t_to_sigma(torch.tensor(t))
            self.on_denoised(x, sigma, (1 + sigma**2) ** 0.5 * x - sigma * eps)
        return eps

    def _apply_guidance(self, outputs: list[Tensor]) -> Tensor:
        """Combines the outputs for `cond`, for `more_conds` and, last, for `uncond` (left out where cfg is 1)."""
        if len(outputs) == 1:
            return outputs[0]
        *wanted, plain = outputs
        weights = (self.weight, *(weight for _, weight in self.more_conds))
        total = plain
        for estimate, weight in zip(wanted, weights, strict=True):
            total = total + (estimate - plain) * (weight * self.cfg)
        return total

    def _unet_outputs(self, x: Tensor, t: Tensor, sigma: Tensor) -> list[Tensor]:
        """Returns the U-Net's outputs in float32 for each prompt and, where it has an effect, the negative prompt."""
        if self.before_call:
            self.before_call(self.step, self.total, float(sigma))
        now, self.step = self.step, self.step + 1
        if self.extra_channels is not None:
            x = torch.cat([x, self.extra_channels], dim=1)
        texts = [self.cond, *(text for text, _ in self.more_conds)]
        if self.cfg != 1 or self.more_conds or self.weight != 1:
            texts.append(self.uncond)
        self._begin_step(len(texts), len(x))
        return self._predict_texts(x, t, texts, now)

    def _begin_step(self, texts: int, images: int) -> None:
        """Says what the rows of the step's calls are conditioned on."""
        if self.begin_rows:
            self.begin_rows(parts_in_turn(1 + len(self.more_conds), images)[: texts * images])

    def _predict_texts(self, x: Tensor, t: Tensor, texts: Sequence[PromptConditioning], step: int) -> list[Tensor]:
        """Returns the U-Net's output for each text at U-Net call `step`."""
        conditions = [
            (text.at(step) if isinstance(text, ConditioningSchedule) else text).expanded_to(len(x)) for text in texts
        ]
        if len({condition.states.shape[1] for condition in conditions}) > 1:
            return [self._call_unet(x, t, condition) for condition in conditions]
        together = Conditioning.concatenated(conditions)
        return list(self._call_unet(torch.cat([x] * len(texts)), t, together).chunk(len(texts)))

    def _call_unet(self, x: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
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
class SamplingPlan:
    """A sampler with its noise schedule and steps; `parse_sampling_plan` makes it.

    Attributes:
        sampler: a name of `SAMPLERS` or `TIMESTEP_SAMPLERS`.
        schedule: a name of `SCHEDULE_TYPES`; "" for samplers over timesteps, such as DDIM.
        steps: 1 to 1000.
        label: what the infotext calls the schedule.
    """

    sampler: str
    schedule: str
    steps: int
    label: str = AUTOMATIC_SCHEDULE

    @property
    def second_order(self) -> bool:
        """Whether a step takes two U-Net calls."""
        return self.sampler in SAMPLERS and SAMPLERS[self.sampler].second_order

    def sampler_noise_schedule(self, noise_schedule: NoiseSchedule) -> NoiseSchedule:
        """Returns the noise levels that the sampler uses: all of the model's, or every 20th for LCM."""
        return (
            ConsistencyNoiseSchedule.from_schedule(noise_schedule)
            if SAMPLERS[self.sampler].is_consistency
            else noise_schedule
        )

    def sigmas(self, noise_schedule: NoiseSchedule, steps: int) -> Tensor:
        """Returns the noise levels of all steps, (steps + 1,), falling to 0."""
        drop = SAMPLERS[self.sampler].discard_next_to_last_sigma
        sigmas = SCHEDULE_TYPES[self.schedule](noise_schedule, steps + drop)
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if drop else sigmas


def parse_sampling_plan(sampler: str, scheduler: str = AUTOMATIC_SCHEDULE, steps: int = 20) -> SamplingPlan:
    """Parses the web UI's names of a sampler and of a schedule, in any case.

    Args:
        sampler: such as "Euler a"; an old name such as "DPM++ 2M Karras" includes the schedule.
        scheduler: such as "Karras", or "Automatic" for the sampler's usual one.
        steps: 1 to 1000.

    Raises:
        LoraError: a name is unknown (the message suggests the nearest one), or steps are outside their range.

    Example:
        >>> parse_sampling_plan("dpm++ 2m karras", steps=12)
        SamplingPlan(sampler='DPM++ 2M', schedule='Karras', steps=12, label='Karras')
    """
    if not 1 <= steps <= 1000:
        raise LoraError(f"steps is from 1 to 1000; got {steps}")
    samplers = {name.lower(): name for name in (*SAMPLERS, *TIMESTEP_SAMPLERS)}
    schedules = {name.lower().replace("_", " "): name for name in SCHEDULE_TYPES}
    name, wanted = sampler.strip().lower(), scheduler.strip().lower().replace("_", " ")
    for tail in schedules:
        if name not in samplers and name.endswith(" " + tail):
            name, wanted = name.removesuffix(" " + tail), tail
    if name not in samplers:
        raise LoraError(f"unknown sampler {sampler!r}{did_you_mean(sampler, (*SAMPLERS, *TIMESTEP_SAMPLERS))}")
    if wanted != AUTOMATIC_SCHEDULE.lower() and wanted not in schedules:
        raise LoraError(
            f"unknown scheduler {scheduler!r}{did_you_mean(scheduler, (AUTOMATIC_SCHEDULE, *SCHEDULE_TYPES))}"
        )
    found = samplers[name]
    if found in TIMESTEP_SAMPLERS:
        return SamplingPlan(found, "", steps, schedules.get(wanted, AUTOMATIC_SCHEDULE))
    usual = SAMPLERS[found].schedule
    label = schedules.get(wanted, AUTOMATIC_SCHEDULE if usual == "Uniform" else usual)
    return SamplingPlan(found, schedules.get(wanted, usual), steps, label)


def sample_from_noise(plan: SamplingPlan, denoiser: CfgDenoiser, noise: ImageNoise) -> Tensor:
    """Samples a latent (images, channels, h, w) from pure noise (txt2img)."""
    denoiser.total = plan.steps * (1 + plan.second_order)
    if plan.sampler in TIMESTEP_SAMPLERS:
        return TIMESTEP_SAMPLERS[plan.sampler](
            denoiser.predict_noise, noise(), uniform_timesteps(plan.steps), 1.0, denoiser.noise_schedule
        )
    denoiser.noise_schedule = plan.sampler_noise_schedule(denoiser.noise_schedule)
    sigmas = plan.sigmas(denoiser.noise_schedule, plan.steps)
    return SAMPLERS[plan.sampler].function(denoiser, noise() * sigmas[0], sigmas, noise)


def sample_from_latent(
    plan: SamplingPlan, denoiser: CfgDenoiser, noise: ImageNoise, latent: Tensor, strength: float, exact_steps: bool
) -> Tensor:
    """Changes a latent: adds the noise of a share of the schedule and samples from there, as the web UI does.

    Args:
        plan: sampler, schedule and steps.
        denoiser: the U-Net under guidance.
        noise: the noise that is added, and that ancestral samplers add later.
        latent: (images, channels, h, w), float32.
        strength: the share of the schedule, 0 to 1.
        exact_steps: whether exactly `plan.steps` steps are made (hires pass), not that share of them (img2img).
    """
    share = min(strength, 0.999)
    if exact_steps:
        if share <= 0:
            return latent
        steps, last = int(plan.steps / share), plan.steps - 1
    else:
        steps, last = plan.steps, int(share * plan.steps)
    denoiser.total = (last + 1) * (1 + plan.second_order)
    if plan.sampler in TIMESTEP_SAMPLERS:
        every = uniform_timesteps(steps)
        if last < 1:
            return latent
        alpha = denoiser.noise_schedule.alphas_cumprod[every[last]].item()
        x = latent * alpha**0.5 + noise() * (1 - alpha) ** 0.5
        start = (int(every[last - 1]) + 1) / len(denoiser.noise_schedule.alphas_cumprod)
        return TIMESTEP_SAMPLERS[plan.sampler](denoiser.predict_noise, x, every[:last], start, denoiser.noise_schedule)
    denoiser.noise_schedule = plan.sampler_noise_schedule(denoiser.noise_schedule)
    sigmas = plan.sigmas(denoiser.noise_schedule, steps)[steps - last - 1 :]
    return SAMPLERS[plan.sampler].function(denoiser, latent + noise() * sigmas[0], sigmas, noise)

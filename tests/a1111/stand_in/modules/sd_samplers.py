"""Samplers, and the denoiser that they call."""

from itertools import pairwise

import torch

from modules import prompt_parser, script_callbacks, sd_models, shared


class Interrupted(Exception):
    """A sampler gives what it has so far."""


class CFGDenoiser(torch.nn.Module):
    """Classifier-free guidance. `total_steps` counts its calls."""

    def __init__(self, p, sampler):
        super().__init__()
        vars(self).update(p=p, sampler=sampler)
        self.step, self.steps, self.total_steps = 0, 0, 0

    def forward(self, x, sigma):
        state, p = shared.state, self.p
        if state.interrupted or state.skipped:
            raise Interrupted
        self.refine()
        cond, uncond = (prompt_parser.at_step(texts, self.step) for texts in self.sampler.texts)
        counts = [len(parts) for parts in self.sampler.texts[0].batch]
        rows = torch.cat([x[i : i + 1].repeat(count, 1, 1, 1) for i, count in enumerate(counts)])
        params = script_callbacks.CFGDenoiserParams(
            torch.cat([rows, x]), None, sigma, state.sampling_step, state.sampling_steps, cond, uncond, self
        )
        script_callbacks.run("cfg_denoiser", params)
        model = shared.sd_model
        out = params.x - sigma * model.noise(params.x, sigma, torch.cat([params.text_cond, params.text_uncond]))
        with_text, without = out[: len(rows)], out[len(rows) :]
        more = []
        for parts, base, rows_of in zip(with_text.split(counts), without, self.sampler.texts[0].batch, strict=True):
            weighted = [(part - base) * (one.weight * p.cfg_scale) for part, one in zip(parts, rows_of, strict=True)]
            more.append(sum(weighted))
        self.step += 1
        state.sampling_step = self.step - 1
        self.sampler.last = without + torch.stack(more)
        return self.sampler.last

    def refine(self):
        """The refiner's model takes over from its step on."""
        p = self.p
        info = p.refiner_checkpoint and sd_models.checkpoints[p.refiner_checkpoint]
        if not info or shared.sd_model.sd_checkpoint_info is info or self.step < p.refiner_switch_at * self.steps:
            return
        sd_models.reload_model_weights(info=info)
        p.setup_conds()
        self.sampler.texts = p.get_conds()


class SamplerData:
    """step: from the latent, its noise levels and the generators to the next latent. calls: denoiser calls a step."""

    def __init__(self, name, calls, step):
        self.name, self.calls, self.step = name, calls, step

    def total_steps(self, steps):
        return steps * self.calls


def _euler(denoise, x, now, then, noise):
    return x + (x - denoise(x, now)) / now * (then - now)


def _ancestral(denoise, x, now, then, noise):
    up = min(then, (then**2 * (now**2 - then**2) / now**2) ** 0.5)
    down = (then**2 - up**2) ** 0.5
    return _euler(denoise, x, now, down, noise) + noise() * up


def _heun(denoise, x, now, then, noise):
    slope = (x - denoise(x, now)) / now
    end = x + slope * (then - now)
    if not then:
        return end
    return x + (slope + (end - denoise(end, then)) / then) / 2 * (then - now)


all_samplers = [
    SamplerData("Euler", 1, _euler), SamplerData("Euler a", 1, _ancestral), SamplerData("Heun", 2, _heun)
]  # fmt: skip
all_samplers_map = {sampler.name: sampler for sampler in all_samplers}


def find_sampler_config(name):
    return all_samplers_map.get(name, all_samplers[0])


class Sampler:
    def __init__(self, name, p, texts):
        self.data, self.p, self.texts, self.last = find_sampler_config(name), p, texts, None

    def sample(self, x):
        return self._run(x, self._levels(self.p.steps), self.p.steps)

    def sample_img2img(self, latent, noise, steps=None):
        """Where steps are given that many are made, else their share that `denoising_strength` leaves."""
        strength = min(self.p.denoising_strength, 0.999)
        calls = steps or int(strength * self.p.steps) + 1
        levels = self._levels(int(self.p.steps / strength) if steps else self.p.steps)[-calls - 1 :]
        return self._run(latent + noise * (levels[0] / self._levels(1)[0]), levels, calls)

    def _levels(self, steps):
        sigmas = shared.sd_model.sigmas
        places = torch.linspace(len(sigmas) - 1, 0, steps).long()
        return [*sigmas[places].tolist(), 0.0]

    def _run(self, x, levels, steps):
        denoise = CFGDenoiser(self.p, self)
        denoise.steps, denoise.total_steps = steps, self.data.total_steps(steps)
        shared.state.sampling_steps = steps
        x = x * levels[0]
        try:
            for now, then in pairwise(levels):
                x = self.data.step(denoise, x, now, then, self.p.rng.next)
        except Interrupted:
            return self.last
        return x

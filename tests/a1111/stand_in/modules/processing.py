"""Pictures: txt2img with its hires pass, and img2img. Each is made in the recorded order of calls."""

import ast
import inspect
import json
import random
import re
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from webui_contract import recording

from modules import devices, extra_networks, prompt_parser, rng, sd_models, sd_samplers, shared


def _recorded_init(name):
    """`__init__` with the parameters that the real class has: there are about fifty of them."""
    written = recording()["names"][f"modules.processing.{name}"].removeprefix("class (").removesuffix(")")
    pairs = re.findall(r"(\w+)=('[^']*'|[^,]+)", written)
    defaults = {name: ast.literal_eval(value) for name, value in pairs}
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(n, keyword, default=d) for n, d in defaults.items()])

    def init(self, *args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        vars(self).update({n: value for n, value in bound.arguments.items() if n != "sd_model"})
        self.extra_generation_params, self.comments = self.extra_generation_params or {}, {}
        self.cached_c, self.cached_uc = StableDiffusionProcessing.cached_c, StableDiffusionProcessing.cached_uc
        if hasattr(self, "cached_hr_c"):
            kind = StableDiffusionProcessingTxt2Img
            self.cached_hr_c, self.cached_hr_uc = kind.cached_hr_c, kind.cached_hr_uc

    me = inspect.Parameter("self", keyword)
    init.__signature__ = inspect.Signature([me, *signature.parameters.values()])
    return init


class StableDiffusionProcessing:
    __init__ = _recorded_init("StableDiffusionProcessing")
    cached_c, cached_uc = [None, None], [None, None]
    scripts = rng = c = uc = None
    all_prompts = all_negative_prompts = all_seeds = all_subseeds = None
    prompts = negative_prompts = seeds = subseeds = extra_network_data = None
    is_hr_pass, iteration = False, 0

    @property
    def sd_model(self):
        return shared.sd_model

    def comment(self, text):
        self.comments[text] = 1

    def setup_prompts(self):
        self.all_prompts = _each(self.prompt, self.batch_size * self.n_iter)
        self.all_negative_prompts = _each(self.negative_prompt, len(self.all_prompts))

    def parse_extra_network_prompts(self):
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def get_conds(self):
        return self.c, self.uc

    def setup_conds(self):
        config = sd_samplers.find_sampler_config(self.sampler_name)
        total = config.total_steps(self.steps) if config else self.steps
        tags = self.extra_network_data
        size = {"width": self.width, "height": self.height}
        negative = prompt_parser.SdConditioning(self.negative_prompts, is_negative_prompt=True, **size)
        positive = prompt_parser.SdConditioning(self.prompts, **size)
        one, several = prompt_parser.get_learned_conditioning, prompt_parser.get_multicond_learned_conditioning
        self.uc = self.get_conds_with_caching(one, negative, total, [self.cached_uc], tags)
        self.c = self.get_conds_with_caching(several, positive, total, [self.cached_c], tags)

    def get_conds_with_caching(self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None):
        """What was computed for the same texts, tags and settings is taken from the caches."""
        tags, info, opts = extra_network_data, shared.sd_model.sd_checkpoint_info, shared.opts
        key = (
            [*required_prompts], steps, hires_steps, opts.CLIP_stop_at_last_layers, info, tags, self.width, self.height,
            opts.emphasis,
        )  # fmt: skip
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        caches[0][:] = key, function(shared.sd_model, required_prompts, steps, hires_steps, opts.use_old_scheduling)
        return caches[0][1]

    def close(self):
        self.c = self.uc = None


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    __init__ = _recorded_init("StableDiffusionProcessingTxt2Img")
    cached_hr_c, cached_hr_uc = [None, None], [None, None]
    all_hr_prompts = all_hr_negative_prompts = hr_prompts = hr_negative_prompts = hr_extra_network_data = None
    hr_c = hr_uc = None

    def setup_prompts(self):
        super().setup_prompts()
        if self.enable_hr:
            count = self.batch_size * self.n_iter
            self.all_hr_prompts = _each(self.hr_prompt or self.prompt, count)
            self.all_hr_negative_prompts = _each(self.hr_negative_prompt or self.negative_prompt, count)

    def parse_extra_network_prompts(self):
        super().parse_extra_network_prompts()
        if self.enable_hr:
            here = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
            self.hr_negative_prompts = self.all_hr_negative_prompts[here]
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(self.all_hr_prompts[here])

    def setup_conds(self):
        super().setup_conds()
        self.hr_c = self.hr_uc = None

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        x = self.rng.next()
        samples = sd_samplers.Sampler(self.sampler_name, self, (conditioning, unconditional_conditioning)).sample(x)
        if not self.enable_hr:
            return samples
        named = self.hr_checkpoint_name and sd_models.checkpoints[self.hr_checkpoint_name]
        sd_models.reload_model_weights(info=named)
        return self.sample_hr_pass(samples, None, seeds, subseeds, subseed_strength, prompts)

    def sample_hr_pass(self, samples, decoded_samples, seeds, subseeds, subseed_strength, prompts):
        if shared.state.interrupted:
            return samples
        self.is_hr_pass = True
        size = [int(side * self.hr_scale) // 8 for side in (self.height, self.width)]
        samples = torch.nn.functional.interpolate(samples, size=size, mode="bilinear")
        self.rng = rng.ImageRNG(samples.shape[1:], self.seeds, subseeds=self.subseeds)
        noise = self.rng.next()
        with devices.autocast():
            extra_networks.activate(self, self.hr_extra_network_data)
            self._hr_conds()
        steps = self.hr_second_pass_steps or self.steps
        sampler = sd_samplers.Sampler(self.hr_sampler_name or self.sampler_name, self, (self.hr_c, self.hr_uc))
        samples = sampler.sample_img2img(samples, noise, steps)
        decoded = decode_latent_batch(shared.sd_model, samples, target_device=devices.cpu, check_for_nans=True)
        self.is_hr_pass = False
        return decoded

    def _hr_conds(self):
        config = sd_samplers.find_sampler_config(self.hr_sampler_name or self.sampler_name)
        steps, tags = self.hr_second_pass_steps or self.steps, self.hr_extra_network_data
        total, first = config.total_steps(steps), config.total_steps(self.steps)
        size = {"width": self.width, "height": self.height}
        negative = prompt_parser.SdConditioning(self.hr_negative_prompts, is_negative_prompt=True, **size)
        positive = prompt_parser.SdConditioning(self.hr_prompts, **size)
        one, several = prompt_parser.get_learned_conditioning, prompt_parser.get_multicond_learned_conditioning
        self.hr_uc = self.get_conds_with_caching(one, negative, first, [self.cached_hr_uc, self.cached_uc], tags, total)
        self.hr_c = self.get_conds_with_caching(
            several, positive, first, [self.cached_hr_c, self.cached_c], tags, total
        )

    def close(self):
        super().close()
        self.hr_c = self.hr_uc = None


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    __init__ = _recorded_init("StableDiffusionProcessingImg2Img")

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        pixels = torch.stack([torch.from_numpy(np.array(image)).float() / 127.5 - 1 for image in self.init_images])
        vae = shared.sd_model.first_stage_model
        latent = vae.quant_conv(vae.encoder(pixels.permute(0, 3, 1, 2))).chunk(2, dim=1)[0]
        latent = latent * shared.sd_model.scale_factor
        sampler = sd_samplers.Sampler(self.sampler_name, self, (conditioning, unconditional_conditioning))
        return sampler.sample_img2img(latent, self.rng.next())


def process_images(p):
    sd_models.reload_model_weights()
    devices.torch_gc()
    p.setup_prompts()
    seed = random.randrange(2**32) if p.seed in (None, -1) else p.seed
    p.all_seeds = seed if isinstance(seed, list) else [seed + i for i in range(len(p.all_prompts))]
    p.all_subseeds = [0] * len(p.all_prompts)
    images, infotexts = [], []
    with torch.no_grad():
        for batch in range(p.n_iter):
            p.iteration = batch
            if shared.state.interrupted or shared.state.stopping_generation:
                break
            _batch(p, images, infotexts)
        if not infotexts:
            infotexts.append(create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds))
        if p.extra_network_data:
            extra_networks.deactivate(p, p.extra_network_data)
    return SimpleNamespace(images=images, infotexts=infotexts, info=infotexts[0])


def _batch(p, images, infotexts):
    sd_models.reload_model_weights()
    here = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
    p.prompts, p.negative_prompts = p.all_prompts[here], p.all_negative_prompts[here]
    p.seeds, p.subseeds = p.all_seeds[here], p.all_subseeds[here]
    p.rng = rng.ImageRNG((4, p.height // 8, p.width // 8), p.seeds, subseeds=p.subseeds, subseed_strength=0)
    p.parse_extra_network_prompts()
    with devices.autocast():
        extra_networks.activate(p, p.extra_network_data)
    p.setup_conds()
    if not p.iteration:
        create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds)
    samples = p.sample(p.c, p.uc, p.seeds, p.subseeds, p.subseed_strength, p.prompts)
    if not getattr(samples, "already_decoded", False):
        samples = decode_latent_batch(shared.sd_model, samples, target_device=devices.cpu, check_for_nans=True)
    if shared.sd_model.lowvram:
        from modules import lowvram

        lowvram.send_everything_to_cpu()
    if p.scripts is not None:
        p.prompts = p.all_prompts[here]
    for place, pixels in enumerate(samples):
        array = ((pixels.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).to(torch.uint8).numpy()
        image = Image.fromarray(array)
        text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=place, all_negative_prompts=p.negative_prompts)
        image.info["parameters"] = text
        images.append(image)
        infotexts.append(text)


class DecodedSamples(list):
    already_decoded = True


def decode_latent_batch(model, batch, target_device=None, check_for_nans=False):
    vae = model.first_stage_model
    return DecodedSamples(vae.decode(latent[None] / model.scale_factor)[0] for latent in batch)


def create_infotext(
    p, all_prompts, all_seeds, all_subseeds, comments=None, iteration=0, position_in_batch=0, use_main_prompt=False,
    index=None, all_negative_prompts=None,
):  # fmt: skip
    index = position_in_batch + iteration * p.batch_size if index is None else index
    told = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, "Seed": all_seeds[index]}
    told |= {"Size": f"{p.width}x{p.height}", "Model": shared.sd_model.sd_checkpoint_info.name_for_extra}
    told |= p.extra_generation_params
    written = ", ".join(f"{key}: {_quoted(value)}" for key, value in told.items() if value is not None)
    negative = (all_negative_prompts or p.all_negative_prompts)[index]
    return f"{all_prompts[index]}\nNegative prompt: {negative}\n{written}"


def _quoted(value):
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _each(prompt, count):
    return list(prompt) if isinstance(prompt, list) else [prompt] * count

"""Several txt2img pictures in one batch of the web UI, each with LoRA weights, a seed and conditioning of its own.

The web UI gives a batch the tags of its first prompt. Here the prompts reach it without tags: each picture's text goes
through the text encoder with that picture's files on it, then the U-Net draws all of them, each with its own gains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from modules import devices, processing, prompt_parser, script_callbacks, sd_samplers, shared
from PIL import Image

from ...applied_networks import Fit, Presets, Use, resolve
from ...compare.generate_cells import Stopped
from ...compare.image_spec import Shot
from ...compare.per_image_weights import Mixed
from ...file.lora_library import Library
from ...inject import LIVE
from ...lora_tags import parse
from .. import block_weights_infotext
from ..infotext import KEY, lora_hashes
from .models import A1111Model, plain_numbers


class Several(processing.StableDiffusionProcessingTxt2Img):
    """A batch whose pictures have uses of their own. Its prompts hold no tags."""

    mixed: Mixed
    uses: Sequence[Sequence[Use]]
    fits: Sequence[Fit] = ()

    def parse_extra_network_prompts(self) -> None:
        """No tags: who has `<lora:…>` takes off what is left of the picture before."""
        self.extra_network_data: dict[str, Any] = {}

    def setup_conds(self) -> None:
        """Each picture's conditioning with its own files on the text encoder; then the U-Net's for all of them."""
        config = sd_samplers.find_sampler_config(self.sampler_name)
        total = config.total_steps(self.steps) if config else self.steps
        self.step_multiplier, self.firstpass_steps = total // self.steps, total
        self.hr_c = self.hr_uc = None
        self.uc, batch = [], []
        for place, own in enumerate(self.uses):
            self._put([[replace(use, unet=0.0) for use in own]])
            self.uc += self._texts(prompt_parser.get_learned_conditioning, self.negative_prompts[place], total, True)
            made = self._texts(prompt_parser.get_multicond_learned_conditioning, self.prompts[place], total, False)
            batch += made.batch
        self.c = prompt_parser.MulticondLearnedConditioning(shape=(len(batch),), batch=batch)
        self._put([[replace(use, te=0.0) for use in own] for own in self.uses])

    def _put(self, each: Sequence[Sequence[Use]]) -> None:
        with plain_numbers():
            self.fits = self.mixed.set_each(each)

    def _texts(self, read: Callable[..., Any], text: str, total: int, negative: bool) -> Any:
        """One text's conditioning over all steps."""
        texts = prompt_parser.SdConditioning([text], width=self.width, height=self.height, is_negative_prompt=negative)
        with devices.autocast():
            return read(shared.sd_model, texts, total, None, shared.opts.use_old_scheduling)

    def on_step(self, params: Any) -> None:
        """Before each call of the denoiser: schedules move to its step."""
        denoiser = params.denoiser
        with plain_numbers():
            self.mixed.at_step(denoiser.step, denoiser.total_steps or denoiser.steps or 1)


def settings(shot: Shot, size: tuple[int, int]) -> dict[str, Any]:
    """What a batch shares, with the names of the web UI's processing; nothing is saved by it."""
    return {
        "steps": shot.steps,
        "sampler_name": shot.sampler,
        "scheduler": shot.scheduler,
        "cfg_scale": shot.cfg,
        "width": size[0],
        "height": size[1],
        "do_not_save_samples": True,
        "do_not_save_grid": True,
    }


def draw(
    sd_model: Any, library: Library, presets: Presets, shots: Sequence[Shot], size: tuple[int, int]
) -> tuple[list[Image.Image], Sequence[Fit]]:
    """The pictures with their infotext, and how each file fits. `shots` have one text, size and sampler; `size`:
    (width, height). Raises Stopped when the user interrupted."""
    first = shots[0]
    uses = [[resolve(request, library, presets, seed=shot.seed) for request in shot.tags()] for shot in shots]
    p = Several(
        sd_model=sd_model,
        prompt=[parse(shot.prompt)[0].rstrip() for shot in shots],
        negative_prompt=[shot.negative_prompt for shot in shots],
        seed=[shot.seed for shot in shots],
        batch_size=len(shots),
        **settings(first, size),
    )
    with Mixed(A1111Model(sd_model), LIVE) as mixed:
        p.mixed, p.uses = mixed, uses
        script_callbacks.on_cfg_denoiser(p.on_step)
        try:
            made = processing.process_images(p)
            if shared.state.interrupted or len(made.images) < len(shots):
                raise Stopped
            images = list(made.images[-len(shots) :])
            for place, image in enumerate(images):
                image.info[KEY] = _infotext(p, shots, uses, library, presets, place)
        finally:
            script_callbacks.remove_callbacks_for_function(p.on_step)
            p.close()
    return images, p.fits


def _infotext(
    p: Several, shots: Sequence[Shot], uses: Sequence[Sequence[Use]], library: Library, presets: Presets, place: int
) -> str:
    """One picture's infotext with its own tags, as if it had been drawn alone."""
    requests = shots[place].tags()
    rows = [row for request, use in zip(requests, uses[place], strict=True)
            if (row := block_weights_infotext.row_of(request, use.blocks))]  # fmt: skip
    told = {
        "Lora hashes": lora_hashes({request.name: library.find(request.name).hash for request in requests}),
        block_weights_infotext.KEY: block_weights_infotext.written(rows),
        block_weights_infotext.SEED_KEY: shots[place].seed
        if any(block_weights_infotext.drawn(request, presets) for request in requests)
        else None,
    }
    before = p.extra_generation_params
    p.extra_generation_params = {**before, **{name: value for name, value in told.items() if value is not None}}
    prompts = [shot.prompt for shot in shots]
    text = processing.create_infotext(p, prompts, p.all_seeds, p.all_subseeds, position_in_batch=place)
    p.extra_generation_params = before
    return str(text)

"""A txt2img batch of the web UI in which each image has LoRA weights, a seed and conditioning of its own.

The web UI applies the tags of the first prompt to the whole batch. Here the prompts have no tags: each text is encoded
with its own files applied to the text encoder, then the U-Net samples all images, each with its own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from modules import processing, prompt_parser, script_callbacks, scripts, sd_samplers, shared
from PIL import Image

from ...adapter_spec import AdapterSpec, Presets, resolve_tag
from ...compare.generate_cells import SheetStopped
from ...compare.image_spec import ImageSpec
from ...compare.per_image_weights import PerImageNetworks
from ...file.lora_library import LoraLibrary
from ...fit_report import FitReport
from ...inject import LIVE
from ...lora_tags import parse_lora_tags
from .. import block_weights_infotext
from ..infotext import PARAMETERS_KEY, format_hashes
from .builtin_lora import infotext_hash
from .call_sigma import call_sigma
from .models import A1111Model, has_patch_manager, without_autocast


class PerImageProcessing(processing.StableDiffusionProcessingTxt2Img):
    """A batch whose images have different LoRA weights. Its prompts contain no tags.

    Attributes:
        applied_networks: applies files with weights for each image.
        specs_per_image: for each image what its tags apply.
        fits: how each file fits the model.
    """

    applied_networks: PerImageNetworks
    specs_per_image: Sequence[Sequence[AdapterSpec]]
    fits: Sequence[FitReport] = ()

    def parse_extra_network_prompts(self) -> None:
        """Passes no tags, so that whoever applies `<lora:…>` removes the files of the image before."""
        self.extra_network_data: dict[str, Any] = {}

    def setup_conds(self) -> None:
        """Encodes each prompt with its own files on the text encoder, then applies all files to the U-Net."""
        config = sd_samplers.find_sampler_config(self.sampler_name)
        total = config.total_steps(self.steps) if config else self.steps
        self.step_multiplier, self.firstpass_steps = total // self.steps, total
        self.hr_c = self.hr_uc = None
        self.uc, batch = [], []
        for place, own in enumerate(self.specs_per_image):
            self._apply_specs([[replace(spec, unet=0.0) for spec in own]])
            self.uc += self._encode_prompt(
                prompt_parser.get_learned_conditioning, self.negative_prompts[place], total, True
            )
            made = self._encode_prompt(
                prompt_parser.get_multicond_learned_conditioning, self.prompts[place], total, False
            )
            batch += made.batch
        self.c = prompt_parser.MulticondLearnedConditioning(shape=(len(batch),), batch=batch)
        self._apply_specs([[replace(spec, te=0.0) for spec in own] for own in self.specs_per_image])

    def _apply_specs(self, specs_per_image: Sequence[Sequence[AdapterSpec]]) -> None:
        with without_autocast():
            self.fits = self.applied_networks.apply_each(specs_per_image)

    def _encode_prompt(self, encode: Callable[..., Any], text: str, total: int, negative: bool) -> Any:
        """Encodes one text for all steps by the web UI's function, which in Forge passes on the setting "Clip skip"."""
        texts = prompt_parser.SdConditioning([text], width=self.width, height=self.height, is_negative_prompt=negative)
        not_kept = [None, None, None]  # the LoRAs differ between images, which the web UI's own cache does not know
        return self.get_conds_with_caching(encode, texts, total, [not_kept], self.extra_network_data)

    def on_step(self, params: Any) -> None:
        """Called before each U-Net call: moves the schedules of tags to this step."""
        denoiser = params.denoiser
        with without_autocast():
            total = denoiser.total_steps or denoiser.steps or 1
            sigma = call_sigma(params) if self.applied_networks.needs_sigma else None  # reading it waits for a GPU
            self.applied_networks.at_step(denoiser.step, total, sigma)


def processing_arguments(image_spec: ImageSpec, size: tuple[int, int]) -> dict[str, Any]:
    """Returns what a batch shares as arguments of the web UI's processing, which saves nothing."""
    has_scheduler = hasattr(processing.StableDiffusionProcessing, "scheduler")  # in Forge Classic the sampler has it
    return {
        **({"scheduler": image_spec.scheduler} if has_scheduler else {}),
        "steps": image_spec.steps,
        "sampler_name": image_spec.sampler,
        "cfg_scale": image_spec.cfg,
        "width": size[0],
        "height": size[1],
        "do_not_save_samples": True,
        "do_not_save_grid": True,
    }


def without_scripts(p: Any) -> None:
    """Gives an image a runner of no scripts: reForge reads `p.scripts` without asking whether there is one."""
    if has_patch_manager():
        p.scripts = scripts.ScriptRunner()


def generate_per_image_batch(
    sd_model: Any, library: LoraLibrary, presets: Presets, image_specs: Sequence[ImageSpec], size: tuple[int, int]
) -> tuple[list[Image.Image], Sequence[FitReport]]:
    """Generates a batch of images.

    Args:
        sd_model: the web UI's model.
        library: the index of LoRA files.
        presets: what `lbw=` may name.
        image_specs: the images, with one text, size and sampler.
        size: (width, height) in pixels.

    Returns:
        The images with their infotext, and how each file fits.

    Raises:
        SheetStopped: the user pressed Interrupt.
    """
    first = image_specs[0]
    specs = [
        [resolve_tag(request, library, presets, seed=image_spec.seed) for request in image_spec.tags()]
        for image_spec in image_specs
    ]
    p = PerImageProcessing(
        sd_model=sd_model,
        prompt=[parse_lora_tags(image_spec.prompt)[0].rstrip() for image_spec in image_specs],
        negative_prompt=[image_spec.negative_prompt for image_spec in image_specs],
        seed=[image_spec.seed for image_spec in image_specs],
        batch_size=len(image_specs),
        **processing_arguments(first, size),
    )
    with PerImageNetworks(A1111Model(sd_model), LIVE) as mixed:
        p.applied_networks, p.specs_per_image = mixed, specs
        without_scripts(p)
        script_callbacks.on_cfg_denoiser(p.on_step)
        try:
            made = processing.process_images(p)
            if shared.state.interrupted or len(made.images) < len(image_specs):
                raise SheetStopped
            images = list(made.images[-len(image_specs) :])
            for place, image in enumerate(images):
                image.info[PARAMETERS_KEY] = _infotext(p, image_specs, specs, library, presets, place)
        finally:
            script_callbacks.remove_callbacks_for_function(p.on_step)
            p.close()
    return images, p.fits


def _infotext(
    p: PerImageProcessing,
    image_specs: Sequence[ImageSpec],
    specs_per_image: Sequence[Sequence[AdapterSpec]],
    library: LoraLibrary,
    presets: Presets,
    place: int,
) -> str:
    """Returns one image's infotext with its own tags, as if it had been generated alone."""
    requests = image_specs[place].tags()
    rows = [row for request, spec in zip(requests, specs_per_image[place], strict=True)
            if (row := block_weights_infotext.block_weights_row(request, spec.blocks))]  # fmt: skip
    entries = {
        "Lora hashes": format_hashes({request.name: infotext_hash(library.find(request.name)) for request in requests}),
        block_weights_infotext.BLOCK_WEIGHTS_KEY: block_weights_infotext.format_block_weights_rows(rows),
        block_weights_infotext.BLOCK_SEED_KEY: image_specs[place].seed
        if any(block_weights_infotext.has_random_block_weights(request, presets) for request in requests)
        else None,
    }
    before = p.extra_generation_params
    p.extra_generation_params = {**before, **{name: value for name, value in entries.items() if value is not None}}
    prompts = [image_spec.prompt for image_spec in image_specs]
    text = processing.create_infotext(p, prompts, p.all_seeds, p.all_subseeds, position_in_batch=place)
    p.extra_generation_params = before
    return str(text)

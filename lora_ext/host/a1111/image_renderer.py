"""Renders the images of sheets in the web UI: images with one text go through in batches, each with its own weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from modules import devices, processing, shared
from PIL import Image

from ...adapter_spec import Presets
from ...compare.generate_cells import DenoisingCallback, SheetStopped, tags_identity
from ...compare.image_spec import ImageSpec
from ...errors import LoraError
from ...file.lora_library import LoraLibrary
from ...fit_report import FitReport
from ...lora_tags import parse_lora_tags
from ..infotext import PARAMETERS_KEY
from .model_kind import sd_model_native_size
from .model_loading import forge_loading_choices
from .models import current_sd_model, is_supported_model
from .per_image_batch import generate_per_image_batch, processing_arguments, without_scripts
from .script_lifetime import SCRIPT_LIFETIME

_SETTINGS_THAT_CHANGE_IMAGES = (
    "CLIP_stop_at_last_layers", "sd_vae", "randn_source", "eta_noise_seed_delta", "token_merging_ratio",
          "use_old_scheduling", "upcast_attn", "lora_ext_and_parts", "lora_ext_on_negative")  # fmt: skip
"""Settings that change an image."""


class A1111ImageRenderer:
    """Generates cells of a sheet with the loaded model. Use it only while holding the queue lock."""

    def __init__(self, library: LoraLibrary, presets: Presets | None = None) -> None:
        self.library, self.presets = library, presets or Presets()
        self.fits: dict[str, FitReport] = {}
        self.title = str(getattr(getattr(current_sd_model(), "sd_checkpoint_info", None), "model_name", ""))

    def identity(self, image_spec: ImageSpec) -> str:
        """Identifies checkpoint, LoRA files and settings: two images with the same identity are equal."""
        model = current_sd_model()
        if model is None:
            raise LoraError("no model is loaded; choose a checkpoint at the top of the page")
        info = model.sd_checkpoint_info
        parts = [
            info.filename,
            info.sha256 or "",
            *(getattr(shared.opts, name, "") for name in _SETTINGS_THAT_CHANGE_IMAGES),
            *forge_loading_choices(),
        ]
        return ":".join([*map(str, parts), tags_identity(image_spec, self.library, self.presets)])

    def batch_key(self, image_spec: ImageSpec) -> Hashable:
        """Returns what images of one batch share. The text is part of it: lengths would change each other's padding."""
        text = parse_lora_tags(image_spec.prompt)[0].rstrip()
        if not is_supported_model(current_sd_model()) or "AND" in text:  # AND gives an image several conditionings
            return image_spec
        single = any(tag.at or tag.acts_on_single_conditions for tag in image_spec.tags())
        if single or not getattr(shared.opts, "lora_ext_on_negative", True):  # weights that differ within an image
            return image_spec
        return (*image_spec.batch_key(), text, image_spec.negative_prompt)

    def generate(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        """Generates images, each with its infotext; the web UI saves none of them.

        A batch that does not fit in memory is halved. Images are generated again where Reload UI came in between, since
        it removes LoRA files from the model.
        """
        while True:
            SCRIPT_LIFETIME.loaded.wait()
            reloads = SCRIPT_LIFETIME.reloads
            try:
                images = self._generate_batch(image_specs, on_step)
            except Exception:
                if reloads == SCRIPT_LIFETIME.reloads:
                    raise
            else:
                if reloads == SCRIPT_LIFETIME.reloads:
                    return images

    def _generate_batch(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        on_step(0, len(image_specs))
        if len(image_specs) == 1:
            return [self._generate_one(image_specs[0])]
        try:
            images, fits = generate_per_image_batch(
                current_sd_model(), self.library, self.presets, image_specs, _size(image_specs[0])
            )
        except torch.cuda.OutOfMemoryError:
            images, fits = [], []
        if images:
            self.fits |= {fit.name: fit for fit in fits}
            return images
        devices.torch_gc()
        half = len(image_specs) // 2
        return [*self._generate_batch(image_specs[:half], on_step), *self._generate_batch(image_specs[half:], on_step)]

    def _generate_one(self, image_spec: ImageSpec) -> Image.Image:
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model,
            prompt=image_spec.prompt,
            negative_prompt=image_spec.negative_prompt,
            seed=image_spec.seed,
            **processing_arguments(image_spec, _size(image_spec)),
        )
        without_scripts(p)
        try:
            made = processing.process_images(p)
            if shared.state.interrupted or not made.images:
                raise SheetStopped
            image: Image.Image = made.images[0]
            # without scripts the web UI writes the prompt without its tags
            image.info[PARAMETERS_KEY] = processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds)
        finally:
            p.close()
        return image


def _size(image_spec: ImageSpec) -> tuple[int, int]:
    """Returns (width, height), by default the model's native size."""
    side = sd_model_native_size(current_sd_model())
    return image_spec.width or side, image_spec.height or side

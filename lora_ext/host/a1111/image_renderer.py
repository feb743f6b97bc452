"""The web UI as `compare`'s artist: pictures of one text go through in batches, each with LoRA weights of its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from modules import devices, processing, shared
from PIL import Image

from ...applied_networks import Fit, Presets
from ...compare.generate_cells import Stopped, Tick, depends
from ...compare.image_spec import Shot
from ...errors import LoraError
from ...file.lora_library import Library
from ...lora_tags import parse
from ..infotext import KEY
from .model_kind import native_side_of
from .models import current, knows
from .per_image_batch import draw, settings
from .script_lifetime import PAGE

_COUNT = ("CLIP_stop_at_last_layers", "sd_vae", "randn_source", "eta_noise_seed_delta", "token_merging_ratio",
          "use_old_scheduling", "upcast_attn")  # fmt: skip
"""Settings of the web UI that a picture depends on."""


class A1111Artist:
    """Draws with the model that is loaded. Use it only while the queue is ours."""

    def __init__(self, library: Library, presets: Presets | None = None) -> None:
        self.library, self.presets = library, presets or Presets()
        self.fits: dict[str, Fit] = {}
        self.title = str(getattr(getattr(current(), "sd_checkpoint_info", None), "model_name", ""))

    def identity(self, shot: Shot) -> str:
        """Checkpoint, LoRA files, and those of the web UI's settings that change pictures."""
        model = current()
        if model is None:
            raise LoraError("no model is loaded; choose a checkpoint at the top of the page")
        info = model.sd_checkpoint_info
        told = [info.filename, info.sha256 or "", *(getattr(shared.opts, name, "") for name in _COUNT)]
        return ":".join([*map(str, told), depends(shot, self.library, self.presets)])

    def group(self, shot: Shot) -> Hashable:
        """Size, sampler and steps, and the text: texts of other lengths would change each other's padding."""
        text = parse(shot.prompt)[0].rstrip()
        if not knows(current()) or "AND" in text:  # AND is several conditions a picture
            return shot
        return (*shot.group(), text, shot.negative_prompt)

    def draw(self, shots: Sequence[Shot], tick: Tick) -> list[Image.Image]:
        """The pictures, each with its infotext; the web UI saves none of them. Halved when memory does not hold it.

        Drawn once more where Reload UI came in between: it takes LoRA files off the model.
        """
        while True:
            PAGE.up.wait()
            reloads = PAGE.reloads
            try:
                images = self._drawn(shots, tick)
            except Exception:
                if reloads == PAGE.reloads:
                    raise
            else:
                if reloads == PAGE.reloads:
                    return images

    def _drawn(self, shots: Sequence[Shot], tick: Tick) -> list[Image.Image]:
        tick(0, len(shots))
        if len(shots) == 1:
            return [self._one(shots[0])]
        try:
            images, fits = draw(current(), self.library, self.presets, shots, _size(shots[0]))
        except torch.cuda.OutOfMemoryError:
            images, fits = [], []
        if images:
            self.fits |= {fit.name: fit for fit in fits}
            return images
        devices.torch_gc()
        half = len(shots) // 2
        return [*self._drawn(shots[:half], tick), *self._drawn(shots[half:], tick)]

    def _one(self, shot: Shot) -> Image.Image:
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model,
            prompt=shot.prompt,
            negative_prompt=shot.negative_prompt,
            seed=shot.seed,
            **settings(shot, _size(shot)),
        )
        try:
            made = processing.process_images(p)
        finally:
            p.close()
        if shared.state.interrupted or not made.images:
            raise Stopped
        image: Image.Image = made.images[0]
        image.info[KEY] = made.infotexts[0]
        return image


def _size(shot: Shot) -> tuple[int, int]:
    """(width, height), the model's own where the shot has none."""
    side = native_side_of(current())
    return shot.width or side, shot.height or side

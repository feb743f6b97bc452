"""The web UI as `compare`'s artist: every picture is a txt2img of its own, with the tags of its prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from modules import processing, shared
from PIL import Image

from ..compare.run import Stopped, Tick
from ..compare.shot import Shot
from ..errors import LoraError
from ..file.library import Library
from .a1111_model import current
from .infotext import KEY


class A1111Artist:
    """Draws with the model that is loaded. Use it only while the queue is ours."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def identity(self, shot: Shot) -> str:
        """Checkpoint and LoRA files."""
        model = current()
        if model is None:
            raise LoraError("no model is loaded; choose a checkpoint at the top of the page")
        files = [self.library.find(request.name).hash for request in shot.tags() if request.te or request.unet]
        return ":".join([str(model.sd_checkpoint_info.filename), str(model.sd_checkpoint_info.sha256 or ""), *files])

    def group(self, shot: Shot) -> Hashable:
        """Every picture is alone: in one batch the web UI gives all the same tags."""
        return shot

    def draw(self, shots: Sequence[Shot], tick: Tick) -> list[Image.Image]:
        """The pictures, each with its infotext; the web UI saves none of them."""
        images = []
        for done, shot in enumerate(shots):
            tick(done, len(shots))
            images.append(self._one(shot))
        return images

    def _one(self, shot: Shot) -> Image.Image:
        side = 1024 if getattr(current(), "is_sdxl", False) else 512
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model,
            prompt=shot.prompt,
            negative_prompt=shot.negative,
            seed=shot.seed,
            steps=shot.steps,
            sampler_name=shot.sampler,
            scheduler=shot.scheduler,
            cfg_scale=shot.cfg,
            width=shot.width or side,
            height=shot.height or side,
            do_not_save_samples=True,
            do_not_save_grid=True,
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

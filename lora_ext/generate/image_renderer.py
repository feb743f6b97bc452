"""A `Standalone` model as `compare`'s artist: every picture of a batch has LoRA weights, text and seed of its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from PIL import Image

from ..applied_networks import Fit, Presets, Use, resolve
from ..compare.generate_cells import Tick, depends
from ..compare.image_spec import Shot
from ..compare.per_image_weights import Mixed
from ..file.lora_library import Library
from ..host import infotext
from ..host.memory_estimate import drawing_bytes, number_size
from ..host.standalone.embeddings import bundled, in_folders
from ..host.standalone.loader import Standalone
from ..host.standalone.prompt_encoding import chunks
from ..host.standalone.rendering import Job, condition_each, decode, latents, to_images
from ..host.standalone.sampling import plan_of
from ..inject.free_memory import is_out_of_memory, release
from ..lora_tags import parse
from .pipeline import describe, sized, told
from .settings import Settings


class StandaloneArtist:
    """Draws on one model; a context manager whose end puts the model back bit-exactly.

    settings: what shots do not say (checkpoint, precision, embeddings, mode). fits: one report a file.
    """

    def __init__(self, settings: Settings, model: Standalone, library: Library, presets: Presets | None = None) -> None:
        self.settings, self.model, self.library = settings, model, library
        self.presets = presets or Presets()
        self.fits: dict[str, Fit] = {}
        self._mixed = Mixed(model, settings.mode)
        self.title = model.name
        self._folders = in_folders(settings.embeddings)
        self._chunks: dict[tuple[object, ...], tuple[int, ...]] = {}

    def __enter__(self) -> StandaloneArtist:
        return self

    def __exit__(self, *_: object) -> None:
        self._mixed.close()

    def identity(self, shot: Shot) -> str:
        """Checkpoint, LoRA files and precision."""
        model = self.model.sha256 or str(self.model.path)
        return ":".join([model, self.settings.precision, depends(shot, self.library, self.presets)])

    def group(self, shot: Shot) -> Hashable:
        """Size, sampler and steps; and how many chunks its texts are."""
        names = tuple(request.name for request in shot.tags())
        said = (parse(shot.prompt)[0], shot.negative_prompt, names)
        if said not in self._chunks:
            text, uses = self._read(shot)
            known = self.model.embeddings([*self._folders, *bundled(use.file for use in uses)])
            texts = text, shot.negative_prompt
            self._chunks[said] = tuple(len(chunks(part, self.model.words, known)) for part in texts)
        return (*shot.group(), *self._chunks[said])

    def draw(self, shots: Sequence[Shot], tick: Tick) -> list[Image.Image]:
        """The pictures of one batch. Where memory does not hold it: all LoRAs live, then the batch halved."""
        try:
            return self._mixed.retrying(lambda: self._draw(shots, tick))
        except Exception as error:
            if not is_out_of_memory(error) or len(shots) == 1:
                raise
        release()
        half = len(shots) // 2
        return [*self.draw(shots[:half], tick), *self.draw(shots[half:], tick)]

    def _read(self, shot: Shot) -> tuple[str, list[Use]]:
        """A shot's text without tags, and what its tags come to."""
        uses = [resolve(request, self.library, self.presets, seed=shot.seed) for request in shot.tags()]
        return parse(shot.prompt)[0], uses

    def _draw(self, shots: Sequence[Shot], tick: Tick) -> list[Image.Image]:
        asked = [self._settings(shot) for shot in shots]
        texts, uses = zip(*map(self._read, shots), strict=True)
        known = [self.model.embeddings([*self._folders, *bundled(use.file for use in own)]) for own in uses]
        first = asked[0]
        size = (first.width, first.height)
        negatives = [shot.negative_prompt for shot in shots]
        numbers = number_size(self.model.unet), number_size(self.model.vae)
        self._mixed.expect(drawing_bytes(self.model.family, size, len(shots), *numbers))
        self.fits |= {fit.name: fit for fit in self._mixed.set_each(uses)}
        conditions = (
            condition_each(self.model, texts, size, first.clip_skip, False, known),
            condition_each(self.model, negatives, size, first.clip_skip, True, known),
        )
        job = Job(
            prompt="",
            negative="",
            seeds=[one.seed for one in asked],
            plan=plan_of(first.sampler, first.scheduler, first.steps),
            width=first.width,
            height=first.height,
            cfg=first.cfg,
            clip_skip=first.clip_skip,
            told=conditions,
        )

        def before_call(step: int, total: int) -> None:
            self._mixed.at_step(step, total)
            tick(step, total)

        images = to_images(decode(self.model, latents(self.model, job, before_call)))
        for image, one, shot, text, own, names in zip(images, asked, shots, texts, uses, known, strict=True):
            said = told(
                self.model, self.library, shot.tags(), own, names, (text, shot.negative_prompt), shot.seed, self.presets
            )
            image.info[infotext.KEY] = describe(one, self.model, job.plan, one.seed, said)
        return images

    def _settings(self, shot: Shot) -> Settings:
        """The shot as settings, with its size."""
        return sized(replace(self.settings, **shot.picture()).checked(), self.model, None)

"""Generates cells of a sheet with a `StandaloneModel`; each image has LoRA weights, text and seed of its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from PIL import Image

from ..adapter_spec import AdapterSpec, Presets, resolve_tag
from ..compare.generate_cells import DenoisingCallback, tags_identity
from ..compare.image_spec import ImageSpec
from ..compare.per_image_weights import PerImageNetworks
from ..file.lora_library import LoraLibrary
from ..fit_report import FitReport, check_fits
from ..host import infotext
from ..host.memory_estimate import generation_bytes, network_itemsize
from ..host.standalone.embeddings import EmbeddingTable, bundled_embeddings, embeddings_in_folders
from ..host.standalone.loader import StandaloneModel
from ..host.standalone.prompt_editing import PassSteps, parse_and_prompts, parse_prompt_editing
from ..host.standalone.prompt_encoding import tokenize_prompt
from ..host.standalone.rendering import RenderJob, decode_latents, encode_prompts, sample_latents, to_pil_images
from ..host.standalone.sampling import parse_sampling_plan
from ..inject.free_memory import is_out_of_memory, release_memory
from ..lora_tags import parse_lora_tags
from ..regions import divide_prompt
from .pipeline import GenerationReport, generate, image_infotext, networks_infotext, with_size_and_seed
from .settings import Settings


class StandaloneImageRenderer:
    """Generates cells of a sheet; a context manager that restores the model bit for bit when it is closed.

    Args:
        settings: what `ImageSpec` does not contain: precision, embeddings, mode.
        model: the model.
        library: the index of LoRA files.
        presets: what `lbw=` may name.

    Attributes:
        fits: how each file fits the model, by name.
    """

    def __init__(
        self, settings: Settings, model: StandaloneModel, library: LoraLibrary, presets: Presets | None = None
    ) -> None:
        self.settings, self.model, self.library = settings, model, library
        self.presets = presets or Presets()
        self.fits: dict[str, FitReport] = {}
        self._applied_networks = PerImageNetworks(model, settings.mode)
        self.title = model.name
        self._folder_embeddings = embeddings_in_folders(settings.embeddings)
        self._chunks: dict[tuple[object, ...], tuple[int, ...]] = {}

    def __enter__(self) -> StandaloneImageRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._applied_networks.close()

    def identity(self, image_spec: ImageSpec) -> str:
        """Identifies checkpoint, LoRA files and precision: two images with the same identity and spec are equal.

        Args:
            image_spec: The image.

        Returns:
            A text.

        Raises:
            LoraError: A tag cannot be parsed, or names a file or preset that does not exist.
        """
        model = self.model.sha256 or str(self.model.path)
        return ":".join([model, self.settings.precision, tags_identity(image_spec, self.library, self.presets)])

    def batch_key(self, image_spec: ImageSpec) -> Hashable:
        """Returns what images of one batch share: size, sampler, steps, and the number of chunks of their texts.

        Args:
            image_spec: The image.

        Returns:
            The key.

        Raises:
            LoraError: A tag cannot be parsed, or names a file or preset that does not exist.
        """
        names = tuple(request.name for request in image_spec.tags())
        entries = (parse_lora_tags(image_spec.prompt)[0], image_spec.negative_prompt, names)
        if entries not in self._chunks:
            text, specs = self._resolve_tags(image_spec)
            known = self._embedding_table(specs)
            texts = text, image_spec.negative_prompt
            self._chunks[entries] = tuple(len(tokenize_prompt(part, self.model.tokenizer, known)) for part in texts)
        return (*image_spec.batch_key(), *self._chunks[entries])

    def generate(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        """Generates one batch. Where memory runs out all LoRAs become forward hooks, then the batch is halved.

        Args:
            image_specs: The images; their `batch_key` is the same.
            on_step: Called at each denoising step; what it raises ends the batch.

        Returns:
            The images in the same order, each with its infotext in `info["parameters"]`.

        Raises:
            LoraError: A file cannot be applied.
            RuntimeError: Memory runs out even for one image.
        """
        if any(map(_has_several_conditions, image_specs)):
            return [self._generate_alone(image_spec, on_step) for image_spec in image_specs]
        try:
            return self._applied_networks.retry_when_out_of_memory(lambda: self._generate_batch(image_specs, on_step))
        except Exception as error:
            if not is_out_of_memory(error) or len(image_specs) == 1:
                raise
        release_memory()
        half = len(image_specs) // 2
        return [*self.generate(image_specs[:half], on_step), *self.generate(image_specs[half:], on_step)]

    def _generate_alone(self, image_spec: ImageSpec, on_step: DenoisingCallback) -> Image.Image:
        """Generates one image whose regions or parts are rows of its batch already."""
        self._applied_networks.apply_each([])
        report = GenerationReport()
        images = generate(
            replace(self._settings(image_spec), strict=True),
            model=self.model,
            library=self.library,
            presets=self.presets,
            on_progress=on_step,
            report=report,
            must_fit=self.settings.strict,
        )
        self.fits |= {fit.name: fit for fit in report.fits}
        return images[0]

    def _resolve_tags(self, image_spec: ImageSpec) -> tuple[str, list[AdapterSpec]]:
        """Returns the prompt without tags, and what its tags apply."""
        specs = [
            resolve_tag(request, self.library, self.presets, seed=image_spec.seed) for request in image_spec.tags()
        ]
        return parse_lora_tags(image_spec.prompt)[0], specs

    def _embedding_table(self, specs: Sequence[AdapterSpec]) -> EmbeddingTable:
        """The embeddings that a prompt with these files may name."""
        return self.model.embedding_table([*self._folder_embeddings, *bundled_embeddings(s.file for s in specs)])

    def _generate_batch(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        settings_per_image = [self._settings(image_spec) for image_spec in image_specs]
        texts, specs = zip(*map(self._resolve_tags, image_specs), strict=True)
        known = [*map(self._embedding_table, specs)]
        first = settings_per_image[0]
        size = (first.width, first.height)
        negatives = [image_spec.negative_prompt for image_spec in image_specs]
        numbers = network_itemsize(self.model.unet), network_itemsize(self.model.vae)
        self._applied_networks.reserve_memory(generation_bytes(self.model.family, size, len(image_specs), *numbers))
        fits = self._applied_networks.apply_each(specs)
        if self.settings.strict:
            check_fits(fits)
        self.fits |= {fit.name: fit for fit in fits}
        conditions = (
            encode_prompts(self.model, texts, size, first.clip_skip, False, known),
            encode_prompts(self.model, negatives, size, first.clip_skip, True, known),
        )
        job = RenderJob(
            prompt="",
            negative="",
            seeds=[image_settings.seed for image_settings in settings_per_image],
            plan=parse_sampling_plan(first.sampler, first.scheduler, first.steps),
            width=first.width,
            height=first.height,
            cfg=first.cfg,
            clip_skip=first.clip_skip,
            conditionings=conditions,
        )

        def before_call(step: int, total: int, sigma: float) -> None:
            self._applied_networks.at_step(step, total, sigma)
            on_step(step, total)

        images = to_pil_images(decode_latents(self.model, sample_latents(self.model, job, before_call)))
        for image, image_settings, image_spec, text, own, names in zip(
            images, settings_per_image, image_specs, texts, specs, known, strict=True
        ):
            about_loras = image_spec.tags(), own, names, (text, image_spec.negative_prompt), image_spec.seed
            entries = networks_infotext(self.model, self.library, *about_loras, self.presets)
            image.info[infotext.PARAMETERS_KEY] = image_infotext(
                image_settings, self.model, job.plan, image_settings.seed, entries
            )
        return images

    def _settings(self, image_spec: ImageSpec) -> Settings:
        """Returns an image spec as settings, with its size filled in."""
        return with_size_and_seed(replace(self.settings, **image_spec.image_fields()).checked(), self.model, None)


def _has_several_conditions(image_spec: ImageSpec) -> bool:
    """Whether the prompts are more than one text each, or a tag acts on one of them or on a part of the picture."""
    if any(tag.at or tag.acts_on_single_conditions for tag in image_spec.tags()):
        return True
    text = parse_lora_tags(image_spec.prompt)[0]
    steps = PassSteps(image_spec.steps)
    return (
        divide_prompt(image_spec.prompt) is not None
        or len(parse_and_prompts(text)) > 1
        or any(len(parse_prompt_editing(edited, steps)) > 1 for edited in (text, image_spec.negative_prompt))
    )

"""`generate(Settings(…))`: images from a prompt with `<lora:…>` tags, without a web UI."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from PIL import Image

from .. import __version__
from ..adapter_spec import AdapterSpec, Presets
from ..applied_networks import AppliedNetworks
from ..compare.per_image_weights import networks_for_rows
from ..counted_words import counted
from ..errors import FileError, LoraError, PromptError
from ..file.lora_library import LoraLibrary
from ..file.unreadable_files import why_unreadable
from ..fit_report import FitReport, check_fits
from ..host import block_weights_infotext as blocks
from ..host import infotext
from ..host.memory_estimate import generation_bytes, network_itemsize
from ..host.standalone.embeddings import EmbeddingTable, bundled_embeddings, embeddings_in_folders
from ..host.standalone.loader import StandaloneModel, load_model
from ..host.standalone.regional_sampling import RegionTexts
from ..host.standalone.rendering import ConditionCalls, RenderJob, generate_images
from ..host.standalone.sampling import SamplingPlan, parse_sampling_plan
from ..inject.fallback import WeightChanges
from ..lora_tags import LoraTag
from ..no_effect_reasons import no_effect_reason
from ..prompt_regions import RegionalPrompt, split_by_region
from ..prompt_warnings import bracketed_tag_warnings, unread_tag_warnings
from ..protocols import VAE_SCALE_FACTOR
from ..region_masks import MASKS_KEY, MaskFolders
from ..regions.prompt_words import BASE_WORD
from ..weight_trace import WeightTrace
from .prompt_conditions import rows_of_pass, set_conditions, unused_conditions_notes
from .prompt_tags import resolve_tags, tag_errors_as_notes, tags_with_file
from .region_rows import SpecRows, apply_rows, output_regions, unused_ratios_notes
from .settings import Settings
from .used_embeddings import used_embeddings, warn_beside_punctuation


@dataclass
class GenerationReport:
    """What `generate` reports beside its images.

    Attributes:
        fits: how each LoRA file fits the model.
        notes: sentences for the user: skipped tags, embeddings that are not used, tags without effect.
    """

    fits: list[FitReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


OnGenerationProgress = Callable[[int, int], None]
"""Called before each U-Net call with its number, from 0, and the number of calls in this pass."""


def load_settings_model(settings: Settings) -> StandaloneModel:
    """Loads the model that settings name, by default the embedded one.

    Raises:
        FileError: the checkpoint cannot be loaded, or none is given and the embedded model's files are missing.
    """
    ckpt, tokenizer, config = settings.ckpt, settings.tokenizer, settings.config
    own = embedded_model()
    if ckpt is None:
        if own is None:
            raise FileError(
                "no --ckpt given, and the embedded model is missing from this installation; give --ckpt FILE"
            )
        ckpt = own.CHECKPOINT
    if own and Path(ckpt) == own.CHECKPOINT:
        tokenizer, config = tokenizer or own.TOKENIZER, config or own.CONFIG
    return load_model(
        ckpt,
        tokenizer=tokenizer,
        device=settings.device,
        precision=settings.precision,
        prediction=settings.prediction,
        config=config,
    )


def embedded_model() -> Any:
    """Returns the embedded model's module (CHECKPOINT, CONFIG, TOKENIZER, LORA_DIR), None without its files."""
    from .. import embedded as own

    here = cast(Any, own)
    return here if hasattr(here, "CHECKPOINT") and Path(here.CHECKPOINT).is_file() else None


def generate(
    settings: Settings,
    *,
    model: StandaloneModel | None = None,
    library: LoraLibrary | None = None,
    presets: Presets | None = None,
    on_progress: OnGenerationProgress | None = None,
    report: GenerationReport | None = None,
    changes: WeightChanges | None = None,
    masks: MaskFolders | None = None,
    must_fit: bool | None = None,
) -> list[Image.Image]:
    """Generates images with the LoRA files that the prompt names.

    A tag that cannot be parsed, or whose file is missing or damaged, is skipped with a sentence in `report.notes`. It
    is an error where `settings.strict` is set, and where no report is given, since nobody would see the note.

    Args:
        settings: prompt, size, sampler, model and folders.
        model: a loaded model; by default `load_settings_model(settings)`.
        library: an index of LoRA files; by default one of `settings.lora_dir`.
        presets: what `lbw=` may name; by default the built-in presets.
        on_progress: called before each U-Net call.
        report: filled with fit reports and notes.
        changes: how often weights changed in calls before this one; the mode "auto" bakes weights that stay the same.
        masks: where regions find their masks; by default in `settings.masks`, or in the user's data folder.
        must_fit: whether a file of which not every layer applies is an error; None for `settings.strict`.

    Returns:
        `batch · n_iter` RGB images, each with its infotext in `image.info["parameters"]`.

    Raises:
        LoraError: a value is outside its range, or a tag cannot be applied (see above).
        FitError: a file does not fit the model, with `must_fit`.
        FileError: the model, the init image or a folder cannot be read.

    Example:
        >>> from lora_ext.generate import Settings, generate
        >>> images = generate(Settings(prompt="a red circle <lora:shapes:0.8>", steps=8, seed=1))  # doctest: +SKIP
        >>> images[0].info["parameters"]  # doctest: +SKIP
    """
    settings.checked()
    strict = settings.strict or report is None
    must_fit = settings.strict if must_fit is None else must_fit
    report = GenerationReport() if report is None else report
    masks = masks or MaskFolders.named(settings.masks)
    prompt = _parse_prompt(settings, masks, report, strict)
    texts = [*dict.fromkeys(row.text for row in prompt.rows), settings.negative_prompt]
    library = library or LoraLibrary(lora_dirs(settings))
    # before the model, which takes seconds to load
    with_file = tags_with_file(prompt.tags, library, report.notes, strict)
    init = _load_init_image(settings.init_image)
    model = model or load_settings_model(settings)
    settings = with_size_and_seed(settings, model, init)
    presets = presets or Presets()
    tags, specs, hires = resolve_tags(with_file, library, presets, masks, settings.seed, report.notes, strict)
    first_pass, hires_pass = (rows_of_pass(settings.prompt, prompt, tags, of_pass) for of_pass in (specs, hires))
    known = model.embedding_table(
        [*embeddings_in_folders(settings.embeddings), *bundled_embeddings(spec.file for spec in specs)]
    )
    loras = networks_infotext(model, library, tags, specs, known, texts, settings.seed, presets)
    loras["Region masks"] = infotext.format_hashes(masks.hashes())
    report.notes += [f"embedding {name!r} is not used: {why}" for name, why in known.skipped.items()]
    report.notes += warn_beside_punctuation(model, texts, known)
    images: list[Image.Image] = []
    trace = WeightTrace() if settings.show_curve else None
    with networks_for_rows(model, settings.mode, len(first_pass) > 1, changes=changes) as applied:
        applied.reserve_memory(_batch_bytes(settings, model, len(prompt.rows)))
        own_texts = len(output_regions(specs))
        texts_of = RegionTexts(1 + own_texts, applied.places.set_texts) if own_texts else None
        conditions = set_conditions(applied, prompt, first_pass[0], settings.mode)
        for job in _render_jobs(settings, prompt, init, known, texts_of, conditions):
            passes = first_pass, hires_pass
            batch = _generate_batch(model, job, applied, passes, on_progress, report, trace, must_fit)
            for image, seed in zip(batch, job.seeds, strict=True):
                image.info[infotext.PARAMETERS_KEY] = image_infotext(settings, model, job.plan, seed, loras)
                image.info[MASKS_KEY] = masks.files_to_keep()
                images.append(image)
    report.notes += trace.lines() if trace else []
    return images


def _parse_prompt(settings: Settings, masks: MaskFolders, report: GenerationReport, strict: bool) -> RegionalPrompt:
    """The prompt as rows of regions. What is wrong with its tags becomes notes, or is raised if `strict`."""
    prompt = split_by_region(
        settings.prompt, ratios=settings.region_ratios, base_share=settings.base_ratio, load_mask=masks.load
    )
    for error in prompt.errors:
        with tag_errors_as_notes(report.notes, strict):
            raise error
    not_applied = unread_tag_warnings(settings.prompt, settings.negative_prompt)
    if not_applied and settings.strict:
        raise PromptError(not_applied[0])
    unused = [*unused_ratios_notes(prompt, settings.region_ratios), *unused_conditions_notes(prompt)]
    report.notes += [*not_applied, *bracketed_tag_warnings(settings.prompt), *unused]
    return prompt


def _batch_bytes(settings: Settings, model: StandaloneModel, rows: int) -> int:
    """Estimates the memory in bytes that one batch needs, including the hires pass."""
    scale = settings.hr_scale if settings.init_image is None else 1.0
    size = int(settings.width * scale), int(settings.height * scale)
    return generation_bytes(
        model.family, size, settings.batch * rows, network_itemsize(model.unet), network_itemsize(model.vae)
    )


def networks_infotext(
    model: StandaloneModel,
    library: LoraLibrary,
    tags: Sequence[LoraTag],
    specs: Sequence[AdapterSpec],
    embeddings: EmbeddingTable,
    texts: Sequence[str],
    seed: int,
    presets: Presets | None = None,
) -> dict[str, object]:
    """Returns the infotext's entries about LoRA files and embeddings.

    Args:
        model: gives the tokenizer.
        library: gives the files' hashes.
        tags: the prompt's tags.
        specs: what each tag applies, in the same order.
        embeddings: those that prompts may name.
        texts: prompt and negative prompt, without tags.
        seed: the first image's seed, written where block weights are random.
        presets: what `lbw=` may name.
    """
    rows = [row for tag, spec in zip(tags, specs, strict=True) if (row := blocks.block_weights_row(tag, spec.blocks))]
    presets = presets or Presets()
    return {
        blocks.BLOCK_WEIGHTS_KEY: blocks.format_block_weights_rows(rows),
        blocks.BLOCK_SEED_KEY: seed if any(blocks.has_random_block_weights(tag, presets) for tag in tags) else None,
        "Lora hashes": infotext.format_hashes({r.name: library.find(r.name).hash for r in tags}),
        "TI hashes": infotext.format_hashes(used_embeddings(model, texts, embeddings)),
    }


def lora_dirs(settings: Settings) -> list[Path]:
    """Returns the folders that hold LoRA files: those of the settings, else the embedded model's.

    Raises:
        FileError: a folder does not exist.
    """
    for folder in settings.lora_dir:
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder; give one that holds LoRA files")
    own = embedded_model()
    return list(settings.lora_dir) or ([Path(own.LORA_DIR)] if own else [])


def _generate_batch(
    model: StandaloneModel,
    job: RenderJob,
    applied: AppliedNetworks,
    specs_by_pass: tuple[SpecRows, SpecRows],
    on_progress: OnGenerationProgress | None,
    report: GenerationReport,
    trace: WeightTrace | None,
    must_fit: bool,
) -> list[Image.Image]:
    """Generates one batch with its LoRA files applied, with their weights of the first and of the hires pass.

    Where memory runs out and some are baked, it tries once more with all of them as forward hooks.
    """
    specs, hires_specs = specs_by_pass

    def before_call(step: int, total: int, sigma: float) -> None:
        if step == 0:  # each pass has a number of steps of its own
            messages = (no_effect_reason(spec, applied.matching_layers(spec), total) for spec in applied.specs)
            report.notes += [text for text in dict.fromkeys(messages) if text and text not in report.notes]
        applied.at_step(step, total, sigma)
        if trace:
            trace.record(step, applied.scheduled_weights())
        if on_progress:
            on_progress(step, total)

    def before_hires() -> None:
        if applied.specs != tuple(spec for row in hires_specs for spec in row):
            apply_rows(applied, hires_specs)

    def work() -> list[Image.Image]:
        if applied.specs != tuple(spec for row in specs for spec in row):  # memory ran out in the hires pass
            apply_rows(applied, specs)
        return generate_images(model, job, before_call, before_hires)

    report.fits = apply_rows(applied, specs)
    if must_fit:
        check_fits(report.fits)
    images = applied.retry_when_out_of_memory(work)
    report.fits = applied.fit_reports()
    return images


def _load_init_image(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except OSError as error:
        raise FileError(f"{path} is not a readable image: {why_unreadable(path, error)}") from error


def with_size_and_seed(settings: Settings, model: StandaloneModel, init_image: Image.Image | None) -> Settings:
    """Returns the settings with a seed and a size: the init image's, else the one that the model was trained for.

    Raises:
        LoraError: `clip_skip` is larger than the number of text-encoder layers.
    """
    side = model.native_size
    width, height = (
        (max(VAE_SCALE_FACTOR, length // VAE_SCALE_FACTOR * VAE_SCALE_FACTOR) for length in init_image.size)
        if init_image
        else (side, side)
    )
    layers = min(encoder.module.config.num_hidden_layers for encoder in model.text_encoders)
    if settings.clip_skip > layers:
        raise LoraError(f"clip_skip={settings.clip_skip}, but the text encoder has {counted(layers, 'layer')}")
    seed = settings.seed if settings.seed >= 0 else random.randrange(4294967294)
    return replace(settings, seed=seed, width=settings.width or width, height=settings.height or height).checked()


def _render_jobs(
    settings: Settings,
    prompt: RegionalPrompt,
    init_image: Image.Image | None,
    embeddings: EmbeddingTable,
    region_texts: RegionTexts | None,
    conditions: ConditionCalls | None,
) -> Iterator[RenderJob]:
    """Yields one job for each batch."""
    plan = parse_sampling_plan(settings.sampler, settings.scheduler, settings.steps)
    for first in range(settings.seed, settings.seed + settings.batch * settings.n_iter, settings.batch):
        yield RenderJob(
            prompt=prompt.rows[0].text,
            negative=settings.negative_prompt,
            seeds=range(first, first + settings.batch),
            plan=plan,
            width=settings.width,
            height=settings.height,
            cfg=settings.cfg,
            clip_skip=settings.clip_skip,
            init_image=init_image,
            strength=settings.hr_strength if init_image is None else settings.strength,
            hr_scale=1.0 if init_image else settings.hr_scale,
            hr_steps=settings.hr_steps,
            embeddings=embeddings,
            regions=prompt,
            region_texts=region_texts,
            conditions=conditions,
        )


def image_infotext(
    settings: Settings, model: StandaloneModel, plan: SamplingPlan, seed: int, loras: Mapping[str, object] | None = None
) -> str:
    """Returns one image's infotext, with its entries in the web UI's order.

    Args:
        settings: with size and seed filled in.
        model: gives name and hash.
        plan: sampler, schedule and steps.
        seed: this image's seed.
        loras: what `networks_infotext` returns.
    """
    hires = settings.init_image is None and settings.hr_scale > 1
    strength = settings.hr_strength if hires else settings.strength
    parameters = {
        "Steps": plan.steps,
        "Sampler": plan.sampler,
        "Schedule type": plan.label,
        "CFG scale": infotext.format_infotext_number(settings.cfg),
        "Seed": seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": model.sha256[:10] if model.sha256 else None,
        "Model": model.name or None,
        "Denoising strength": infotext.format_infotext_number(strength) if hires or settings.init_image else None,
        "Clip skip": settings.clip_skip if settings.clip_skip > 1 else None,
        "RNG": "CPU",
        "Hires upscale": infotext.format_infotext_number(settings.hr_scale) if hires else None,
        "Hires steps": settings.hr_steps or None if hires else None,
        "Hires upscaler": "Latent" if hires else None,
        "Region ratios": settings.region_ratios or None,
        "Base ratio": infotext.format_infotext_number(settings.base_ratio) if BASE_WORD in settings.prompt else None,
        **(loras or {}),
        "Version": f"lora-ext {__version__}",
    }
    return infotext.format_infotext(settings.prompt, settings.negative_prompt, parameters)

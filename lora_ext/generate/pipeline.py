"""`generate(Settings(…))`: pictures from a prompt with `<lora:…>` tags, without a web UI."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from PIL import Image

from .. import __version__
from ..applied_networks import Applied, Fit, Presets, Use, resolve
from ..errors import FileError, LoraError, PromptError
from ..file.lora_library import Library
from ..host import block_weights_infotext as blocks
from ..host import infotext
from ..host.memory_estimate import drawing_bytes, number_size
from ..host.standalone.embeddings import Embeddings, bundled, in_folders
from ..host.standalone.loader import Standalone, load
from ..host.standalone.prompt_encoding import chunks
from ..host.standalone.rendering import CELL, Job, render
from ..host.standalone.sampling import Plan, plan_of
from ..inject.fallback import Changes
from ..lora_tags import Request, parse, set_apart
from ..no_effect_reasons import why_idle
from ..prompt_warnings import elsewhere, unread
from .settings import Settings


@dataclass
class Report:
    """What a run has to say beside its pictures."""

    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Progress = Callable[[int, int], None]


def open_model(settings: Settings) -> Standalone:
    """The settings' model in memory. Raises FileError."""
    ckpt, tokenizer, config = settings.ckpt, settings.tokenizer, settings.config
    own = embedded()
    if ckpt is None:
        if own is None:
            raise FileError("no --ckpt given, and this installation has no small model of its own")
        ckpt = own.CHECKPOINT
    if own and Path(ckpt) == own.CHECKPOINT:
        tokenizer, config = tokenizer or own.TOKENIZER, config or own.CONFIG
    return load(
        ckpt,
        tokenizer=tokenizer,
        device=settings.device,
        precision=settings.precision,
        prediction=settings.prediction,
        config=config,
    )


def embedded() -> Any:
    """The small model that comes along (its CHECKPOINT, CONFIG, TOKENIZER, LORA_DIR), or None without its files."""
    from .. import embedded as own

    here = cast(Any, own)
    return here if hasattr(here, "CHECKPOINT") and Path(here.CHECKPOINT).is_file() else None


def generate(
    settings: Settings,
    *,
    model: Standalone | None = None,
    library: Library | None = None,
    presets: Presets | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
    changes: Changes | None = None,
) -> list[Image.Image]:
    """The pictures of a run, each with its infotext in `image.info["parameters"]`.

    model, library: already open ones to use again. presets: all that `lbw=` may name, None for the built-in ones.
    progress(call, calls) is called before each guess. changes: those of the runs before, for the mode "auto".
    What is meant as a tag and is none, and what will not act, is a note as well.
    A tag that cannot be understood, or whose file is not there or cannot be read, is skipped with a sentence in
    `report.notes`; it is an error where `settings.strict` says so, and without a report (nobody would read the note).
    Raises LoraError: values that cannot be, and such a tag.
    """
    settings.checked()
    strict = settings.strict or report is None
    report = Report() if report is None else report
    text, parsed, errors = parse(settings.prompt)
    for error in errors:
        with _skipping(report, strict):
            raise error
    not_applied = unread(settings.prompt, settings.negative_prompt)
    if not_applied and settings.strict:
        raise PromptError(not_applied[0])
    report.notes += [*not_applied, *elsewhere(settings.prompt)]
    library = library or Library(lora_dirs(settings))
    requests: list[Request] = []
    for request in parsed:
        with _skipping(report, strict):
            library.find(request.name)
            requests.append(request)
    init = _picture(settings.init_image)
    model = model or open_model(settings)
    settings = sized(settings, model, init)
    presets = presets or Presets()
    found: list[tuple[Request, Use]] = []
    for request in requests:
        with _skipping(report, strict):
            found.append((request, resolve(request, library, presets, seed=settings.seed)))
    requests, uses = [request for request, _ in found], [use for _, use in found]
    known = model.embeddings([*in_folders(settings.embeddings), *bundled(use.file for use in uses)])
    loras = told(model, library, requests, uses, known, (text, settings.negative_prompt), settings.seed, presets)
    report.notes += [f"embedding {name!r} is not used: {why}" for name, why in known.skipped.items()]
    report.notes += _beside_punctuation(model, (text, settings.negative_prompt), known)
    images: list[Image.Image] = []
    with Applied(model, settings.mode, changes=changes) as applied:
        applied.expect(_drawing_bytes(settings, model))
        for job in _jobs(settings, text, init, known):
            for image, seed in zip(_batch(model, job, applied, uses, progress, report), job.seeds, strict=True):
                image.info[infotext.KEY] = describe(settings, model, job.plan, seed, loras)
                images.append(image)
    return images


def _drawing_bytes(settings: Settings, model: Standalone) -> int:
    """What a batch of these pictures takes, the hires pass included."""
    scale = settings.hr_scale if settings.init_image is None else 1.0
    size = int(settings.width * scale), int(settings.height * scale)
    return drawing_bytes(model.family, size, settings.batch, number_size(model.unet), number_size(model.vae))


@contextmanager
def _skipping(report: Report, strict: bool) -> Iterator[None]:
    """What is wrong with one tag becomes a note of the report, unless `strict`."""
    try:
        yield
    except LoraError as error:
        if strict:
            raise
        report.notes.append(f"tag skipped: {error}")


def told(
    model: Standalone,
    library: Library,
    requests: Sequence[Request],
    uses: Sequence[Use],
    known: Embeddings,
    texts: Sequence[str],
    seed: int,
    presets: Presets | None = None,
) -> dict[str, object]:
    """What the infotext says about LoRA files and embeddings; `seed`: that of the batch's first picture."""
    rows = [row for request, use in zip(requests, uses, strict=True) if (row := blocks.row_of(request, use.blocks))]
    presets = presets or Presets()
    return {
        blocks.KEY: blocks.written(rows),
        blocks.SEED_KEY: seed if any(blocks.drawn(request, presets) for request in requests) else None,
        "Lora hashes": infotext.lora_hashes({r.name: library.find(r.name).hash for r in requests}),
        "TI hashes": infotext.lora_hashes(_in_use(model, texts, known)),
    }


def _in_use(model: Standalone, texts: Sequence[str], known: Embeddings) -> dict[str, str]:
    """Name → hash of the embeddings that these texts name."""
    parts = [part for text in texts for part in chunks(text, model.words, known)]
    return {embedding.name: embedding.hash() for part in parts for _, embedding, _ in part.learned}


def _beside_punctuation(model: Standalone, texts: Sequence[str], known: Embeddings) -> list[str]:
    """A sentence for each embedding whose name stands in a text but is not found, as in `<s1>,`."""
    used, hint = _in_use(model, texts, known), "beside punctuation, where it is not found; put blanks around it"
    apart = {name: [set_apart(text, name) for text in texts] for name in known.names if name not in used}
    return [
        f"embedding {name!r} stands {hint}"
        for name, changed in apart.items()
        if changed != list(texts) and name in _in_use(model, changed, known)
    ]


def lora_dirs(settings: Settings) -> list[Path]:
    """The folders that hold LoRA files: those given, else that of the small model."""
    for folder in settings.lora_dir:
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder of LoRA files")
    own = embedded()
    return list(settings.lora_dir) or ([Path(own.LORA_DIR)] if own else [])


def _batch(
    model: Standalone, job: Job, applied: Applied, uses: Sequence[Use], progress: Progress | None, report: Report
) -> list[Image.Image]:
    """One batch with its LoRAs on; once more with all of them live where memory runs out and some are baked."""

    def before_call(step: int, total: int) -> None:
        if step == 0:  # each pass has a number of steps of its own
            said = (why_idle(use, applied.layers(use), total) for use in uses)
            report.notes += [text for text in dict.fromkeys(said) if text and text not in report.notes]
        applied.at_step(step, total)
        if progress:
            progress(step, total)

    report.fits = applied.set(uses)
    images = applied.retrying(lambda: render(model, job, before_call))
    report.fits = applied.fits()
    return images


def _picture(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except OSError as error:
        raise FileError(f"{path} is not a readable picture: {error}") from error


def sized(settings: Settings, model: Standalone, init: Image.Image | None) -> Settings:
    """The settings with a seed and a size: the init picture's, or what the model was made for."""
    side = model.native_side
    width, height = (max(CELL, length // CELL * CELL) for length in init.size) if init else (side, side)
    layers = min(encoder.module.config.num_hidden_layers for encoder in model.texts)
    if settings.clip_skip > layers:
        raise LoraError(f"clip_skip={settings.clip_skip}, but the text encoder has {layers} layers")
    seed = settings.seed if settings.seed >= 0 else random.randrange(4294967294)
    return replace(settings, seed=seed, width=settings.width or width, height=settings.height or height).checked()


def _jobs(settings: Settings, text: str, init: Image.Image | None, known: Embeddings) -> Iterator[Job]:
    """One job for each batch."""
    plan = plan_of(settings.sampler, settings.scheduler, settings.steps)
    for first in range(settings.seed, settings.seed + settings.batch * settings.n_iter, settings.batch):
        yield Job(
            prompt=text,
            negative=settings.negative_prompt,
            seeds=range(first, first + settings.batch),
            plan=plan,
            width=settings.width,
            height=settings.height,
            cfg=settings.cfg,
            clip_skip=settings.clip_skip,
            init=init,
            strength=settings.hr_strength if init is None else settings.strength,
            hr_scale=1.0 if init else settings.hr_scale,
            hr_steps=settings.hr_steps,
            embeddings=known,
        )


def describe(
    settings: Settings, model: Standalone, plan: Plan, seed: int, loras: Mapping[str, object] | None = None
) -> str:
    """One picture's infotext, in the web UI's order; `loras` is what it says about LoRA files."""
    hires = settings.init_image is None and settings.hr_scale > 1
    strength = settings.hr_strength if hires else settings.strength
    parameters = {
        "Steps": plan.steps,
        "Sampler": plan.sampler,
        "Schedule type": plan.label,
        "CFG scale": infotext.number(settings.cfg),
        "Seed": seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": model.sha256[:10] if model.sha256 else None,
        "Model": model.name or None,
        "Denoising strength": infotext.number(strength) if hires or settings.init_image else None,
        "Clip skip": settings.clip_skip if settings.clip_skip > 1 else None,
        "RNG": "CPU",
        "Hires upscale": infotext.number(settings.hr_scale) if hires else None,
        "Hires steps": settings.hr_steps or None if hires else None,
        "Hires upscaler": "Latent" if hires else None,
        **(loras or {}),
        "Version": f"lora-ext {__version__}",
    }
    return infotext.infotext(settings.prompt, settings.negative_prompt, parameters)


def save(images: Sequence[Image.Image], folder: Path) -> list[Path]:
    """Writes `00000-seed.png` …, counting on from what is there, with their infotext. Raises FileError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(match[1]) for file in folder.iterdir() if (match := re.match(r"(\d+)-", file.name))]
        paths = []
        for number, image in enumerate(images, start=max(taken, default=-1) + 1):
            seed = re.search(r"Seed: (\d+)", str(image.info.get(infotext.KEY, "")).rpartition("\n")[2])
            paths.append(folder / f"{number:05}-{seed[1] if seed else number}.png")
            image.save(paths[-1], format="PNG", **infotext.chunk(image))
    except OSError as error:
        raise FileError(f"cannot write into {folder}: {error.strerror or error}") from error
    return paths

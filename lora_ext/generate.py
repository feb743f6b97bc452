"""Pictures without a web UI: `generate(Settings(…))`, and `python -m lora_ext generate`."""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn, cast

from PIL import Image

from . import __version__
from .errors import FileError, LoraError, did_you_mean
from .file.library import Library
from .host import infotext
from .host.diffusers import PRECISIONS, Standalone, load
from .host.render import CELL, Job, render
from .host.sampling import Plan, plan_of
from .prompt import parse
from .stack import Applied, Fit, Use, resolve

MODES = ("auto", "live", "baked")
LARGEST = 8192
"""Pixels a side, at most: a slip of the finger should not fill the memory."""


@dataclass(frozen=True)
class Settings:
    """Everything about a run, with the web UI's names. Sizes are pixels; 0 means what the model was made for.

    ckpt: a checkpoint file or a diffusers folder; None is the small model that comes along. seed: -1 draws one; the
    pictures of a run count up from it. n_iter batches of `batch` pictures. strength: of img2img, with `init_image`.
    hr_scale above 1: a second pass at that many times the size, with hr_strength, in hr_steps (0: as many) steps.
    """

    prompt: str = ""
    negative_prompt: str = ""
    ckpt: Path | None = None
    lora_dir: tuple[Path, ...] = ()
    seed: int = -1
    steps: int = 20
    width: int = 0
    height: int = 0
    sampler: str = "DPM++ 2M"
    scheduler: str = "Automatic"
    cfg: float = 7.0
    batch: int = 1
    n_iter: int = 1
    clip_skip: int = 1
    init_image: Path | None = None
    strength: float = 0.75
    hr_scale: float = 1.0
    hr_strength: float = 0.7
    hr_steps: int = 0
    mode: str = "auto"
    device: str | None = None
    precision: str = "fp32"
    tokenizer: Path | None = None
    config: Path | None = None
    prediction: str | None = None

    def checked(self) -> Settings:
        """Itself. Raises LoraError about the first value that cannot be."""
        rules = (
            (self.width % CELL == 0 and self.height % CELL == 0, f"sizes are multiples of {CELL} pixels"),
            (min(self.size) >= 0 and max(self.size) <= LARGEST, f"sides are up to {LARGEST} pixels"),
            (self.batch >= 1 and self.n_iter >= 1, "batch and n_iter are at least 1"),
            (math.isfinite(self.cfg), "cfg is a finite number"),
            (self.clip_skip >= 1, "clip_skip is at least 1"),
            (0 <= self.strength <= 1 and 0 <= self.hr_strength <= 1, "strengths are from 0 to 1"),
            (1 <= self.hr_scale <= 8, "hr_scale is from 1 to 8"),
            (self.mode in MODES, f"unknown mode {self.mode!r}{did_you_mean(self.mode, MODES)}"),
        )
        broken = next((text for holds, text in rules if not holds), None)
        if broken:
            raise LoraError(broken if broken.startswith("unknown") else f"{broken}; got {self._values(broken)}")
        plan_of(self.sampler, self.scheduler, self.steps)
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height

    def _values(self, rule: str) -> str:
        """The values that a rule is about, as `name=value`."""
        if rule.startswith("si"):
            return f"{self.width}x{self.height}"
        names = re.findall(r"batch|n_iter|cfg|clip_skip|hr_scale", rule) or ["strength", "hr_strength"]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


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
    from . import embedded as own

    here = cast(Any, own)
    return here if hasattr(here, "CHECKPOINT") and Path(here.CHECKPOINT).is_file() else None


def generate(
    settings: Settings,
    *,
    model: Standalone | None = None,
    library: Library | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> list[Image.Image]:
    """The pictures of a run, each with its infotext in `image.info["parameters"]`.

    model, library: already open ones to use again. progress(call, calls) is called before each guess.
    Raises LoraError: values that cannot be, a tag that cannot be understood, a file that is not there.
    """
    settings.checked()
    text, requests, errors = parse(settings.prompt)
    if errors:
        raise errors[0]
    library = library or Library(lora_dirs(settings))
    entries = {request.name: library.find(request.name) for request in requests}
    init = _picture(settings.init_image)
    model = model or open_model(settings)
    settings = _sized(settings, model, init)
    uses = [resolve(request, library, seed=settings.seed) for request in requests]
    hashes = infotext.lora_hashes({name: entry.hash for name, entry in entries.items()})
    images: list[Image.Image] = []
    for job in _jobs(settings, text, init):
        for image, seed in zip(_batch(model, job, uses, settings.mode, progress, report), job.seeds, strict=True):
            image.info[infotext.KEY] = describe(settings, model, job.plan, seed, hashes)
            images.append(image)
    return images


def lora_dirs(settings: Settings) -> list[Path]:
    """The folders that hold LoRA files: those given, else that of the small model."""
    for folder in settings.lora_dir:
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder of LoRA files")
    own = embedded()
    return list(settings.lora_dir) or ([Path(own.LORA_DIR)] if own else [])


def _batch(
    model: Standalone, job: Job, uses: Sequence[Use], mode: str, progress: Progress | None, report: Report | None
) -> list[Image.Image]:
    """One batch with its LoRAs on; the model is afterwards as it was."""
    with Applied(model, mode) as applied:
        fits = applied.set(uses)
        if report is not None:
            report.fits = fits

        def before_call(step: int, total: int) -> None:
            applied.at_step(step, total)
            if progress:
                progress(step, total)

        return render(model, job, before_call)


def _picture(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except OSError as error:
        raise FileError(f"{path} is not a readable picture: {error}") from error


def _sized(settings: Settings, model: Standalone, init: Image.Image | None) -> Settings:
    """The settings with a seed and a size: the init picture's, or what the model was made for."""
    own = embedded()
    side = 1024 if model.family == "SDXL" else 512
    if own and model.path == own.CHECKPOINT:
        side = 64
    width, height = (max(CELL, length // CELL * CELL) for length in init.size) if init else (side, side)
    layers = min(encoder.module.config.num_hidden_layers for encoder in model.texts)
    if settings.clip_skip > layers:
        raise LoraError(f"clip_skip={settings.clip_skip}, but the text encoder has {layers} layers")
    seed = settings.seed if settings.seed >= 0 else random.randrange(4294967294)
    return replace(settings, seed=seed, width=settings.width or width, height=settings.height or height).checked()


def _jobs(settings: Settings, text: str, init: Image.Image | None) -> Iterator[Job]:
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
        )


def describe(settings: Settings, model: Standalone, plan: Plan, seed: int, hashes: str | None) -> str:
    """One picture's infotext, in the web UI's order."""
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
        "Lora hashes": hashes,
        "Version": f"lora-ext {__version__}",
    }
    return infotext.infotext(settings.prompt, settings.negative_prompt, parameters)


# --- command line ----------------------------------------------------------------------------------------------------

_HELP = {
    "prompt": "what to draw; <lora:name:0.8> applies a file",
    "negative_prompt": "what to keep away from",
    "ckpt": "checkpoint (.safetensors, .ckpt) or diffusers folder; without it the small model that comes along",
    "lora_dir": "folder of LoRA files, searched with its subfolders; may be given several times",
    "seed": "of the first picture; -1 draws one",
    "width": f"pixels, a multiple of {CELL}; 0: what the model was made for",
    "height": f"pixels, a multiple of {CELL}",
    "sampler": "the web UI's name, such as 'Euler a'",
    "scheduler": "the web UI's schedule type, such as Karras",
    "cfg": "CFG scale",
    "batch": "pictures at once",
    "n_iter": "batches one after the other",
    "clip_skip": "1: the last layer; 2: the one before (SD1 only)",
    "init_image": "picture to change (img2img)",
    "strength": "how much of it, 0 to 1",
    "hr_scale": "hires pass: enlarge the latent this many times and sample again",
    "hr_strength": "how much the hires pass changes, 0 to 1",
    "hr_steps": "steps of the hires pass; 0: as many as the first",
    "mode": "how LoRAs are put on: " + ", ".join(MODES),
    "device": "cuda, mps or cpu; without it the first that is there",
    "precision": ", ".join(PRECISIONS),
    "tokenizer": "folder with CLIP's vocab.json and merges.txt",
    "config": "LDM yaml; without it the one beside the checkpoint",
    "prediction": "epsilon or v, where the checkpoint does not say",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other mistake."""
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line: one option for each field of `Settings`, with dashes or underscores."""
    made = _Parser(prog="lora_ext generate", description=__doc__.splitlines()[0] if __doc__ else None)
    kinds = {"int": int, "float": float}
    for item in fields(Settings):
        kind = str(item.type)
        options: dict[str, Any] = {"default": item.default, "dest": item.name, "help": _HELP.get(item.name)}
        if "tuple" in kind:
            options |= {"action": "append", "default": [], "type": Path}
        else:
            options["type"] = Path if "Path" in kind else kinds.get(kind, str)
        made.add_argument(*dict.fromkeys((f"--{item.name}", f"--{item.name.replace('_', '-')}")), **options)
    made.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the PNG files")
    made.add_argument("--json", action="store_true", help="tell the results as JSON on standard output")
    return made


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0, or 2 with one line on standard error."""
    given = vars(parser().parse_args(argv))
    out, as_json = given.pop("out"), given.pop("json")
    settings = Settings(**{**given, "lora_dir": tuple(given["lora_dir"])})
    report = Report()
    try:
        images = _with_bar(settings, report)
        paths = save(images, out)
    except LoraError as error:
        print(f"lora_ext generate: {error}", file=sys.stderr)
        return 2
    for fit in report.fits:
        print(fit, file=sys.stderr)
    if as_json:
        told = [{"file": str(p), "infotext": i.info[infotext.KEY]} for p, i in zip(paths, images, strict=True)]
        fits = [{**asdict(fit), "text": str(fit)} for fit in report.fits]
        print(json.dumps({"images": told, "loras": fits}, ensure_ascii=False, default=str))
    else:
        print("\n".join(map(str, paths)))
    return 0


def _with_bar(settings: Settings, report: Report) -> list[Image.Image]:
    """`generate` under a progress bar over all guesses."""
    from tqdm import tqdm

    bar: Any = None

    def progress(step: int, total: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=0, unit="step", file=sys.stderr, leave=False)
        if step == 0:
            bar.total = bar.n + total
        bar.update()

    try:
        return generate(settings, progress=progress, report=report)
    finally:
        if bar is not None:
            bar.close()


if __name__ == "__main__":
    raise SystemExit(main())

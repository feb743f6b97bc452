"""`python -m lora_ext generate`: one option for each field of `Settings`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image

from ..command_line import CommandParser
from ..errors import LoraError
from ..fit_report import FitReport
from ..host import infotext
from ..inject import MODES
from ..precisions import MODEL_PRECISIONS
from ..protocols import VAE_SCALE_FACTOR
from .pipeline import GenerationReport, generate, save_images
from .settings import Settings

_HELP = {
    "prompt": "what to draw; <lora:name:0.8> applies a file",
    "negative_prompt": "what to keep away from",
    "ckpt": "checkpoint (.safetensors, .ckpt) or diffusers folder; without it the small model that comes along",
    "lora_dir": "folder of LoRA files, searched with its subfolders; may be given several times",
    "embeddings": "folder of textual-inversion files, used by their names; may be given several times",
    "seed": "of the first picture; -1 draws one",
    "width": f"pixels, a multiple of {VAE_SCALE_FACTOR}; 0: what the model was made for",
    "height": f"pixels, a multiple of {VAE_SCALE_FACTOR}",
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
    "precision": ", ".join(MODEL_PRECISIONS),
    "tokenizer": "folder with CLIP's vocab.json and merges.txt",
    "config": "LDM yaml; without it the one beside the checkpoint",
    "prediction": "epsilon or v, where the checkpoint does not say",
    "strict": "stop with an error where a tag cannot be understood or its file is not there, instead of skipping it",
}


def generate_parser(
    verb: str = "generate", about: str = (__doc__ or "").splitlines()[0], leave_out: Sequence[str] = ()
) -> CommandParser:
    """The command line: one option for each field of `Settings` but those left out."""
    made = CommandParser(verb, about)
    kinds = {"int": int, "float": float}
    for item in fields(Settings):
        if item.name in leave_out:
            continue
        kind = str(item.type)
        options: dict[str, Any] = {"default": item.default, "dest": item.name, "help": _HELP.get(item.name)}
        if "tuple" in kind:
            options |= {"action": "append", "default": [], "type": Path}
        elif kind == "bool":
            options |= {"action": "store_true"}
        else:
            options["type"] = Path if "Path" in kind else kinds.get(kind, str)
        made.add_argument(f"--{item.name}", **options)
    made.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the PNG files")
    made.add_argument("--json", action="store_true", help="tell the results as JSON on standard output")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0, or 2 with one line on standard error."""
    given = vars(generate_parser().parse_args(argv))
    out, as_json = given.pop("out"), given.pop("json")
    folders = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    settings = Settings(**{**given, **folders})
    report = GenerationReport()
    try:
        images = _generate_with_progress_bar(settings, report)
        paths = save_images(images, out)
    except LoraError as error:
        print(f"lora-ext: {error}", file=sys.stderr)
        return 2
    if as_json:
        made = [
            {"file": str(p), "infotext": i.info[infotext.PARAMETERS_KEY]} for p, i in zip(paths, images, strict=True)
        ]
        fits = [_fit_as_json(fit) for fit in report.fits]
        print(json.dumps({"images": made, "loras": fits, "notes": report.notes}, ensure_ascii=False, default=str))
    else:
        print("\n".join(map(str, paths)))
    return 0


def _generate_with_progress_bar(settings: Settings, report: GenerationReport) -> list[Image.Image]:
    """`generate` under a progress bar over all guesses; what the report says is printed before a pass begins, and what
    it says besides, when the pictures are made, after the last.
    """
    from tqdm import tqdm

    bar: Any = None
    printed: set[str] = set()

    def tell() -> None:
        for text in map(str, (*report.fits, *report.notes)):
            if text not in printed:
                printed.add(text)
                print(text, file=sys.stderr)

    def progress(step: int, total: int) -> None:
        nonlocal bar
        if step == 0:
            tell()
        bar = bar or tqdm(total=0, unit="step", file=sys.stderr, leave=False)
        if step == 0:
            bar.total = bar.n + total
        bar.update()

    try:
        images = generate(settings, on_progress=progress, report=report)
    finally:
        if bar is not None:
            bar.close()
    tell()
    return images


def _fit_as_json(fit: FitReport) -> dict[str, Any]:
    """The report as a dict; a layer id has the keys part, block and leaf."""
    found = {**asdict(fit), "text": str(fit)}
    for key in ("unmatched", "wrong_shape"):
        found[key] = [{"part": i.part, "block": i.block, "leaf": i.layer} for i in getattr(fit, key)]
    return found

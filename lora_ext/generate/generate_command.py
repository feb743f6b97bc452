"""`python -m lora_ext generate`: one option for each field of `Settings`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from PIL import Image

from ..command_line import CONFIG_HELP, TOKENIZER_HELP, CommandParser, check_output_folder
from ..console import print_text
from ..errors import LoraError
from ..fit_report import FitReport
from ..host import infotext
from ..inject import MODES
from ..message_help import report_error, with_help
from ..precisions import MODEL_PRECISIONS
from ..protocols import VAE_SCALE_FACTOR
from .image_files import save_images
from .pipeline import GenerationReport, generate
from .settings import Settings

_HELP = {
    "prompt": "the prompt; <lora:name:0.8> applies a LoRA file",
    "negative_prompt": "the negative prompt",
    "ckpt": "checkpoint (.safetensors, .ckpt) or diffusers folder (default: the embedded small model)",
    "lora_dir": "folder of LoRA files, with its subfolders; may be given several times (default: the small model's)",
    "embeddings": "folder of textual-inversion files, used by their names; may be given several times",
    "seed": "seed of the first image; -1: a random one",
    "steps": "sampling steps",
    "width": f"pixels, a multiple of {VAE_SCALE_FACTOR}; 0: the size that the model was trained for",
    "height": f"pixels, a multiple of {VAE_SCALE_FACTOR}; 0: the size that the model was trained for",
    "sampler": "sampling method by the web UI's name, such as 'Euler a'",
    "scheduler": "noise schedule by the web UI's name, such as Karras",
    "cfg": "CFG scale",
    "batch": "images at once",
    "n_iter": "number of batches",
    "clip_skip": "text-encoder layer, counted from the end: 1 is the last (SD1 only)",
    "init_image": "image to begin with (img2img)",
    "strength": "denoising strength of img2img, 0 to 1",
    "hr_scale": "hires pass: enlarge the latent this many times and sample again",
    "hr_strength": "denoising strength of the hires pass, 0 to 1",
    "hr_steps": "steps of the hires pass; 0: as many as the first",
    "mode": "how LoRA files are applied: " + ", ".join(MODES),
    "device": "cuda, mps or cpu (default: the first that is available)",
    "precision": "dtype of the model: " + ", ".join(MODEL_PRECISIONS),
    "tokenizer": TOKENIZER_HELP,
    "config": CONFIG_HELP,
    "prediction": "what the U-Net predicts, epsilon or v, where the checkpoint does not say",
    "region_ratios": "sizes of the regions that ADDCOL, ADDROW and BREAK make, such as 1,1 or 1,2,1;1",
    "base_ratio": "share of the text before ADDBASE within the regions, 0 to 1",
    "masks": "folder of at= masks (PNG, white acts); may be given several times (default: masks in the data folder)",
    "strict": "stop before drawing where a tag cannot be parsed, its file is missing or does not wholly fit the model",
    "show_curve": "print which weight each file with a curve, start= or stop= had at each U-Net call",
}


def generate_parser(
    verb: str = "generate", about: str = "Generate images from a prompt with LoRA tags.", leave_out: Sequence[str] = ()
) -> CommandParser:
    """Creates the command line parser: one option for each field of `Settings`.

    Args:
        verb: the command's name.
        about: its description.
        leave_out: fields without an option.
    """
    parser = CommandParser(verb, about)
    kinds = {"int": int, "float": float}
    for item in fields(Settings):
        if item.name in leave_out:
            continue
        kind = str(item.type)
        options: dict[str, Any] = {"default": item.default, "dest": item.name, "help": _HELP[item.name]}
        if "tuple" in kind:
            options |= {"action": "append", "default": [], "type": Path}
        elif kind == "bool":
            options |= {"action": "store_true"}
        else:
            options["type"] = Path if "Path" in kind else kinds.get(kind, str)
        parser.add_argument(f"--{item.name}", **options)
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the PNG files")
    parser.add_argument("--json", action="store_true", help="print the results as JSON on standard output")
    return parser


def settings_from_options(options: Mapping[str, Any]) -> Settings:
    """The settings of a parsed command line.

    Args:
        options: name → value, those of `generate_parser` alone.
    """
    folders = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    return Settings(**{**options, **folders})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, or 2 after an error, which is one line on standard error."""
    given = vars(generate_parser().parse_args(argv))
    out, as_json = given.pop("out"), given.pop("json")
    settings = settings_from_options(given)
    report = GenerationReport()
    try:
        check_output_folder(out, "--out")
        images = _generate_with_progress_bar(settings, report)
        paths = save_images(images, out)
    except LoraError as error:
        return report_error(error)
    if as_json:
        image_rows = [
            {"file": str(p), "infotext": i.info[infotext.PARAMETERS_KEY]} for p, i in zip(paths, images, strict=True)
        ]
        fits = [_fit_as_json(fit) for fit in report.fits]
        print_text(
            json.dumps({"images": image_rows, "loras": fits, "notes": report.notes}, ensure_ascii=False, default=str)
        )
    else:
        print_text("\n".join(map(str, paths)))
    return 0


def _generate_with_progress_bar(settings: Settings, report: GenerationReport) -> list[Image.Image]:
    """Generates with a progress bar over all U-Net calls.

    The report is printed before each pass begins, and what is added to it later at the end.
    """
    from tqdm import tqdm

    bar: Any = None
    printed: set[str] = set()

    def tell() -> None:
        for text in map(with_help, (*map(str, report.fits), *report.notes)):
            if text not in printed:
                printed.add(text)
                print_text(text, file=sys.stderr)

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
    """Returns a report for JSON; a layer has the keys part, block and leaf."""
    found = {**asdict(fit), "text": str(fit)}
    for key in ("unmatched", "wrong_shape"):
        found[key] = [{"part": i.part, "block": i.block, "leaf": i.layer} for i in getattr(fit, key)]
    return found

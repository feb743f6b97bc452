"""`python -m lora_ext demo`: two labelled sheets on what a LoRA, its weight and its blocks do, and how one is trained.

Everything is part of the package: the small model, a LoRA for it, training images in colours that it does not know, and
a check of whether the generated images match their captions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import torch
from tqdm import tqdm

from .command_line import CommandParser, check_output_folder
from .compare.axis_values import weight_label
from .compare.sheet_layout import Sheet, draw_sheet
from .console import print_text
from .embedded import shapes
from .errors import FileError
from .file.lora_library import LoraLibrary
from .file.saving import replacing_file
from .generate import Settings, embedded_model, load_settings_model
from .host.standalone.model import StandaloneModel
from .training import toy_task
from .training.train_command import TerminalHost

DEMO_WEIGHTS = (0.0, 0.4, 0.8, 1.0)
DEMO_BLOCK_PRESETS = ("INALL", "OUTALL")
DEMO_TRAINING = {"train_batch_size": 16, "learning_rate": 1.4e-3, "max_train_epochs": 8}
"""Larger batches than the toy task's own: fewer steps, less time."""
DEMO_TRAINED_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.5)
DEMO_TRAINED_EPOCHS = (0, 2, -1)
"""Which of the files, one an epoch, are shown: too little learned, enough, and all."""
DEMO_TRAINED_PROMPT = toy_task.TOY_PROMPTS[3]
DEMO_SCENES = (
    "a red circle on a blue background",
    "a yellow square on a purple background",
    "a green triangle on white",
)


class DemoTrainingResult(TypedDict):
    """What training came to: scores are shares of captions, from 0 to 1."""

    training_sheet: str
    concept: str
    concept_before: float
    concept_after: float
    unrelated_kept: float
    train_seconds: float
    train_steps: int


class DemoResult(DemoTrainingResult):
    """The JSON of `demo`: the first sheet, the score without a LoRA, and what training came to."""

    sheet: str
    captions_obeyed: float
    captions: int
    lora: str
    columns: list[str]
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Draws a sheet, trains, and draws a sheet of the result; prints where they are and what they show.

    Args:
        argv: the command line without the command's name; None reads that of the program.

    Returns:
        0.

    Raises:
        FileError: the installation lacks the small model.
    """
    parser = CommandParser("demo", "Draw labelled sheets with the small built-in model, and train in between.")
    parser.add_argument("--out", type=Path, default=Path("lora-ext-demo"), help="folder for the sheet")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of an image")
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")
    args = parser.parse_args(argv)
    check_output_folder(args.out, "--out")
    # The small model's layers are too small for several threads, which would mostly wait for each other.
    torch.set_num_threads(1)
    start = time.monotonic()
    own = embedded_model()
    if own is None:
        raise FileError("the small model that belongs to the demo is missing from this installation")
    base = replace(toy_task.TOY_SETTINGS, steps=args.steps)
    model, library = load_settings_model(base), LoraLibrary([own.LORA_DIR])
    name = library.names()[0]
    tags = [
        "",
        *(f"<lora:{name}:{weight:g}>" for weight in DEMO_WEIGHTS[1:]),
        *(f"<lora:{name}:1:lbw={b}>" for b in DEMO_BLOCK_PRESETS),
    ]
    columns = [
        *map(weight_label, DEMO_WEIGHTS),
        *(f"weight 1, {block}" for block in DEMO_BLOCK_PRESETS),
    ]
    prompts = shapes.SCENE_PROMPTS
    with tqdm(total=len(DEMO_SCENES) * len(tags) + len(prompts), desc="drawing", disable=args.json) as bar:
        rows = [[f"{scene} {tag}" for tag in tags] for scene in DEMO_SCENES]
        cells = toy_task.generate_toy_grid(model, library, base, rows, bar.update)
        plain = toy_task.generate_toy_images(model, library, base, prompts, on_image=bar.update)
    obeyed, known = shapes.share_obeyed(plain, prompts), toy_task.UNRELATED_PROMPTS
    sheet = draw_sheet(
        Sheet(
            title=f"<lora:{name}> at rising weights, and in the input or output blocks only",
            columns=columns,
            rows=DEMO_SCENES,
            cells=cells,
            note=f"Same seed in each row. Without a LoRA the model obeys {obeyed:.0%} of {len(prompts)} captions.",
            scale=2,
        )
    )
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "demo.png"
    with replacing_file(path, overwrite=True) as part:
        sheet.save(part, format="PNG")
    result: DemoResult = {
        "sheet": str(path.resolve()),
        "captions_obeyed": round(obeyed, 3),
        "captions": len(prompts),
        "lora": name,
        "columns": columns,
        **demonstrate_training(model, base, args.out, shapes.share_obeyed(plain[: len(known)], known), quiet=args.json),
        "seconds": round(time.monotonic() - start, 1),
    }
    print_text(json.dumps(result) if args.json else format_demo_result(result))
    return 0


def demonstrate_training(
    model: StandaloneModel, base: Settings, out: Path, unrelated_before: float, *, quiet: bool
) -> DemoTrainingResult:
    """Trains a LoRA and draws a sheet of it at several epochs and weights; returns paths and scores."""
    host = TerminalHost(not quiet)
    with host.stopping_on_signals():
        trained = toy_task.train_toy_lora(model, out / "training", host, **DEMO_TRAINING)
    host.close()
    library = LoraLibrary([out / "training"])
    names = [trained.files[index].stem for index in DEMO_TRAINED_EPOCHS]
    total = len(names) * len(DEMO_TRAINED_WEIGHTS) + 2 * len(toy_task.TOY_PROMPTS) + len(toy_task.UNRELATED_PROMPTS)
    with tqdm(total=total, desc="drawing what was learned", disable=quiet) as bar:
        rows = [
            [f"{DEMO_TRAINED_PROMPT} <lora:{name}:{weight:g}>" for weight in DEMO_TRAINED_WEIGHTS] for name in names
        ]
        cells = toy_task.generate_toy_grid(model, library, base, rows, bar.update)
        tags = [f"<lora:{names[-1]}:1>"]
        (scores,) = toy_task.score_toy_loras(model, library, base, tags, bar.update, unrelated_before)
    sheet = Sheet(
        title=f"{DEMO_TRAINED_PROMPT}: epochs and weights of what was just trained",
        columns=[*map(weight_label, DEMO_TRAINED_WEIGHTS)],
        rows=[*(f"epoch {int(name.rpartition('-')[2])}" for name in names[:-1]), "the end"],
        cells=cells,
        note=f"{scores.concept_before:.0%} of new captions obeyed before, {scores.concept_after:.0%} after.",
        scale=2,
    )
    path = out / "training.png"
    with replacing_file(path, overwrite=True) as part:
        draw_sheet(sheet).save(part, format="PNG")
    return {
        "training_sheet": str(path.resolve()),
        "concept": toy_task.TOY_CONCEPT,
        "concept_before": round(scores.concept_before, 3),
        "concept_after": round(scores.concept_after, 3),
        "unrelated_kept": round(scores.unrelated_kept, 3),
        "train_seconds": round(trained.seconds, 1),
        "train_steps": trained.steps,
    }


def format_demo_result(result: DemoResult) -> str:
    """The result as text for a terminal."""
    return "\n".join(
        (
            f"\n{result['sheet']}\n{len(DEMO_SCENES)} images, each {', '.join(result['columns'])}, from the same seed.",
            f"{result['captions_obeyed']:.0%} of {result['captions']} captions obeyed without a LoRA.",
            f"{result['training_sheet']}\nTrained for {result['train_seconds']:.0f} s: of "
            f"new captions with {result['concept']!r} {result['concept_before']:.0%} were obeyed before and "
            f"{result['concept_after']:.0%} after; unrelated ones kept {result['unrelated_kept']:.0%} of their score.",
            f"{result['seconds']} s in all.",
        )
    )

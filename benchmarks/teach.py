"""Do Start here's untouched settings teach? `teach` learns from 20 pictures, its sheet suggests a cell: is it good?

    python benchmarks/teach.py [--kind object] [--regularisation auto no] [--seeds 7 107] [--picture FILE] [--out DIR]

The pictures are the toy task's, each with a caption: a scheme of colours (a warning sign) that the small model was
never shown. Judged are 12 prompts of it, with two shapes that no picture shows, and 24 unrelated ones, each drawn from
every seed, without the LoRA and by the tag that the sheet suggests. What is kept is the share of the unrelated prompts
that are obeyed without the LoRA and still are. --picture saves unrelated prompts and the sign, drawn without the LoRA
and after the trainings, as docs/guide shows them. A second call with the same --out goes on from the trainings there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from lora_ext.embedded import shapes
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import load_settings_model
from lora_ext.host.standalone.model import StandaloneModel
from lora_ext.training import toy_task
from lora_ext.training.teach_command import main as teach

SHOWN = {
    "a yellow triangle on a blue background": 11, "a blue triangle on a red background": 15,
    "a blue diamond on a white background": 10, "a red circle on a blue background": 7,
    "a triangle on a warning sign": 11, "a ring on a warning sign": 12,
}  # fmt: skip
"""The picture's columns with their seeds: four prompts that have nothing to do with the sign, and two of it."""
COLOURS = 255
"""Colours of the picture, so that its file stays small."""


@dataclass(frozen=True)
class Taught:
    """A training and what its sheet suggested."""

    name: str
    folder: Path
    tag: str
    seconds: float


def pictures(folder: Path) -> Path:
    """The 20 pictures with their captions, as a person has them: in one folder, without regularisation pictures."""
    toy_task.save_toy_dataset(folder / "dataset")
    return next((folder / "dataset" / "pictures").iterdir())


def train(out: Path, kind: str, regularisation: str) -> Taught:
    """Teaches as the page and the command do by themselves; what is there already is not taught again."""
    folder = out / regularisation / toy_task.TOY_CONCEPT
    record = folder / "taught.json"
    if record.is_file():
        tag, seconds = json.loads(record.read_text(encoding="utf-8"))
        return Taught(regularisation, folder, tag, seconds)
    asked = [str(pictures(out)), "--name", toy_task.TOY_CONCEPT, "--kind", kind, "--output_dir", str(folder)]
    begun, printed = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(printed):
        teach([*asked, "--regularisation", regularisation, "--seed", "1", "--json"])
    tag = (json.loads(printed.getvalue())["compared"] or {}).get("tag") or f"<lora:{toy_task.TOY_CONCEPT}:1>"
    taught = Taught(regularisation, folder, tag, time.process_time() - begun)
    record.write_text(json.dumps((taught.tag, taught.seconds)), encoding="utf-8")
    return taught


def obeyed(model: StandaloneModel, taught: Taught | None, prompts: Sequence[str], seeds: Sequence[int]) -> list[bool]:
    """Whether each prompt is obeyed, with each seed."""
    library, tag = LoraLibrary([taught.folder] if taught else []), taught.tag if taught else ""
    found = []
    for seed in seeds:
        base = replace(toy_task.TOY_SETTINGS, seed=seed)
        images = toy_task.generate_toy_images(model, library, base, prompts, tag)
        found += [shapes.obeys(image, text) for image, text in zip(images, prompts, strict=True)]
    return found


def report(name: str, tag: str, concept: list[bool], unrelated: list[bool], before: list[bool], seconds: float) -> None:
    """A line of the table."""
    kept = sum(now and was for now, was in zip(unrelated, before, strict=True)) / max(1, sum(before))
    print(f"{name:>20} {sum(concept):4} of {len(concept)} = {sum(concept) / len(concept):4.0%}   "
          f"kept {kept:4.0%} of {sum(before)}   {seconds:5.0f} s   {tag}", flush=True)  # fmt: skip


def save_picture(path: Path, model: StandaloneModel, runs: Sequence[Taught]) -> None:
    """Rows: without a LoRA, then each training at weight 1; columns: `SHOWN`."""
    images = []
    for taught in (None, *runs):
        library, tag = LoraLibrary([taught.folder] if taught else []), f"<lora:{toy_task.TOY_CONCEPT}:1>"
        for prompt, seed in SHOWN.items():
            base = replace(toy_task.TOY_SETTINGS, seed=seed)
            images += toy_task.generate_toy_images(model, library, base, [prompt], tag if taught else "")
    sheet: Image.Image = shapes.image_grid(images, len(SHOWN))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(COLOURS, dither=Image.Dither.NONE, kmeans=1).save(path, optimize=True)


def main() -> None:
    """Teaches and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="object")
    parser.add_argument("--regularisation", nargs="*", default=["auto"], choices=("auto", "yes", "no"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[7, 107])
    parser.add_argument("--picture", type=Path, help="saves pictures of both, trained without and with regularisation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keeps the files there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    arms = ["no", "auto"] if given.picture else given.regularisation
    with tempfile.TemporaryDirectory() as temporary:
        out = given.out or Path(temporary)
        runs = [train(out, given.kind, arm) for arm in arms]
        model = load_settings_model(toy_task.TOY_SETTINGS)
        print(f"{'regularisation':>20} the sign")
        before = obeyed(model, None, toy_task.UNRELATED_PROMPTS, given.seeds)
        report("without a LoRA", "", obeyed(model, None, toy_task.TOY_PROMPTS, given.seeds), before, before, 0)
        for taught in runs:
            both = [
                obeyed(model, taught, texts, given.seeds)
                for texts in (toy_task.TOY_PROMPTS, toy_task.UNRELATED_PROMPTS)
            ]
            report(taught.name, taught.tag, *both, before, taught.seconds)
        if given.picture:
            save_picture(given.picture, model, runs)


if __name__ == "__main__":
    main()

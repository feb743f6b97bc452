"""`python -m lora_ext compare`: a labelled sheet over epochs, files, weights, blocks, ranks, seeds …"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..compare import build_sheet, sheet_plan
from ..compare.axes import KINDS
from ..compare.cell_store import Store
from ..compare.generate_cells import Progress
from ..compare.identical_cells import told
from ..compare.image_spec import Shot
from ..compare.scores import Scorer, training_pictures
from ..errors import LoraError
from ..file.lora_library import Library
from ..host.standalone import clip_image
from ..host.standalone.sampling import plan_of
from ..prompt_warnings import elsewhere, unread
from .generate_command import parser as generate_parser
from .image_renderer import StandaloneArtist
from .pipeline import lora_dirs, open_model, sized
from .settings import Settings

LEFT_OUT = ("init_image", "strength", "hr_scale", "hr_strength", "hr_steps", "n_iter", "batch", "strict")


def parser() -> argparse.ArgumentParser:
    """`generate`'s options but those of img2img and hires, and the sheet's own."""
    made = generate_parser("compare", (__doc__ or "").splitlines()[0], leave_out=LEFT_OUT)
    kinds = "; ".join(kind.example for kind in KINDS.values())
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = "axes: KIND [NAME]:VALUES\n  " + kinds.replace("; ", "\n  ")
    for axis, what in (("x", "columns"), ("y", "rows"), ("z", "pages")):
        made.add_argument(f"--{axis}", default="", metavar="AXIS", help=f"{what}: an axis, see below")
    made.add_argument("--lora", default="", help="the LoRA that axes speak about; without it the prompt's")
    made.add_argument("--batch", type=int, default=8, help="pictures at once")
    made.add_argument("--images", type=Path, help="folder of the training pictures, to measure likeness by")
    made.add_argument(
        "--clip",
        type=Path,
        help="folder of a CLIP image model, to measure likeness by meaning; without it one in the hub's cache",
    )
    made.add_argument("--no-scores", "--no_scores", action="store_true", help="draw only; measure nothing")
    made.set_defaults(out=Path("outputs") / "compare", steps=20)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 0, or 2 with one line on standard error; 130 when interrupted, with what is drawn kept."""
    given = vars(parser().parse_args(argv))
    own = {name: given.pop(name) for name in ("x", "y", "z", "lora", "images", "clip", "no_scores", "out", "json")}
    batch, images = given.pop("batch"), own.pop("images")
    settings = Settings(**{**given, **{name: tuple(given[name]) for name in given if isinstance(given[name], list)}})
    try:
        training = training_pictures(images) if images else ()
        result = compare(settings, batch=batch, images=training, **own)
    except LoraError as error:
        print(f"lora_ext compare: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, ensure_ascii=False) if own["json"] else _text(result))
    return 0


def compare(
    settings: Settings,
    *,
    x: str = "",
    y: str = "",
    z: str = "",
    lora: str = "",
    images: Sequence[Path] = (),
    clip: Path | None = None,
    no_scores: bool = False,
    out: Path,
    batch: int = 8,
    json: bool = False,
) -> dict[str, Any]:
    """Makes the sheet in `out` (or goes on with it) and tells where it is. Raises LoraError."""
    settings.checked()
    library = Library(lora_dirs(settings), keep=16)
    model = open_model(settings)
    asked, settings, store = settings, sized(settings, model, None), Store(out)
    plan_of(settings.sampler, settings.scheduler, settings.steps)
    shot = Shot(**settings.picture(), lora=lora)
    if asked.seed < 0:
        shot = replace(shot, seed=store.seed(asdict(shot), (x, y, z)) or shot.seed)
    planned = sheet_plan.plan(shot, x, y, z, library)
    for text in (*unread(shot.prompt, shot.negative_prompt), *elsewhere(shot.prompt)):
        print(text, file=sys.stderr)
    scorer = None if no_scores else scorer_of(images, clip, settings.device)
    with StandaloneArtist(settings, model, library) as artist:
        bar = _Bar(quiet=json)
        try:
            made = build_sheet.make(planned, artist, store, batch=batch, scorer=scorer, watch=bar)
        finally:
            bar.close()
        fits = [str(fit) for fit in artist.fits.values() if not fit.ok]
    for text in fits:
        print(text, file=sys.stderr)
    return {
        "folder": str(out.resolve()),
        "sheets": [str(path.resolve()) for path in made.files],
        "cells": len(planned.cells),
        "drawn": made.progress.done - made.progress.kept,
        "kept": made.progress.kept,
        "warning": made.warning or None,
        "same": told(planned, made.same) or None,
        "suggestion": made.suggestion.reason if made.suggestion else None,
        "tag": planned.cells[made.suggestion.cells[0]].tag if made.suggestion and made.suggestion.cells else None,
    }


def scorer_of(images: Sequence[Path], clip: Path | None = None, device: str | None = None) -> Scorer:
    """Measures by the CLIP image model in `clip`, else by one that the user has, else by colours and edges."""
    clip = clip or (clip_image.find() if images else None)
    if clip is None:
        return Scorer(images)
    model = clip_image.ImageModel(clip, device)
    return Scorer(images, model, model.name)


class _Bar:
    """A progress bar over all pictures."""

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self.bar = tqdm(unit="picture", file=sys.stderr, leave=False, disable=quiet)

    def __call__(self, progress: Progress) -> None:
        self.bar.total = progress.pictures
        self.bar.n = progress.done
        self.bar.refresh()

    def close(self) -> None:
        self.bar.close()


def _text(result: dict[str, Any]) -> str:
    lines = [*result["sheets"], f"{result['cells']} cells; {result['drawn']} pictures drawn, {result['kept']} kept."]
    return "\n".join(filter(None, [*lines, result["suggestion"], result["tag"], result["same"], result["warning"]]))

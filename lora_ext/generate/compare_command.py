"""`python -m lora_ext compare`: a labelled sheet over epochs, files, weights, blocks, ranks, seeds …

`accelerate launch -m lora_ext compare …` shares the cells out to processes, and so does the same command started again
on the same folder, also by another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypedDict

import torch

from ..command_line import CommandParser, HelpWithDefaults, check_output_folder
from ..compare import build_sheet, sheet_plan
from ..compare.axes import AXIS_KINDS
from ..compare.cell_store import CellStore
from ..compare.identical_cells import identical_cells_sentence
from ..compare.image_spec import ImageSpec
from ..compare.scores import Scorer, find_training_images
from ..compare.sheet_result import SheetResult
from ..console import print_text
from ..counted_words import counted
from ..errors import LoraError
from ..file.lora_library import LoraLibrary
from ..host.standalone import clip_image
from ..host.standalone.sampling import parse_sampling_plan
from ..message_help import report_error, with_help
from ..prompt_warnings import tag_warnings
from .generate_command import generate_parser as generate_parser
from .generate_command import settings_from_options
from .image_renderer import StandaloneImageRenderer
from .pipeline import load_settings_model, lora_dirs, with_size_and_seed
from .settings import Settings
from .sheet_progress_bar import SheetProgressBar

OMITTED_OPTIONS = ("init_image", "strength", "hr_scale", "hr_strength", "hr_steps", "n_iter", "batch")


class _HelpWithAxes(HelpWithDefaults, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the list of axes."""


def compare_parser() -> CommandParser:
    """Creates the command line parser: `generate`'s options without img2img and hires, and those of sheets."""
    about = "Draw a labelled sheet over epochs, files, weights, blocks, ranks, seeds …"
    parser = generate_parser("compare", about, leave_out=OMITTED_OPTIONS)
    kinds = "; ".join(kind.example for kind in AXIS_KINDS.values())
    parser.formatter_class = _HelpWithAxes
    parser.epilog = "axes: KIND [NAME]:VALUES\n  " + kinds.replace("; ", "\n  ")
    for axis, what in (("x", "columns"), ("y", "rows"), ("z", "pages")):
        parser.add_argument(f"--{axis}", default="", metavar="AXIS", help=f"{what}: an axis, see below")
    parser.add_argument("--lora", default="", help="the LoRA that axes change (default: the one in the prompt)")
    parser.add_argument("--batch", type=int, default=8, help="images at once")
    parser.add_argument("--images", type=Path, help="folder of the training images, to measure similarity to")
    parser.add_argument(
        "--clip",
        type=Path,
        help="folder of a CLIP image model, to measure similarity by meaning (default: one in the hub cache)",
    )
    parser.add_argument("--no_scores", action="store_true", help="generate images without measuring them")
    parser.set_defaults(out=Path("outputs") / "compare", steps=20)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, or 2 after an error; when it is interrupted, finished cells are kept."""
    given = vars(compare_parser().parse_args(argv))
    own = {name: given.pop(name) for name in ("x", "y", "z", "lora", "images", "clip", "no_scores", "out", "json")}
    batch, images = given.pop("batch"), own.pop("images")
    settings = settings_from_options(given)
    try:
        training = find_training_images(images) if images else ()
        rank = int(os.environ.get("RANK") or 0)
        result = compare(_on_own_device(settings), batch=batch, images=training, rank=rank, **own)
    except LoraError as error:
        return report_error(error)
    if rank:
        return 0
    print_text(json.dumps(result, ensure_ascii=False) if own["json"] else _format_result(result))
    return 0


def _on_own_device(settings: Settings) -> Settings:
    """The settings with the GPU that `accelerate launch` or torchrun gives to this process; unchanged elsewhere."""
    local = os.environ.get("LOCAL_RANK", "")
    if settings.device not in (None, "cuda") or not local.isdigit() or int(local) >= torch.cuda.device_count():
        return settings
    return replace(settings, device=f"cuda:{local}")


class ComparisonSummary(TypedDict):
    """The result of `compare`, as `--json` prints it.

    Attributes:
        folder: The sheet's folder.
        sheets: The files of the pages.
        cells: Number of cells.
        drawn: How many images were generated.
        kept: How many images were there already.
        warning: A sentence about copies of training images; None where there are none.
        same: A sentence about identical cells; None where there are none.
        suggestion: Which cells to keep, and why, as a sentence; None without scores.
        tag: The tag of the first suggested cell; None where none is suggested.
    """

    folder: str
    sheets: list[str]
    cells: int
    drawn: int
    kept: int
    warning: str | None
    same: str | None
    suggestion: str | None
    tag: str | None


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
    rank: int = 0,
) -> ComparisonSummary:
    """Builds a sheet; run again with the same arguments it resumes one.

    Args:
        settings: model, prompt, size and folders.
        x: the columns' axis, such as "weight: 0-1 [5]".
        y: the rows' axis.
        z: the pages' axis.
        lora: the LoRA that axes change; by default the prompt's first.
        images: training images, to measure similarity to.
        clip: folder of a CLIP image model.
        no_scores: whether nothing is measured.
        out: the folder for cells and sheets.
        batch: images at once.
        json: whether the progress bar is hidden.
        rank: number of this process among those that `accelerate launch` started; the first writes the pages.

    Returns:
        Paths of the sheets, numbers of cells, and the suggested weight.

    Raises:
        LoraError: an axis or setting is invalid, or the file of an axis or a tag does not exist or cannot be loaded.
    """
    settings.checked()
    check_output_folder(out, "--out")
    library = LoraLibrary(lora_dirs(settings), max_loaded=16)
    model = load_settings_model(settings)
    given_settings, settings = settings, with_size_and_seed(settings, model, None)
    parse_sampling_plan(settings.sampler, settings.scheduler, settings.steps)
    image_spec = ImageSpec(**settings.image_fields(), lora=lora)
    planned = sheet_plan.plan_sheet(image_spec, x, y, z, library)
    scorer = None if no_scores else create_scorer(images, clip, settings.device)
    store = CellStore(out)
    if given_settings.seed < 0:  # only now is something written: what is refused leaves no folder
        planned = _with_agreed_seed(planned, image_spec, (x, y, z), library, store)
    for text in tag_warnings(image_spec.prompt, image_spec.negative_prompt):
        print_text(with_help(text), file=sys.stderr)
    with StandaloneImageRenderer(settings, model, library) as renderer, closing(SheetProgressBar(quiet=json)) as bar:
        result = build_sheet.build_sheet(
            planned, renderer, store, batch=batch, scorer=scorer, on_progress=bar, write_pages=rank == 0
        )
        fits = [str(fit) for fit in renderer.fits.values() if not fit.ok]
    for text in fits:
        print_text(with_help(text), file=sys.stderr)
    return _summary(result)


def _summary(result: SheetResult) -> ComparisonSummary:
    suggested = result.suggestion.cells if result.suggestion else ()
    return {
        "folder": str(result.folder.resolve()),
        "sheets": [str(path.resolve()) for path in result.files],
        "cells": len(result.plan.cells),
        "drawn": result.progress.done - result.progress.kept,
        "kept": result.progress.kept,
        "warning": result.warning or None,
        "same": identical_cells_sentence(result.plan, result.identical) or None,
        "suggestion": result.suggestion.reason if result.suggestion else None,
        "tag": result.plan.cells[suggested[0]].tag if suggested else None,
    }


def _with_agreed_seed(
    plan: sheet_plan.SheetPlan,
    image_spec: ImageSpec,
    axes: tuple[str, str, str],
    library: LoraLibrary,
    store: CellStore,
) -> sheet_plan.SheetPlan:
    """The plan with the seed of the sheet that is resumed, or which other processes draw too; else with its own."""
    seed = store.agreed_seed(asdict(image_spec), axes, image_spec.seed)
    return plan if seed == image_spec.seed else sheet_plan.plan_sheet(replace(image_spec, seed=seed), *axes, library)


def create_scorer(images: Sequence[Path], clip: Path | None = None, device: str | None = None) -> Scorer:
    """Creates a scorer with the CLIP image model in `clip`, else one in the hub's cache, else by colours and edges.

    Args:
        images: the training pictures; without any no model is looked for.
        clip: the folder of an image model; None to look for one.
        device: where the model computes; None for the GPU if there is one.

    Returns:
        The scorer.

    Raises:
        LoraError: the model or a training picture cannot be read.
    """
    clip = clip or (clip_image.find_clip_image_model() if images else None)
    if clip is None:
        return Scorer(images)
    model = clip_image.ClipImageModel(clip, device)
    return Scorer(images, model, model.name)


def _format_result(result: ComparisonSummary) -> str:
    lines = [
        *result["sheets"],
        f"{counted(result['cells'], 'cell')}; {counted(result['drawn'], 'image')} generated, {result['kept']} kept.",
    ]
    return "\n".join(filter(None, [*lines, result["suggestion"], result["tag"], result["same"], result["warning"]]))

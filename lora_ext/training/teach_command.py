"""`python -m lora_ext teach PICTURES --name mycat`: training with suggested settings, each printed with its reason."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..command_line import check_output_folder
from ..console import print_text
from ..errors import TrainError
from ..protocols import TrainableModel
from ..train.config.recipe import Recipe
from ..train.config.recipe_io import recipe_from_arguments, recipe_from_settings, recipe_parser
from ..train.config.suggested_recipe import KINDS_OF_CONCEPT
from ..train.config.suggested_setting import SuggestedSetting, values_of
from ..train.data.dataset_scan import DatasetScan
from .settings_for_pictures import (
    duplicate_pictures,
    regularisation_folder_name,
    sample_prompt_lines,
    scan_picture_folder,
    suggest_for_pictures,
)
from .standalone_run import open_trainable_model
from .train_command import add_model_file_options, run_recipe, tell_model


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `teach`; returns the exit status of `train`."""
    parser = recipe_parser("teach", "Teach something from a folder of pictures; any option of train overrides.")
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="folder of pictures")
    parser.add_argument("--name", required=True, help="name of the LoRA file")
    parser.add_argument("--kind", choices=KINDS_OF_CONCEPT, default="concept", help="what is taught")
    parser.add_argument("--trigger", help="word that calls it in prompts (default: the name)")
    parser.add_argument(
        "--regularisation", choices=("auto", "yes", "no"), default="auto",
        help="pictures that keep other prompts as they are, drawn where they are missing",
    )  # fmt: skip
    parser.add_argument("--dry_run", action="store_true", help="print the settings and their reasons, and exit")
    parser.add_argument("--no_compare", action="store_true", help="no sheet of epochs and weights at the end")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")
    add_model_file_options(parser)
    args = parser.parse_args(argv)
    args.compare = not args.no_compare
    if any(mark in args.name for mark in "/\\"):
        raise TrainError(f"--name {args.name!r} has a folder; give a name alone, and the folder by --output_dir")
    trigger = (args.trigger or args.name).strip()
    named = {"output_dir": args.name, "output_name": args.name}
    asked = recipe_from_arguments(args, recipe_from_settings(named))
    check_output_folder(Path(str(asked.output_dir)), "--output_dir")
    scan = _scan_and_report(args.pictures)
    tell_model(asked)
    model = open_trainable_model(asked, tokenizer=args.tokenizer, config=args.model_config)
    suggested = _suggested_settings(args, asked, model, scan, trigger)
    own = {**named, "train_data_dir": str(args.pictures), "metadata_trigger_phrase": trigger}
    base = recipe_from_settings({**values_of(suggested), **own})
    recipe = recipe_from_arguments(args, base, lambda sentence: print_text(sentence, file=sys.stderr))
    for name, row in suggested.items():
        given = getattr(recipe, name)
        shown = repr(given) if str(given)[-1:] in ",.:" else given  # else it would run into the reason
        print_text(f"{name} = {shown}: {row.reason if given == row.value else 'as given'}", file=sys.stderr)
    if args.dry_run:
        return 0
    if recipe.sample_prompts is None:
        recipe = _with_sample_prompts(recipe, sample_prompt_lines(scan, trigger))
    # the model was loaded before its precision was suggested
    return run_recipe(recipe, args, model if recipe.mixed_precision == asked.mixed_precision else None)


def _suggested_settings(
    args: Namespace, asked: Recipe, model: TrainableModel, scan: DatasetScan, trigger: str
) -> dict[str, SuggestedSetting]:
    """The settings that suit the pictures; those of regularisation where it is wanted and the user has set none."""
    folder = Path(str(asked.output_dir)).parent / regularisation_folder_name(args.kind, model)
    found = suggest_for_pictures(args.kind, scan, model, trigger, folder, str(folder))
    offer, wish = found.regularisation, args.regularisation
    if asked.reg_data_dir is not None or wish == "no":
        return found.settings
    if wish == "auto":
        print_text(f"regularisation {'yes' if offer.choice.value else 'no'}: {offer.choice.reason}", file=sys.stderr)
    return found.settings | (offer.settings if offer.choice.value or wish == "yes" else {})


def _scan_and_report(pictures: Path) -> DatasetScan:
    """The pictures; names those that cannot be read and those that are there twice. Raises TrainError."""
    scan = scan_picture_folder(pictures)
    for sentence in scan.skipped:
        print_text(sentence, file=sys.stderr)
    for path, first in duplicate_pictures(scan):
        told = f"{path.name} is the same picture as {first.name}, and counts twice; delete one of them"
        print_text(told, file=sys.stderr)
    return scan


def _with_sample_prompts(recipe: Recipe, lines: str) -> Recipe:
    """The recipe with sample prompts, in a file of the output folder. Raises TrainError."""
    path = Path(str(recipe.output_dir)) / f"{recipe.output_name}-prompts.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{lines}\n", encoding="utf-8")
    except OSError as error:
        raise TrainError(f"{path} cannot be written: {error.strerror or error}") from error
    return replace(recipe, sample_prompts=str(path))

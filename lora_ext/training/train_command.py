"""`python -m lora_ext train`, also by `accelerate launch -m …`; options are named as in kohya's train_network.py."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ..command_line import CONFIG_HELP, TOKENIZER_HELP
from ..console import print_text, printable_text
from ..counted_words import counted
from ..errors import LoraError, TrainError
from ..generate.compare_command import ComparisonSummary
from ..host.standalone.trainable_model import StandaloneTrainableModel
from ..train.config.recipe import Recipe
from ..train.config.recipe_io import recipe_from_arguments, recipe_parser, recipe_to_toml
from ..train.config.recipe_metadata import settings_from_lora_file
from ..train.run.process_group import open_process_group
from ..train.run.training_log import format_clock
from ..train.run.training_result import TrainingResult
from . import epoch_comparison
from .dataset_listing import dataset_lines
from .run_name import claimed_name
from .standalone_run import SilentHost, check_run_folders, model_note, train

STOPPED_EXIT_STATUS = 130
"""Exit status of a run that the user stopped: 128 + SIGINT, as in shells."""


class TerminalHost(SilentHost):
    """A progress bar on stderr. Ctrl+C or SIGTERM stops the run after saving; a second one stops it at once.

    Attributes:
        is_main: Whether this process shows anything.
        stop_requested: Whether the user asked to stop.
    """

    def __init__(self, is_main: bool = True) -> None:
        self.is_main, self.stop_requested, self._bar, self._text = is_main, False, None, ""
        self._kind = ""

    def progress(self, done: int, total: int, text: str) -> None:
        """Shows one bar for the steps, and others for what comes before them."""
        from tqdm import tqdm

        kind = "train" if text.startswith("epoch ") else text
        if not self.is_main:
            return
        if kind != self._kind:
            self.close()
            self._kind = kind
            self._bar = tqdm(
                total=total, unit="step" if kind == "train" else "", file=sys.stderr, leave=kind == "train",
                desc="training" if kind == "train" else text, initial=done, dynamic_ncols=True,
            )  # fmt: skip
        if self._bar is not None:
            if kind == "train":
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)

    def cancelled(self) -> bool:
        """Whether the user asked to stop."""
        return self.stop_requested

    def notify(self, text: str) -> None:
        """Prints a line above the bar."""
        from tqdm import tqdm

        if self.is_main:
            tqdm.write(printable_text(text, sys.stderr), file=sys.stderr)

    def close(self) -> None:
        """Ends the bar; the one of the steps stays visible."""
        bar: Any = self._bar
        if bar is not None:
            bar.close()
        self._bar, self._kind = None, ""

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Inside, the first signal sets `stop_requested`; the next one acts as usual."""
        before: dict[int, Any] = {}

        def heard(number: int, frame: FrameType | None) -> None:
            self.stop_requested = True
            signal.signal(number, before[number])
            self.notify("stopping after this step and saving; press Ctrl+C again to stop at once")

        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `train`.

    Returns:
        The exit status: 0, 2 after an error message on stderr, or 130 if the user stopped the run.
    """
    made = recipe_parser("train", "Train a LoRA; options are named as in kohya's train_network.py.")
    made.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")
    made.add_argument("--output_config", action="store_true", help="print the resolved settings as TOML and exit")
    made.add_argument(
        "--debug_dataset", action="store_true", help="list every picture with its size, bucket and caption, and exit"
    )
    text = "start from the settings in a LoRA file's metadata; give the folders yourself"
    made.add_argument("--recipe_from", type=Path, metavar="FILE", help=text)
    add_model_file_options(made)
    made.add_argument(
        "--compare", action="store_true", help="at the end build a sheet of every saved file at rising weights"
    )
    args = made.parse_args(argv)
    base = recipe_from_lora_file(args.recipe_from) if args.recipe_from else None
    recipe = recipe_from_arguments(args, base, lambda sentence: print_text(sentence, file=sys.stderr))
    if args.output_config:
        print_text(recipe_to_toml(recipe), end="")
        return 0
    if args.debug_dataset:
        for line in dataset_lines(recipe, lambda sentence: print_text(sentence, file=sys.stderr)):
            print_text(line)
        return 0
    if recipe.output_dir is None:
        raise TrainError("--output_dir is missing: give the folder for the results")
    tell_model(recipe)
    return run_recipe(recipe, args)


def tell_model(recipe: Recipe) -> None:
    """Says on standard error that the embedded model is trained; nothing where a model is given."""
    if told := model_note(recipe):
        print_text(told, file=sys.stderr)


def add_model_file_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for files that a base model needs beside it."""
    parser.add_argument("--tokenizer", type=Path, help=TOKENIZER_HELP)
    parser.add_argument("--model_config", type=Path, help=CONFIG_HELP)


def run_recipe(recipe: Recipe, args: argparse.Namespace, model: StandaloneTrainableModel | None = None) -> int:
    """Trains on a terminal and prints the files, or JSON.

    Args:
        recipe: The settings.
        args: `json`, `compare`, `tokenizer` and `model_config` of a command line.
        model: A loaded model; the recipe's without one.

    Returns:
        The exit status, as of `main`.

    Raises:
        LoraError: As `train`.
    """
    check_run_folders(recipe)
    with claimed_name(recipe) as named:
        return _run(named, args, model)


def _run(recipe: Recipe, args: argparse.Namespace, model: StandaloneTrainableModel | None) -> int:
    """`run_recipe` under a name that no other run has."""
    process_group = open_process_group(recipe.device)
    terminal = TerminalHost(process_group.is_main)
    try:
        with terminal.stopping_on_signals():
            result = train(
                recipe,
                model=model,
                host=terminal,
                process_group=process_group,
                tokenizer=args.tokenizer,
                config=args.model_config,
            )
    finally:
        terminal.close()
        process_group.close()
    if process_group.is_main and not args.json:
        for path in (*result.files, result.sheet):
            if path is not None:
                print_text(path)
        print_text(
            f"{counted(result.steps, 'step')} in {format_clock(result.seconds)}, loss {result.loss:.4f}",
            file=sys.stderr,
        )
    if process_group.is_main:
        compared = _compare_epochs(recipe, result, args) if args.compare and not result.stopped else None
        if args.json:
            printed = {**training_result_as_json(result), "processes": process_group.world_size, "compared": compared}
            print_text(json.dumps(printed, default=str, ensure_ascii=False))
    return STOPPED_EXIT_STATUS if result.stopped else 0


def recipe_from_lora_file(path: Path) -> Recipe:
    """The recipe in a LoRA file's metadata, not checked yet; the command line overrides it. Raises LoraError."""
    settings, said = settings_from_lora_file(path)
    for sentence in said:
        print_text(sentence, file=sys.stderr)
    return Recipe(**settings)


def _compare_epochs(recipe: Recipe, result: TrainingResult, args: argparse.Namespace) -> ComparisonSummary | None:
    """Builds the sheet of epochs and weights; None with a message if that fails, which does not affect the training."""
    try:
        made = epoch_comparison.build_epoch_comparison(
            recipe, result, tokenizer=args.tokenizer, config=args.model_config, quiet=args.json
        )
    except LoraError as error:
        print_text(f"no sheet of epochs and weights: {error}", file=sys.stderr)
        return None
    if not args.json:
        print_text("\n".join(made["sheets"]))
        print_text("\n".join(filter(None, (made["suggestion"], made["tag"]))), file=sys.stderr)
    return made


def training_result_as_json(result: TrainingResult) -> dict[str, Any]:
    """The result as JSON values, without images."""
    names = ("file", "steps", "epochs", "loss", "seconds", "stopped", "files", "state", "sheet")
    found = {name: getattr(result, name) for name in names}
    found["files"] = [str(path) for path in result.files]
    found["samples"] = [str(item.path) for item in result.samples]
    return found

"""`python -m lora_ext train`: options named as in kohya's train_network.py; `accelerate launch -m lora_ext train …`."""

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

from ..errors import LoraError, TrainError
from ..train.config.recipe import Recipe
from ..train.config.recipe_io import recipe_from_arguments, recipe_parser, recipe_to_toml
from ..train.config.recipe_metadata import settings_from_lora_file
from ..train.run.process_group import open_process_group
from ..train.run.training_log import format_clock
from ..train.run.training_run import TrainingResult
from . import epoch_comparison
from .standalone_run import SilentHost, train

STOPPED_EXIT_STATUS = 130
"""Exit status of a run that the user stopped, as shells have it."""


class TerminalHost(SilentHost):
    """A bar on stderr; Ctrl+C (or SIGTERM) asks the run to save and stop, a second one ends it at once."""

    def __init__(self, is_main: bool = True) -> None:
        self.is_main, self.stop_requested, self._bar, self._text = is_main, False, None, ""
        self._kind = ""

    def progress(self, done: int, total: int, text: str) -> None:
        """One bar for the steps, others for what comes before them."""
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
        """Whether Ctrl+C was pressed."""
        return self.stop_requested

    def notify(self, text: str) -> None:
        """A line above the bar."""
        from tqdm import tqdm

        if self.is_main:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Takes the bar away, or leaves it where it says how it went."""
        bar: Any = self._bar
        if bar is not None:
            bar.close()
        self._bar, self._kind = None, ""

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """The first signal sets `stop`; the next acts as usual."""
        before: dict[int, Any] = {}

        def heard(number: int, frame: FrameType | None) -> None:
            self.stop_requested = True
            signal.signal(number, before[number])
            self.notify("stopping after this step, saving first; once more to stop at once")

        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0, 2 with one line on stderr, 130 when the user stopped it."""
    made = recipe_parser("train", "Train a LoRA; options are named as in kohya's train_network.py.")
    made.add_argument("--json", action="store_true", help="the outcome as one JSON object on standard output")
    made.add_argument("--output_config", action="store_true", help="print the settings as toml, and do nothing else")
    text = "a LoRA file whose settings to begin with, as its metadata tells them; folders are to be given"
    made.add_argument("--recipe_from", type=Path, metavar="FILE", help=text)
    made.add_argument("--tokenizer", type=Path, help="folder with CLIP's vocab.json and merges.txt")
    made.add_argument("--model_config", type=Path, help="LDM yaml; without it the one beside the checkpoint")
    made.add_argument(
        "--compare", action="store_true", help="at the end draw a sheet: every saved file at rising weights"
    )
    args = made.parse_args(argv)
    recipe = recipe_from_arguments(args, recipe_from_lora_file(args.recipe_from) if args.recipe_from else None)
    if args.output_config:
        print(recipe_to_toml(recipe), end="")
        return 0
    if recipe.output_dir is None:
        raise TrainError("there is no --output_dir: the folder for the results")
    team = open_process_group(recipe.device)
    shell = TerminalHost(team.is_main)
    try:
        with shell.stopping_on_signals():
            outcome = train(recipe, host=shell, process_group=team, tokenizer=args.tokenizer, config=args.model_config)
    finally:
        shell.close()
        team.close()
    if team.is_main and not args.json:
        for path in (*outcome.files, outcome.sheet):
            if path is not None:
                print(path)
        print(f"{outcome.steps} steps in {format_clock(outcome.seconds)}, loss {outcome.loss:.4f}", file=sys.stderr)
    if team.is_main:
        compared = _compared(recipe, outcome, args) if args.compare and not outcome.stopped else None
        if args.json:
            told = {**training_result_as_json(outcome), "processes": team.world_size, "compared": compared}
            print(json.dumps(told, default=str, ensure_ascii=False))
    return STOPPED_EXIT_STATUS if outcome.stopped else 0


def recipe_from_lora_file(path: Path) -> Recipe:
    """The recipe that a LoRA file tells, not checked yet: what is given beside it counts more. Raises LoraError."""
    settings, said = settings_from_lora_file(path)
    for sentence in said:
        print(sentence, file=sys.stderr)
    return Recipe(**settings)


def _compared(recipe: Recipe, result: TrainingResult, args: argparse.Namespace) -> dict[str, Any] | None:
    """The sheet of epochs and weights, told; None where it cannot be drawn, which does not undo the training."""
    try:
        made = epoch_comparison.build_epoch_comparison(
            recipe, result, tokenizer=args.tokenizer, config=args.model_config, quiet=args.json
        )
    except LoraError as error:
        print(f"no sheet of epochs and weights: {error}", file=sys.stderr)
        return None
    if not args.json:
        print("\n".join(made["sheets"]))
        print("\n".join(filter(None, (made["suggestion"], made["tag"]))), file=sys.stderr)
    return made


def training_result_as_json(result: TrainingResult) -> dict[str, Any]:
    """The outcome without its pictures in memory."""
    names = ("file", "steps", "epochs", "loss", "seconds", "stopped", "files", "state", "sheet")
    found = {name: getattr(result, name) for name in names}
    found["files"] = [str(path) for path in result.files]
    found["samples"] = [str(item.path) for item in result.samples]
    return found

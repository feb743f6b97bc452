"""`train(Recipe(…))`: a standalone model opened for a recipe, trained, and the samples as a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..compare.sheet_layout import Sheet, render
from ..errors import FileError, TrainError
from ..file.saving import save_or_beside
from ..generate import Settings, open_model
from ..host.standalone.model import Standalone
from ..host.standalone.trainable_model import StandaloneTrainee
from ..protocols import Shell
from ..train.config.recipe import Recipe
from ..train.run.process_group import Processes, processes
from ..train.run.sample_images import Drawn
from ..train.run.training_run import Outcome, Run, Watch

_PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}


class Quiet:
    """A `ports.Shell` that shows nothing and never stops."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """None."""
        return ()

    def option(self, name: str) -> object:
        """Nothing is set."""
        return None

    def progress(self, done: int, total: int, text: str) -> None:
        """Not shown."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def say(self, text: str) -> None:
        """Not shown."""


def settings_of(
    recipe: Recipe, device: str | None = None, *, tokenizer: Path | None = None, config: Path | None = None
) -> Settings:
    """How the recipe's model is opened."""
    name = recipe.pretrained_model_name_or_path
    return Settings(
        ckpt=Path(name) if name else None,
        device=device or recipe.device,
        precision=_PRECISIONS[recipe.mixed_precision],
        prediction="v" if recipe.v_parameterization else None,
        tokenizer=tokenizer,
        config=config,
    )


def open_trainee(
    recipe: Recipe, device: str | None = None, *, tokenizer: Path | None = None, config: Path | None = None
) -> StandaloneTrainee:
    """The recipe's model in the recipe's precision; without a name the small model that comes along.

    tokenizer, config: a folder and an LDM yaml, where they are not beside the model.

    Raises FileError: it is not there, or no checkpoint.
    """
    return StandaloneTrainee(open_model(settings_of(recipe, device, tokenizer=tokenizer, config=config)))


def train(
    recipe: Recipe,
    *,
    model: Standalone | StandaloneTrainee | None = None,
    shell: Shell | None = None,
    watch: Watch | None = None,
    team: Processes | None = None,
    tokenizer: Path | None = None,
    config: Path | None = None,
) -> Outcome:
    """Trains by a recipe; with several processes (`accelerate launch`) every process calls this.

    model: an open one to train on, else the recipe's (tokenizer, config: as in `open_trainee`). It is afterwards as it
    was. Raises LoraError.
    """
    team = team or processes(recipe.device)
    if model is None:
        model = open_trainee(recipe, team.device, tokenizer=tokenizer, config=config)
    trainee = StandaloneTrainee(model) if isinstance(model, Standalone) else model
    outcome = Run(trainee, recipe, shell or Quiet(), watch=watch, team=team).run()
    if team.main and outcome.samples:
        try:
            made = sheet(outcome.samples, Path(str(recipe.output_dir)), recipe.output_name, shell.say if shell else str)
            outcome = replace(outcome, sheet=made)
        except TrainError as error:  # what was trained is saved by now
            (shell or Quiet()).say(f"no sheet of the samples: {error}")
    return outcome


def sheet(drawn: Sequence[Drawn], folder: Path, name: str, say: Callable[[str], object] = str) -> Path:
    """NAME-samples.png: a row for each prompt, a column for each time they were drawn. Raises TrainError.

    say: is told where it has another name, because another program has that file open.
    """
    rows = {(item.number, item.wish.prompt): item for item in drawn}
    columns = sorted({(item.step, item.epoch) for item in drawn})
    cells = {(item.number, item.step, item.epoch): item.image for item in drawn}
    blank = drawn[0].image.copy()
    blank.paste("#ffffff", (0, 0, *blank.size))
    small = max(blank.size) <= 128
    picture = render(
        Sheet(
            title=f"{name}: what it draws as it learns",
            columns=[f"epoch {epoch}" if epoch else f"step {step}" for step, epoch in columns],
            rows=[prompt for _, prompt in sorted(rows)],
            cells=[[cells.get((number, *when), blank) for when in columns] for number, _ in sorted(rows)],
            note="The same seed in each row.",
            scale=2 if small else 1,
        )
    )
    try:
        return save_or_beside(folder / f"{name}-samples.png", partial(picture.save, format="PNG"), say)
    except FileError as error:
        raise TrainError(str(error)) from error

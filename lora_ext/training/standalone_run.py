"""`train(Recipe(…))`: a standalone model opened for a recipe, trained, and the samples as a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..compare.sheet_layout import Sheet, draw_sheet
from ..errors import FileError, TrainError
from ..file.saving import save_here_or_beside
from ..generate import Settings, load_settings_model
from ..host.standalone.model import StandaloneModel
from ..host.standalone.trainable_model import StandaloneTrainableModel
from ..protocols import HostInterface
from ..train.config.recipe import Recipe
from ..train.run.process_group import ProcessGroup, open_process_group
from ..train.run.sample_images import SampleImage
from ..train.run.training_run import OnTrainingProgress, TrainingResult, TrainingRun


class SilentHost:
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

    def notify(self, text: str) -> None:
        """Not shown."""


def generate_settings_of_recipe(
    recipe: Recipe, device: str | None = None, *, tokenizer: Path | None = None, config: Path | None = None
) -> Settings:
    """How the recipe's model is opened."""
    name = recipe.pretrained_model_name_or_path
    return Settings(
        ckpt=Path(name) if name else None,
        device=device or recipe.device,
        precision="fp32" if recipe.mixed_precision == "no" else recipe.mixed_precision,
        prediction="v" if recipe.v_parameterization else None,
        tokenizer=tokenizer,
        config=config,
    )


def open_trainable_model(
    recipe: Recipe, device: str | None = None, *, tokenizer: Path | None = None, config: Path | None = None
) -> StandaloneTrainableModel:
    """The recipe's model in the recipe's precision; without a name the small model that comes along.

    tokenizer, config: a folder and an LDM yaml, where they are not beside the model.

    Raises FileError: it is not there, or no checkpoint.
    """
    return StandaloneTrainableModel(
        load_settings_model(generate_settings_of_recipe(recipe, device, tokenizer=tokenizer, config=config))
    )


def train(
    recipe: Recipe,
    *,
    model: StandaloneModel | StandaloneTrainableModel | None = None,
    host: HostInterface | None = None,
    on_progress: OnTrainingProgress | None = None,
    process_group: ProcessGroup | None = None,
    tokenizer: Path | None = None,
    config: Path | None = None,
) -> TrainingResult:
    """Trains by a recipe; with several processes (`accelerate launch`) every process calls this.

    model: an open one to train on, else the recipe's (tokenizer, config: as in `open_trainable_model`). It is
    afterwards as it
    was. Raises LoraError.
    """
    process_group = process_group or open_process_group(recipe.device)
    if model is None:
        model = open_trainable_model(recipe, process_group.device, tokenizer=tokenizer, config=config)
    trainee = StandaloneTrainableModel(model) if isinstance(model, StandaloneModel) else model
    outcome = TrainingRun(
        trainee, recipe, host or SilentHost(), on_progress=on_progress, process_group=process_group
    ).run()
    if process_group.is_main and outcome.samples:
        try:
            made = save_sample_sheet(
                outcome.samples, Path(str(recipe.output_dir)), recipe.output_name, host.notify if host else str
            )
            outcome = replace(outcome, sheet=made)
        except TrainError as error:  # what was trained is saved by now
            (host or SilentHost()).notify(f"no sheet of the samples: {error}")
    return outcome


def save_sample_sheet(
    sample_images: Sequence[SampleImage], folder: Path, name: str, notify: Callable[[str], object] = str
) -> Path:
    """NAME-samples.png: a row for each prompt, a column for each time they were drawn. Raises TrainError.

    notify: is told where it has another name, because another program has that file open.
    """
    rows = {(item.prompt_index, item.sample_spec.prompt): item for item in sample_images}
    columns = sorted({(item.step, item.epoch) for item in sample_images})
    cells = {(item.prompt_index, item.step, item.epoch): item.image for item in sample_images}
    blank = sample_images[0].image.copy()
    blank.paste("#ffffff", (0, 0, *blank.size))
    small = max(blank.size) <= 128
    picture = draw_sheet(
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
        return save_here_or_beside(folder / f"{name}-samples.png", partial(picture.save, format="PNG"), notify)
    except FileError as error:
        raise TrainError(str(error)) from error

"""`train(Recipe(…))`: loads a standalone model, trains on it, and saves the samples as one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..command_line import check_output_folder
from ..compare.sheet_layout import Sheet, draw_sheet
from ..errors import FileError, TrainError
from ..file.saving import save_here_or_beside
from ..generate import Settings, load_settings_model
from ..host.standalone.model import StandaloneModel
from ..host.standalone.trainable_model import StandaloneTrainableModel
from ..protocols import HostInterface
from ..train.config.recipe import Recipe
from ..train.data.subset import check_folder
from ..train.run.process_group import ProcessGroup, open_process_group
from ..train.run.run_reporter import OnTrainingProgress
from ..train.run.run_requests import ControlFile, RunRequest
from ..train.run.sample_images import SampleImage
from ..train.run.training_result import TrainingResult
from ..train.run.training_run import TrainingRun


def model_note(recipe: Recipe) -> str:
    """Tells that the embedded model is trained, which is seldom meant with photos; "" for a model of the user's own."""
    if recipe.pretrained_model_name_or_path:
        return ""
    return (
        "no model is given, so the small built-in one is trained, which draws single shapes of 64 pixels and cannot "
        "learn photos; give your checkpoint with --pretrained_model_name_or_path"
    )


class SilentHost:
    """A `HostInterface` that shows nothing and never stops."""

    def lora_dirs(self) -> tuple[Path, ...]:
        """No folders."""
        return ()

    def option(self, name: str) -> object:
        """No option is set."""
        return None

    def progress(self, done: int, total: int, text: str) -> None:
        """Shows nothing."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def notify(self, text: str) -> None:
        """Shows nothing."""


def generate_settings_of_recipe(
    recipe: Recipe, device: str | None = None, *, tokenizer: Path | None = None, config: Path | None = None
) -> Settings:
    """The settings that load a recipe's model."""
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
    """Loads a recipe's model.

    Args:
        recipe: The settings; without a model's name the embedded model is loaded.
        device: The device; the recipe's without it.
        tokenizer: Folder with CLIP's vocabulary, if it is not beside the model.
        config: LDM yaml, if it is not beside the model.

    Returns:
        The model in the recipe's precision.

    Raises:
        FileError: The file is missing or not a checkpoint.
    """
    return StandaloneTrainableModel(
        load_settings_model(generate_settings_of_recipe(recipe, device, tokenizer=tokenizer, config=config))
    )


def check_run_folders(recipe: Recipe) -> None:
    """Checks the folders of a run before its model is loaded, which takes long; nothing is created.

    Args:
        recipe: The settings.

    Raises:
        LoraError: `output_dir` is a file, or there is no folder of pictures where `train_data_dir` says.
    """
    if recipe.output_dir is not None:
        check_output_folder(Path(recipe.output_dir), "output_dir")
    pictures = recipe.train_data_dir if recipe.mode == "pictures" and not recipe.dataset_config else None
    if pictures and not Path(pictures).is_file():  # a file may be a table of pictures
        check_folder(Path(pictures), "train_data_dir")


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
    """Trains a LoRA. With several processes (`accelerate launch`) every process calls this.

    Args:
        recipe: The settings.
        model: A loaded model to train on, which is unchanged afterwards; the recipe's without one.
        host: Shows progress and notes; silent without one.
        on_progress: Called with the progress after each step.
        process_group: The processes; those of the environment without it.
        tokenizer: Folder with CLIP's vocabulary, if it is not beside the model.
        config: LDM yaml, if it is not beside the model.

    Returns:
        The files and the last numbers.

    Raises:
        LoraError: The settings contradict each other, a file is missing, memory or disk is full, or the loss is NaN.
    """
    check_run_folders(recipe)
    process_group = process_group or open_process_group(recipe.device)
    if model is None:
        model = open_trainable_model(recipe, process_group.device, tokenizer=tokenizer, config=config)
        model = replace(model, is_disposable=True)
    trainable = StandaloneTrainableModel(model) if isinstance(model, StandaloneModel) else model
    shell = host or SilentHost()
    folder = None if recipe.output_dir is None else Path(recipe.output_dir)
    take = RunRequest if folder is None else ControlFile(folder, recipe.output_name, shell.notify).take
    result = TrainingRun(
        trainable, recipe, shell, on_progress=on_progress, process_group=process_group, take_request=take
    ).run()
    if process_group.is_main and result.samples:
        try:
            sheet = save_sample_sheet(
                result.samples, Path(str(recipe.output_dir)), recipe.output_name, host.notify if host else str
            )
            result = replace(result, sheet=sheet)
        except TrainError as error:  # the LoRA is saved by now
            (host or SilentHost()).notify(f"no sheet of the samples: {error}")
    return result


def save_sample_sheet(
    sample_images: Sequence[SampleImage], folder: Path, name: str, notify: Callable[[str], object] = str
) -> Path:
    """Saves all samples as NAME-samples.png, a row for each prompt and a column for each time.

    Args:
        sample_images: The samples.
        folder: The folder for the image.
        name: The run's output name.
        notify: Called with a sentence if the file is open in another program and another name is used.

    Returns:
        The image's file.

    Raises:
        TrainError: The file cannot be written.
    """
    rows = {(item.prompt_index, item.sample_spec.prompt): item for item in sample_images}
    columns = sorted({(item.step, item.epoch) for item in sample_images})
    cells = {(item.prompt_index, item.step, item.epoch): item.image for item in sample_images}
    blank = sample_images[0].image.copy()
    blank.paste("#ffffff", (0, 0, *blank.size))
    small = max(blank.size) <= 128
    picture = draw_sheet(
        Sheet(
            title=f"{name}: samples during training",
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

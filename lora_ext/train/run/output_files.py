"""The files a run writes: `.safetensors` in kohya's words, with the metadata that the web UI and model sites show."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from ... import __version__
from ...errors import FileError, TrainError
from ...file.base_model import MODELSPEC_ARCHITECTURES
from ...file.lora_file import LoraFile
from ...file.saving import FileInUseError, save_lora_file, unused_path_beside
from ..config import recipe_metadata
from ..config.recipe import Recipe
from ..data.dataset import Dataset
from ..data.dataset_metadata import dataset_metadata

_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class TrainingFileSaver:
    """Writes a run's files into `output_dir`, and removes those that `save_last_n_…` lets go.

    kept: files and states of this run by when they were written, "epoch" or "step", oldest first.
    """

    recipe: Recipe
    base_metadata: Mapping[str, str]
    """Metadata that does not change during the run."""
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    notify: Callable[[str], None] = lambda text: None

    @property
    def folder(self) -> Path:
        """Where the results go. Raises TrainError where none was given."""
        if self.recipe.output_dir is None:
            raise TrainError("there is no --output_dir: the folder for the results")
        return Path(self.recipe.output_dir)

    def path(self, *, epoch: int | None = None, step: int | None = None) -> Path:
        """The file's name at an epoch, at a step, or at the end, as kohya's scripts name them."""
        return self.folder / f"{self.stem(epoch=epoch, step=step)}.safetensors"

    def stem(self, *, epoch: int | None = None, step: int | None = None) -> str:
        """The same without folder and suffix."""
        name = self.recipe.output_name
        if epoch is not None:
            return f"{name}-{epoch:06}"
        return name if step is None else f"{name}-step{step:08}"

    def save(self, file: LoraFile, path: Path, current_metadata: Mapping[str, str]) -> Path:
        """Writes the file with its metadata, in one step; returns where: beside `path` while another program holds it.

        Raises TrainError: disk full, folder gone.
        """
        metadata = (
            {}
            if self.recipe.no_metadata
            else {
                **self.base_metadata,
                **file.metadata,
                **current_metadata,
                "ss_training_finished_at": str(time.time()),
            }
        )
        file = replace(_as_dtype(file, self.recipe.save_precision), path=path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return save_lora_file(
                    file, path, overwrite=True, metadata=metadata, key_format="kohya", rehash=bool(metadata)
                )
            except FileInUseError:  # what was trained is not to be lost for it
                other = unused_path_beside(path)
                self.notify(
                    f"{path.name} is open in another program or write-protected: saved as {other.name} beside it"
                )
                return save_lora_file(file, other, metadata=metadata, key_format="kohya", rehash=bool(metadata))
        except (FileError, OSError) as error:
            raise TrainError(
                f"{error}; what was saved before is untouched, and the run can go on from its last state with --resume"
            ) from error

    def keep_last(self, kind: str) -> int | None:
        """How many to keep; for steps how many steps back a file may be. States without a number have the files'."""
        recipe, (unit, _, is_state) = self.recipe, kind.partition("_")
        epochs, steps = recipe.save_last_n_epochs, recipe.save_last_n_steps
        if is_state:
            epochs, steps = recipe.save_last_n_epochs_state or epochs, recipe.save_last_n_steps_state or steps
        return epochs if unit == "epoch" else steps

    def record_and_prune(self, kind: str, number: int, path: Path) -> None:
        """Notes a file or state ("epoch", "step", "epoch_state", "step_state") and removes the ones beyond the last.

        As in kohya's scripts: a file every 10 steps with a last of 30 leaves 20, 30, 40 and 50 after step 50.
        """
        last = self.keep_last(kind)
        mine = self.kept.setdefault(kind, [])
        mine[:] = [item for item in mine if item[1] != str(path)] + [(number, str(path))]
        if last is None:
            return
        epochs = kind.startswith("epoch")
        gone = mine[: max(0, len(mine) - last)] if epochs else [item for item in mine if item[0] < number - last]
        for item in gone:
            mine.remove(item)
            remove_saved(Path(item[1]))


def remove_saved(path: Path) -> None:
    """Removes a file, or a folder of plain files, or a link and not what it leads to; what is not there is fine."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                inner.unlink()
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _as_dtype(file: LoraFile, precision: str | None) -> LoraFile:
    """The file's tensors in the dtype asked for; as trained without one."""
    if precision is None:
        return file
    dtype = _DTYPES[precision]

    def cast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}

    adapters = {site: type(adapter)(cast(adapter.tensors)) for site, adapter in file.adapters.items()}
    embeddings = {name: cast(vectors) for name, vectors in file.embeddings.items()}
    return replace(file, adapters=adapters, embeddings=embeddings)


def run_metadata(recipe: Recipe, data: Dataset, world_size: int, started: float) -> dict[str, str]:
    """The run in kohya's words, as the web UI and model sites show it."""
    epochs, steps = data.run_length(world_size)
    return {
        **recipe_metadata.training_metadata(recipe),
        "ss_resolution": str(recipe.size()),
        "ss_session_id": str(int(started * 1000) % 2**32),
        "ss_training_started_at": str(started),
        "ss_num_epochs": str(epochs),
        "ss_max_train_steps": str(steps),
        **dataset_metadata(data, world_size),
        "ss_total_batch_size": str(recipe.train_batch_size * world_size),
        **version_metadata(),
    }


def modelspec_metadata(recipe: Recipe, family: str, prediction: str, name: str) -> dict[str, str]:
    """Stability AI's model specification 1.0.1 (its mandatory fields, and those that are known here)."""
    architecture = MODELSPEC_ARCHITECTURES[family]
    if family == "SD2" and prediction == "v":
        architecture = "stable-diffusion-v2-768-v"
    width, height = recipe.size()
    told = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/lora",
        "implementation": "https://github.com/Stability-AI/generative-models" if family == "SDXL" else "diffusers",
        "title": recipe.metadata_title or f"LoRA {name}",
        "date": datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat(),
        "resolution": f"{width}x{height}",
        "prediction_type": prediction,
        "timestep_range": None
        if recipe.min_timestep is None and recipe.max_timestep is None
        else f"{recipe.min_timestep or 0},{recipe.max_timestep or 1000}",
        "encoder_layer": str(recipe.clip_skip or 1) if family == "SD1" else None,
        "author": recipe.metadata_author,
        "description": recipe.metadata_description,
        "license": recipe.metadata_license,
        "tags": recipe.metadata_tags,
        "trigger_phrase": recipe.metadata_trigger_phrase or recipe.token_string,
        "usage_hint": recipe.metadata_usage_hint,
    }
    return {f"modelspec.{key}": value for key, value in told.items() if value is not None}


def version_metadata() -> dict[str, str]:
    """Who made the file."""
    return {"ss_sd_scripts_commit_hash": f"lora-ext {__version__}", "lora_ext_version": __version__}

"""The files that a run saves, named as by kohya's scripts, with the metadata that the web UI and model sites show."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ... import __version__
from ...errors import FileError, TrainError
from ...file.hashes import legacy_hash, whole_file_hash
from ...file.key_formats import format_keys
from ...file.lora_file import LoraFile
from ...file.saving import FileInUseError, replacing_file, save_lora_file, unused_path_beside
from ...file.torch_file import write_torch_file
from ...precisions import PRECISION_DTYPES
from ...protocols import TrainableModel
from ..config import recipe_metadata
from ..config.recipe import Recipe
from ..data.dataset import Dataset
from ..data.dataset_metadata import dataset_metadata
from .model_spec import modelspec_metadata


@dataclass
class TrainingFileSaver:
    """Saves a run's files in `output_dir`, and removes old ones beyond `save_last_n_…`.

    Attributes:
        recipe: The settings.
        base_metadata: Metadata that does not change during the run.
        kept: "epoch", "step", "epoch_state" or "step_state" → (number, path) of this run's files and states, oldest
            first.
        notify: Called with a sentence where a file is saved under another name.
    """

    recipe: Recipe
    base_metadata: Mapping[str, str]
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    notify: Callable[[str], None] = lambda text: None

    @property
    def folder(self) -> Path:
        """`output_dir`. Raises TrainError where none was given."""
        if self.recipe.output_dir is None:
            raise TrainError("--output_dir is missing: give the folder for the results")
        return Path(self.recipe.output_dir)

    @property
    def best_path(self) -> Path:
        """The path of the file with the lowest validation loss."""
        return self.folder / f"{self.recipe.output_name}-best.{self.recipe.save_model_as}"

    def path(self, *, epoch: int | None = None, step: int | None = None) -> Path:
        """The path of an epoch's or a step's file, or of the run's own file, named as by kohya's scripts."""
        return self.folder / f"{self.stem(epoch=epoch, step=step)}.{self.recipe.save_model_as}"

    def stem(self, *, epoch: int | None = None, step: int | None = None) -> str:
        """The file's name without folder and suffix."""
        name = self.recipe.output_name
        if epoch is not None:
            return f"{name}-{epoch:06}"
        return name if step is None else f"{name}-step{step:08}"

    def save(self, file: LoraFile, path: Path, current_metadata: Mapping[str, str]) -> Path:
        """Saves a file with its metadata, whole or not at all.

        Returns:
            Where it is: `path`, or another name beside it while another program holds that open.

        Raises:
            TrainError: The disk is full or the folder cannot be written to.
        """
        metadata = (
            {}
            if self.recipe.no_metadata
            else {
                **self.base_metadata,
                **file.metadata,
                **current_metadata,
                "ss_output_name": path.stem,
                "ss_training_finished_at": str(time.time()),
            }
        )
        file = replace(_as_dtype(file, self.recipe.save_precision), path=path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _write(file, path, metadata, overwrite=True)
            except FileInUseError:  # on Windows, where a program such as the web UI has it mapped
                other = unused_path_beside(path)
                self.notify(
                    f"{path.name} is open in another program or write-protected: saved as {other.name} beside it"
                )
                return _write(file, other, metadata)
        except (FileError, OSError) as error:
            raise TrainError(
                f"{error}; what was saved before is untouched, and --resume continues from the last saved state"
            ) from error

    def keep_last(self, kind: str) -> int | None:
        """How many of a kind to keep; of a step's, how many steps back. States fall back to the files' number."""
        recipe, (unit, _, is_state) = self.recipe, kind.partition("_")
        epochs, steps = recipe.save_last_n_epochs, recipe.save_last_n_steps
        if is_state:
            epochs, steps = recipe.save_last_n_epochs_state or epochs, recipe.save_last_n_steps_state or steps
        return epochs if unit == "epoch" else steps

    def record_and_prune(
        self, path: Path, *, epoch: int | None = None, step: int | None = None, is_state: bool = False
    ) -> None:
        """Records a file or a state folder of an epoch or a step, and removes the oldest beyond `save_last_n_…`.

        As in kohya's scripts: a file every 10 steps with a last of 30 leaves 20, 30, 40 and 50 after step 50. The run's
        own file, of neither an epoch nor a step, is not recorded.
        """
        number = step if epoch is None else epoch
        if number is None:
            return
        kind = ("step" if epoch is None else "epoch") + ("_state" if is_state else "")
        last = self.keep_last(kind)
        mine = self.kept.setdefault(kind, [])
        mine[:] = [item for item in mine if item[1] != str(path)] + [(number, str(path))]
        if last is None:
            return
        if epoch is not None:
            beyond = mine[: max(0, len(mine) - last)]
        else:
            beyond = [item for item in mine if item[0] < number - last]
        for item in beyond:
            mine.remove(item)
            remove_saved(Path(item[1]))


def _write(file: LoraFile, path: Path, metadata: Mapping[str, str], *, overwrite: bool = False) -> Path:
    """Writes a file with kohya's keys by its suffix; .ckpt and .pt hold no metadata."""
    if path.suffix == ".safetensors":
        return save_lora_file(
            file, path, overwrite=overwrite, metadata=metadata, key_format="kohya", rehash=bool(metadata)
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in format_keys(file, "kohya").items()}
    with replacing_file(path, overwrite=overwrite) as part:
        write_torch_file(tensors, part)
    return path


def remove_saved(path: Path) -> None:
    """Removes a file, a folder of plain files, or a link but not its target; a missing path is no error."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for inner in path.iterdir():
                inner.unlink()
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _as_dtype(file: LoraFile, precision: str | None) -> LoraFile:
    """The file with its floating-point tensors cast to a precision; unchanged without one."""
    if precision is None:
        return file
    dtype = PRECISION_DTYPES[precision]

    def cast(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}

    adapters = {layer_id: type(adapter)(cast(adapter.tensors)) for layer_id, adapter in file.adapters.items()}
    embeddings = {name: cast(vectors) for name, vectors in file.embeddings.items()}
    return replace(file, adapters=adapters, embeddings=embeddings)


def fixed_run_metadata(
    model: TrainableModel, recipe: Recipe, data: Dataset, world_size: int, started: float
) -> dict[str, str]:
    """All metadata that does not change during a run: the model's, the run's and the model specification's."""
    return {
        **model.metadata(),
        **vae_metadata(recipe),
        **run_metadata(recipe, data, world_size, started),
        **modelspec_metadata(recipe, model.family, model.prediction, recipe.output_name),
    }


def run_metadata(recipe: Recipe, data: Dataset, world_size: int, started: float) -> dict[str, str]:
    """The run's settings and data as kohya's `ss_*` entries, which the web UI and model sites show."""
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


def vae_metadata(recipe: Recipe) -> dict[str, str]:
    """The autoencoder that takes the place of the model's own, in kohya's entries; nothing without one.

    Raises:
        FileError: The file cannot be read.
    """
    if not recipe.vae:
        return {}
    path = Path(recipe.vae)
    name, inner = path.name, path / "vae"
    if path.is_dir():
        found = sorted((inner if inner.is_dir() else path).glob("diffusion_pytorch_model*.*"))
        if not found:
            return {"ss_vae_name": name}
        path = found[0]
    return {"ss_vae_name": name, "ss_vae_hash": legacy_hash(path), "ss_new_vae_hash": whole_file_hash(path)}


def version_metadata() -> dict[str, str]:
    """The program that saved the file, in kohya's entry and in ours."""
    return {"ss_sd_scripts_commit_hash": f"lora-ext {__version__}", "lora_ext_version": __version__}

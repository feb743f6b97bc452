"""The standalone program as a `web.backend.Backend`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..adapter_spec import Presets
from ..block_weights import BLOCK_PRESETS
from ..compare.generate_cells import ImageRenderer
from ..errors import FileError
from ..file.displayed_names import paths_by_displayed_name
from ..file.lora_library import LoraLibrary
from ..file.preset_file import load_preset_files
from ..fit_report import FitReport
from ..generate import GenerationReport, Settings, embedded_model, generate, load_settings_model
from ..generate.image_renderer import StandaloneImageRenderer
from ..host.standalone.captioner_folders import CAPTIONERS_FOLDER, find_captioners
from ..host.standalone.model import StandaloneModel
from ..host.standalone.sampling import SAMPLERS, SCHEDULE_TYPES, TIMESTEP_SAMPLERS
from ..host.standalone.trainable_model import StandaloneTrainableModel
from ..host.standalone.unloaded_checkpoint import cross_attention_dim_of_file, native_size_of_file
from ..inject.fallback import WeightChanges
from ..protocols import TagInsertion, TrainableModel, UserFolders
from ..region_masks import MASKS_FOLDER, MaskFolders
from ..train.data.captioning import ImageCaptioner
from ..web.preset_store import PRESETS_FILE
from ..web.user_paths import find_user_path, list_user_files

CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
EMBEDDED_MODEL_NAME = ""
"""The name of the small built-in model."""


def standalone_folders(
    data: Path,
    loras: Sequence[Path] = (),
    checkpoints: Sequence[Path] = (),
    datasets: Sequence[Path] = (),
    outputs: Path | None = None,
) -> UserFolders:
    """The folders as given, and below `data` those that were not. Raises FileError where a given one is missing."""
    for folder in (*loras, *checkpoints, *datasets):
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder")
    own = embedded_model()
    mine = tuple(loras) or (data / "loras",)
    fixed = (Path(own.LORA_DIR),) if own else ()
    for folder in (data / "loras", data / "checkpoints", data / "datasets"):
        folder.mkdir(parents=True, exist_ok=True)
    return UserFolders(
        loras=(*fixed, *mine),
        save=mine[0],
        checkpoints=tuple(checkpoints) or (data / "checkpoints",),
        datasets=tuple(datasets) or (data / "datasets",),
        outputs=outputs or data / "outputs",
        data=data,
        read_only=fixed,
    )


class StandaloneBackend:
    """One model in memory at a time. base: device, precision and tokenizer of every model."""

    can_generate, has_prompt_fields = True, False

    def __init__(self, folders: UserFolders, base: Settings | None = None) -> None:
        self._folders, self._base = folders, base or Settings()
        self._model: tuple[str, StandaloneModel] | None = None
        self._changes = WeightChanges()

    def folders(self) -> UserFolders:
        """The folders that the command line named."""
        return self._folders

    def presets(self) -> Presets:
        """Built-in presets and the user's own."""
        presets, notes = load_preset_files(BLOCK_PRESETS, [self._folders.data / PRESETS_FILE])
        return Presets(presets, notes=notes)

    def tag_insertion(self) -> TagInsertion:
        """The web UI's defaults, but files are called by their file names."""
        return TagInsertion()

    def model_lock(self) -> AbstractContextManager[Any]:
        """Nothing: only jobs use the model, one at a time."""
        return nullcontext()

    def applied_by(self) -> str:
        """See `Backend.applied_by`: this program itself."""
        return ""

    def why_unavailable(self, kind: str) -> str:
        """See `Backend.why_unavailable`: everything can be done here."""
        return ""

    def image_captioners(self) -> Mapping[str, ImageCaptioner]:
        """Those in the folder `captioners` of the data folder."""
        return find_captioners([self._folders.data / CAPTIONERS_FOLDER])

    def choices(self) -> dict[str, list[str]]:
        """Samplers, schedules and checkpoints."""
        folders = self._folders.checkpoints
        indexes = ((folder, path.parent) for folder in folders for path in sorted(folder.glob("*/model_index.json")))
        pipes = paths_by_displayed_name(indexes)
        own = [EMBEDDED_MODEL_NAME] if embedded_model() else []
        return {
            "samplers": [*SAMPLERS, *TIMESTEP_SAMPLERS],
            "schedulers": ["Automatic", *SCHEDULE_TYPES],
            "checkpoints": [*own, *pipes, *list_user_files(folders, CHECKPOINT_SUFFIXES)],
        }

    def native_size(self, checkpoint: str) -> int:
        """See `Backend.native_size`: of the loaded model, or as its file says."""
        if self._model is not None and self._model[0] == checkpoint:
            return self._model[1].native_size
        return native_size_of_file(self.checkpoint_path(checkpoint))

    def cross_attention_dim(self, checkpoint: str) -> int:
        """See `Backend.cross_attention_dim`."""
        return cross_attention_dim_of_file(self.checkpoint_path(checkpoint))

    def checkpoint_path(self, name: str) -> Path:
        """The file or folder of a name in `choices`. Raises FileError."""
        own = embedded_model()
        if name == EMBEDDED_MODEL_NAME:
            if own is None:
                raise FileError("choose a checkpoint: this installation has no embedded model")
            return Path(own.CHECKPOINT)
        return find_user_path(self._folders.checkpoints, name)

    def load_model(self, name: str) -> StandaloneModel:
        """The model of a name in `choices`, loaded once. Raises FileError."""
        if self._model is None or self._model[0] != name:
            path = self.checkpoint_path(name)
            self._model = None  # the old one goes before the new one comes
            self._model = (name, load_settings_model(replace(self._base, ckpt=path)))
        return self._model[1]

    @contextmanager
    def open_trainable_model(self, checkpoint: str | None) -> Iterator[TrainableModel]:
        """See `Backend.open_trainable_model`; without a checkpoint the small built-in model."""
        names = {}
        for name in self.choices()["checkpoints"]:
            with suppress(FileError):  # one that went meanwhile is no reason to train on none
                names[str(self.checkpoint_path(name))] = name
        yield StandaloneTrainableModel(self.load_model(names.get(checkpoint or "", EMBEDDED_MODEL_NAME)))

    @contextmanager
    def open_renderer(self, checkpoint: str, library: LoraLibrary) -> Iterator[ImageRenderer]:
        """See `Backend.open_renderer`."""
        settings = replace(self._base, ckpt=self.checkpoint_path(checkpoint))
        with StandaloneImageRenderer(settings, self.load_model(checkpoint), library, self.presets()) as renderer:
            yield renderer

    def generate(
        self, settings: dict[str, Any], library: LoraLibrary, on_progress: Callable[[int, int], None]
    ) -> tuple[Sequence[Image.Image], Sequence[FitReport], Sequence[str]]:
        """See `Backend.generate`."""
        wanted = dict(settings)
        name = wanted.pop("ckpt") or EMBEDDED_MODEL_NAME
        report, total = GenerationReport(), max(1, int(wanted["steps"]))
        images = generate(
            replace(self._base, **wanted, ckpt=self.checkpoint_path(name)),
            model=self.load_model(name),
            library=library,
            presets=self.presets(),
            on_progress=lambda done, calls: on_progress(done, max(calls, total)),
            report=report,
            changes=self._changes,
            masks=MaskFolders([self._folders.data / MASKS_FOLDER]),
        )
        return images, report.fits, report.notes

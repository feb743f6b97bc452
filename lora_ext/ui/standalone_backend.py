"""The standalone program as a `web.desk.Desk`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..applied_networks import Fit, Presets
from ..blocks import PRESETS
from ..compare.generate_cells import Artist
from ..errors import FileError
from ..file.displayed_names import named
from ..file.lora_library import Library
from ..file.preset_file import read_preset_files
from ..generate import Report, Settings, embedded, generate, open_model
from ..generate.image_renderer import StandaloneArtist
from ..host.standalone.model import Standalone
from ..host.standalone.sampling import SAMPLERS, SCHEDULES, STEP_SAMPLERS
from ..host.standalone.trainable_model import StandaloneTrainee
from ..inject.fallback import Changes
from ..protocols import Folders, Trainee
from ..web.preset_store import FILE
from ..web.user_paths import below, listed

CHECKPOINTS = (".safetensors", ".ckpt")
EMBEDDED = ""
"""The name of the small model that comes along."""


def data_folder() -> Path:
    """`LORA_EXT_DATA`, else the system's place for a user's application data."""
    given = os.environ.get("LORA_EXT_DATA")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming")) / "lora-ext"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "lora-ext"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "lora-ext"


def folders_of(
    data: Path,
    loras: Sequence[Path] = (),
    checkpoints: Sequence[Path] = (),
    datasets: Sequence[Path] = (),
    outputs: Path | None = None,
) -> Folders:
    """The folders as given, and below `data` those that were not. Raises FileError where a given one is missing."""
    for folder in (*loras, *checkpoints, *datasets):
        if not folder.is_dir():
            raise FileError(f"{folder} is not a folder")
    own = embedded()
    mine = tuple(loras) or (data / "loras",)
    fixed = (Path(own.LORA_DIR),) if own else ()
    for folder in (data / "loras", data / "checkpoints", data / "datasets"):
        folder.mkdir(parents=True, exist_ok=True)
    return Folders(
        loras=(*fixed, *mine),
        save=mine[0],
        checkpoints=tuple(checkpoints) or (data / "checkpoints",),
        datasets=tuple(datasets) or (data / "datasets",),
        outputs=outputs or data / "outputs",
        data=data,
        fixed=fixed,
    )


class StandaloneDesk:
    """One model in memory at a time. base: device, precision and tokenizer of every model."""

    draws, prompts = True, False

    def __init__(self, folders: Folders, base: Settings | None = None) -> None:
        self._folders, self._base = folders, base or Settings()
        self._model: tuple[str, Standalone] | None = None
        self._changes = Changes()

    def folders(self) -> Folders:
        """The folders that the command line named."""
        return self._folders

    def presets(self) -> Presets:
        """Built-in presets and the user's own."""
        presets, told = read_preset_files(PRESETS, [self._folders.data / FILE])
        return Presets(presets, notes=told)

    def model_lock(self) -> AbstractContextManager[Any]:
        """Nothing: only jobs use the model, one at a time."""
        return nullcontext()

    def applied_by(self) -> str:
        """See `Desk.applied_by`: this program itself."""
        return ""

    def cannot(self, kind: str) -> str:
        """See `Desk.cannot`: everything can be done here."""
        return ""

    def choices(self) -> dict[str, list[str]]:
        """Samplers, schedules and checkpoints."""
        folders = self._folders.checkpoints
        indexes = ((folder, path.parent) for folder in folders for path in sorted(folder.glob("*/model_index.json")))
        pipes = named(indexes)
        own = [EMBEDDED] if embedded() else []
        return {
            "samplers": [*SAMPLERS, *STEP_SAMPLERS],
            "schedulers": ["Automatic", *SCHEDULES],
            "checkpoints": [*own, *pipes, *listed(folders, CHECKPOINTS)],
        }

    def checkpoint(self, name: str) -> Path:
        """The file or folder of a name in `choices`. Raises FileError."""
        own = embedded()
        if name == EMBEDDED:
            if own is None:
                raise FileError("choose a checkpoint: this installation has no small model of its own")
            return Path(own.CHECKPOINT)
        return below(self._folders.checkpoints, name)

    def model(self, name: str) -> Standalone:
        """The model of a name in `choices`, loaded once. Raises FileError."""
        if self._model is None or self._model[0] != name:
            path = self.checkpoint(name)
            self._model = None  # the old one goes before the new one comes
            self._model = (name, open_model(replace(self._base, ckpt=path)))
        return self._model[1]

    @contextmanager
    def borrowed(self, checkpoint: str | None) -> Iterator[Trainee]:
        """See `Desk.borrowed`; without a checkpoint the small model that comes along."""
        names = {}
        for name in self.choices()["checkpoints"]:
            with suppress(FileError):  # one that went meanwhile is no reason to train on none
                names[str(self.checkpoint(name))] = name
        yield StandaloneTrainee(self.model(names.get(checkpoint or "", EMBEDDED)))

    @contextmanager
    def artist(self, checkpoint: str, library: Library) -> Iterator[Artist]:
        """See `Desk.artist`."""
        settings = replace(self._base, ckpt=self.checkpoint(checkpoint))
        with StandaloneArtist(settings, self.model(checkpoint), library, self.presets()) as artist:
            yield artist

    def draw(
        self, settings: dict[str, Any], library: Library, progress: Callable[[int, int], None]
    ) -> tuple[Sequence[Image.Image], Sequence[Fit], Sequence[str]]:
        """See `Desk.draw`."""
        wanted = dict(settings)
        name = wanted.pop("ckpt") or EMBEDDED
        report, total = Report(), max(1, int(wanted["steps"]))
        model = self.model(name)
        images = generate(
            replace(self._base, **wanted, ckpt=self.checkpoint(name)),
            model=model,
            library=library,
            presets=self.presets(),
            progress=lambda done, calls: progress(done, max(calls, total)),
            report=report,
            changes=self._changes,
        )
        return images, report.fits, report.notes

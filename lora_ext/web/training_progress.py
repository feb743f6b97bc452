"""What the page shows of a training run at work, and how the page's stop reaches it."""

from __future__ import annotations

import itertools
import math
import shutil
from contextlib import suppress
from pathlib import Path

from ..compare.training_run_files import is_same_run
from ..errors import FileError
from ..file.saving import replacing_file
from ..jobs import Job, JobCancelledError
from ..train.run.training_log import TrainingProgress
from .app_state import AppState
from .training_answers import CurveRow, TrainProgress

_POINTS = 600


class JobHostInterface:
    """A job as a `protocols.HostInterface`. While pictures are prepared a stop ends the run, later it lets it save.

    A job that is dropped ends wherever it is asked: nothing more is saved.
    """

    def __init__(self, job: Job, folders: tuple[Path, ...]) -> None:
        self.job, self._folders = job, folders

    def lora_dirs(self) -> tuple[Path, ...]:
        """The user's folders."""
        return self._folders

    def option(self, name: str) -> object:
        """Nothing is set."""
        return None

    def progress(self, done: int, total: int, text: str) -> None:
        """To the job."""
        self.job.progress(done, total, text)

    def cancelled(self) -> bool:
        """Whether the user asked to stop and save. Raises JobCancelledError where nothing is to be saved."""
        if self.job.is_discarded:
            raise JobCancelledError
        return self.job.cancelled()

    def notify(self, text: str) -> None:
        """To the job's log."""
        self.job.notify(text)


class TrainingRunProgress:
    """What the page shows of a run at work: its curve, newest samples, files; and copies of files as they are made."""

    def __init__(self, app_state: AppState, job: Job, folder: Path, name: str) -> None:
        self.app_state, self.job, self.folder, self.name = app_state, job, folder, name
        self.library_name = _free_name(app_state.folders.save, name)
        self.copies: list[Path] = []
        self._seen: set[str] = set()
        self._rows: list[CurveRow] = []

    def update(self, now: TrainingProgress) -> None:
        """At each step whose numbers have arrived, and after each file and sample."""
        if now.step and (not self._rows or self._rows[-1][0] < now.step):
            unet, text = (finite_or_none(float(now.rates.get(part, math.nan))) for part in ("unet", "text_encoder"))
            self._rows.append((now.step, finite_or_none(now.loss), finite_or_none(now.smoothed), unet, text))
            self.job.seconds_left = finite_or_none(now.seconds_left)
        if now.file is not None and now.file.name not in self._seen:
            self._seen.add(now.file.name)
            self._copy(now.file)
        live: TrainProgress = {
            "run": self.folder.name,
            "rows": thin_rows(self._rows),
            "progress": {"epoch": now.epoch, "epochs": now.epochs, "left": finite_or_none(now.seconds_left)},
            "samples": self.sample_names(),
            "files": [path.stem for path in self.copies],
            "memory": used_memory_bytes(),
        }
        self.job.live = live

    def copy_remaining_files(self) -> None:
        """Files that were made at the very end."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._copy(path)

    def _copy(self, path: Path) -> None:
        """Into the LoRA folder; where that has a run of this name, all of this one's files have another."""
        target = self.app_state.folders.save / f"{self.library_name}{path.name.removeprefix(self.name)}"
        try:
            with replacing_file(target, overwrite=True) as part:
                shutil.copyfile(path, part)
        except FileError as error:  # the run goes on: the file itself is in the run's folder
            self.job.notify(
                f"not copied to the LoRA files: {error}; {path.name} is in outputs/train/{self.folder.name}"
            )
            return
        self.copies.append(target)
        self.job.notify(f"saved {target.name}")

    def sample_names(self) -> list[str]:
        """Names of sample pictures below the output folder, in the order in which they were made."""
        outputs = self.app_state.folders.outputs
        found = sorted((self.folder / "sample").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [path.relative_to(outputs).as_posix() for path in found]


def used_memory_bytes() -> int | None:
    """Bytes in use: of the GPU where there is one, else of this process; None where that cannot be told."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096
    return None


def _free_name(folder: Path, name: str) -> str:
    """`name`, or `name-2` … where a file of a run of that name is in the folder."""
    taken = [path.stem for path in folder.glob("*.safetensors")]
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(free for free in names if not any(is_same_run(stem, free) for stem in taken))


def thin_rows(rows: list[CurveRow]) -> list[CurveRow]:
    """At most about `_POINTS` rows, the last one always."""
    step = -(-len(rows) // _POINTS) or 1
    return rows if step == 1 else [*rows[:-1:step], rows[-1]]


def finite_or_none(number: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return number if math.isfinite(number) else None

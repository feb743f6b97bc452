"""Training runs behind the tab: a form's values → a `Recipe` inside the user's folders, a job, a history on disk."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..compare.runs import same_run
from ..errors import FileError, TrainError
from ..file.writing import replacing
from ..jobs import Job
from ..tools.progress import through
from ..train.dataset import Dataset
from ..train.log import Progress
from ..train.loop import Outcome, Run
from ..train.preflight import preflight
from ..train.recipe import Recipe, knobs
from ..train.recipe_io import recipe_of, type_of
from .names import below, checked
from .studio import Studio

OURS = frozenset({"output_dir", "sample_prompts", "logging_dir", "log_with", "log_prefix", "log_tracker_name"})
"""Knobs that the tab sets itself: results lie where the user set up, prompts are written into the form."""
_RECORD, _PROMPTS = "run.json", "prompts.txt"
_POINTS = 600


def fields() -> list[dict[str, Any]]:
    """The form: {name, help, group, kind, choices, low, high, basic, default, optional} of every knob, in order."""
    rows = []
    for name, (field, knob) in knobs().items():
        if name in OURS:
            continue
        kind, optional = type_of(name)
        default = field.default
        rows.append(
            {
                "name": name,
                "help": knob.help,
                "group": knob.group,
                "type": kind,
                "kind": knob.kind,
                "choices": list(knob.choices),
                "low": knob.low,
                "high": knob.high,
                "basic": knob.basic,
                "default": list(default) if isinstance(default, tuple) else default,
                "optional": optional,
            }
        )
    return rows


class JobShell:
    """A job as a `ports.Shell`. While pictures are prepared a stop ends the run, later it lets it save."""

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
        """Whether the user asked to stop and save."""
        return self.job.cancelled()

    def say(self, text: str) -> None:
        """To the job's log."""
        self.job.say(text)


class Runs:
    """All runs: those at work, and those of before, each in a folder below outputs/train."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.folder = studio.folders.outputs / "train"

    # --- the recipe

    def recipe(self, settings: Mapping[str, Any], folder: Path | None = None) -> Recipe:
        """A checked recipe from a form's values; names become paths inside the user's folders. Raises LoraError."""
        given = {name: value for name, value in settings.items() if value not in (None, "")}
        for name in given.keys() & OURS:
            raise TrainError(f"{name} is not for the form: results go to the output folder")
        name = str(given.get("output_name", "last"))
        if len(checked(name).parts) != 1:
            raise TrainError(f"output_name {name!r} is one name without folders")
        for name, (_, knob) in knobs().items():
            if knob.kind and name in given:
                given[name] = str(self._path(name, str(given[name])))
        return recipe_of({**given, **({"output_dir": str(folder)} if folder else {})})

    def _path(self, knob: str, name: str) -> Path:
        """A name of the form → a path. Raises FileError."""
        if knob == "network_weights":
            return self.studio.entry(name).path
        if knob == "resume":
            return below([self.folder], name)
        if knob == "pretrained_model_name_or_path":
            return below(self.studio.folders.checkpoints, name)
        return below(self.studio.folders.datasets, name)

    # --- before a run

    def look(self, settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
        """The preflight report: pictures, buckets, steps, time and memory."""
        recipe = self.recipe(settings)
        data = Dataset.of(recipe, say=job.say, track=through(job.progress))
        with self.studio.desk.borrowed(recipe.pretrained_model_name_or_path) as trainee:
            found = preflight(data, trainee)
        return {"report": _plain(found.as_dict()), "text": found.text()}

    # --- a run

    def train(self, settings: Mapping[str, Any], prompts: str, job: Job) -> dict[str, Any]:
        """Trains; what came of it, with names instead of paths. Copies of the files go into the LoRA folder."""
        folder = self._new_folder(str(settings.get("output_name") or "last"))
        recipe = self.recipe(settings, folder)
        if prompts.strip():
            (folder / _PROMPTS).write_text(prompts, encoding="utf-8")
            recipe = replace(recipe, sample_prompts=str(folder / _PROMPTS))
        record: dict[str, Any] = {"name": folder.name, "job": job.id, "settings": dict(settings), "prompts": prompts}
        record["begun"] = time.time()
        self._note(folder, record)
        live = Live(self, job, folder, recipe.output_name)
        try:
            with self.studio.desk.borrowed(recipe.pretrained_model_name_or_path) as trainee:
                shell = JobShell(job, self.studio.folders.loras)
                outcome = Run(trainee, recipe, shell, watch=live.watch).run()
            live.collect()
        except BaseException as error:
            self._note(folder, {**record, "ended": time.time(), "error": str(error) or type(error).__name__})
            raise
        self.studio.changed()
        made = {**record, **self._outcome(outcome, folder, live), "ended": time.time()}
        self._note(folder, made)
        return made

    def _outcome(self, outcome: Outcome, folder: Path, live: Live) -> dict[str, Any]:
        state = outcome.state or (_newest_state(folder) if outcome.stopped else None)
        return {
            "steps": outcome.steps,
            "epochs": outcome.epochs,
            "loss": _finite(outcome.loss),
            "seconds": outcome.seconds,
            "stopped": outcome.stopped,
            "files": [self.studio.place(path) for path in live.copies],
            "samples": live.samples(),
            "state": state.relative_to(self.folder).as_posix() if state else None,
        }

    def _new_folder(self, name: str) -> Path:
        checked(name)
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for extra in ("", *(f"-{n}" for n in range(2, 100))):
            folder = self.folder / (stem + extra)
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
        raise TrainError(f"{stem} is there already")

    def _note(self, folder: Path, record: Mapping[str, Any]) -> None:
        with replacing(folder / _RECORD, overwrite=True) as part:
            part.write_text(json.dumps(_plain(record), ensure_ascii=False, indent=1), encoding="utf-8")

    def record(self, name: str) -> dict[str, Any]:
        """What is written down of a run: settings, prompts, files. Raises LoraError."""
        try:
            found: dict[str, Any] = json.loads((below([self.folder], name) / _RECORD).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            raise TrainError(f"{name!r} is no run") from None

    def of(self, name: str) -> tuple[Recipe, list[str]]:
        """A run's recipe, and what prompts call those of its files that are still there. Raises LoraError."""
        record, folder = self.record(name), below([self.folder], name)
        recipe, prompts = self.recipe(record["settings"], folder), folder / _PROMPTS
        if prompts.is_file():
            recipe = replace(recipe, sample_prompts=str(prompts))
        names = []
        for place in record.get("files") or ():
            with suppress(FileError):
                names.append(self.studio.library.call(self.studio.entry(place)))
        return recipe, names

    # --- runs of before

    def history(self) -> list[dict[str, Any]]:
        """Every run's record, newest first."""
        found = []
        for path in self.folder.glob(f"*/{_RECORD}"):
            with suppress(OSError, ValueError):
                record = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(record, dict) and record.get("name") == path.parent.name:
                    state = _newest_state(path.parent)
                    record["state"] = state.relative_to(self.folder).as_posix() if state else None
                    found.append(record)
        return sorted(found, key=lambda record: -float(record.get("begun") or 0))

    def curve(self, name: str) -> dict[str, Any]:
        """{rows: [[step, loss, smoothed, lr_unet, lr_text]]} from a run's table, thinned out. Raises FileError."""
        folder = below([self.folder], name)
        table = next((p for p in sorted(folder.glob("*.csv"))), None)
        rows = []
        if table is not None:
            with table.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    with suppress(KeyError, ValueError, TypeError):
                        numbers = [float(row[key]) for key in ("loss", "smoothed", "lr_unet", "lr_text")]
                        rows.append([int(row["step"]), *map(_finite, numbers)])
        return {"rows": _thinned(rows)}


class Live:
    """What the page shows of a run at work: its curve, newest samples, files; and copies of files as they are made."""

    def __init__(self, runs: Runs, job: Job, folder: Path, name: str) -> None:
        self.runs, self.job, self.folder, self.name = runs, job, folder, name
        self.called = _free(runs.studio.folders.save, name)
        self.copies: list[Path] = []
        self._seen: set[str] = set()
        self._rows: list[list[Any]] = []

    def watch(self, now: Progress) -> None:
        """At each step whose numbers have arrived, and after each file and sample."""
        if now.step and (not self._rows or self._rows[-1][0] < now.step):
            rates = [_finite(float(now.rates.get(part, math.nan))) for part in ("unet", "text_encoder")]
            self._rows.append([now.step, _finite(now.loss), _finite(now.smoothed), *rates])
            self.job.seconds_left = _finite(now.seconds_left)
        if now.file is not None and now.file.name not in self._seen:
            self._seen.add(now.file.name)
            self._copy(now.file)
        self.job.live = {
            "run": self.folder.name,
            "rows": _thinned(self._rows),
            "progress": {"epoch": now.epoch, "epochs": now.epochs, "left": _finite(now.seconds_left)},
            "samples": self.samples(),
            "files": [path.stem for path in self.copies],
            "memory": memory(),
        }

    def collect(self) -> None:
        """Files that were made at the very end."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._copy(path)

    def _copy(self, path: Path) -> None:
        """Into the LoRA folder; where that has a run of this name, all of this one's files have another."""
        target = self.runs.studio.folders.save / f"{self.called}{path.name.removeprefix(self.name)}"
        shutil.copyfile(path, target)
        self.copies.append(target)
        self.job.say(f"saved {target.name}")

    def samples(self) -> list[str]:
        """Names of sample pictures below the output folder, in the order in which they were made."""
        outputs = self.runs.studio.folders.outputs
        found = sorted((self.folder / "sample").glob("*.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [path.relative_to(outputs).as_posix() for path in found]


def memory() -> int | None:
    """Bytes in use: of the GPU where there is one, else of this process; None where that cannot be told."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096
    return None


def _free(folder: Path, name: str) -> str:
    """`name`, or `name-2` … where a file of a run of that name is in the folder."""
    taken = [path.stem for path in folder.glob("*.safetensors")]
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(free for free in names if not any(same_run(stem, free) for stem in taken))


def _newest_state(folder: Path) -> Path | None:
    states = [path for path in folder.glob("*-state") if path.is_dir()]
    return max(states, key=lambda path: path.stat().st_mtime, default=None)


def _thinned(rows: list[list[Any]]) -> list[list[Any]]:
    """At most about `_POINTS` rows, the last one always."""
    step = -(-len(rows) // _POINTS) or 1
    return rows if step == 1 else [*rows[:-1:step], rows[-1]]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    """As JSON holds it: NaN and infinity are null, paths text."""
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)

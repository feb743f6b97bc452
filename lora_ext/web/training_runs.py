"""Training runs behind the tab: a form's values → a `Recipe` inside the user's folders, a job, a history on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FileError, TrainError
from ..file.folder_listing import load_metadata_quickly
from ..file.saving import replacing_file
from ..jobs import Job, JobCancelledError
from ..progress import track_with_callback
from ..train.config.listed_texts import listed_texts
from ..train.config.mode_check import modes_of_option
from ..train.config.other_trainers_options import OTHER_TRAINERS_OPTIONS
from ..train.config.recipe import Recipe, recipe_options
from ..train.config.recipe_io import recipe_from_settings, recipe_option_type
from ..train.data.training_data import load_training_data
from ..train.run.preflight import PreflightReport, run_preflight
from ..train.run.run_requests import RunRequest, RunRequests
from ..train.run.training_run import TrainingResult, TrainingRun
from .app_state import AppState
from .run_records import RECORD_FILE, load_curve_rows, load_run_record
from .training_answers import (
    ExpectedCost,
    FinishedRun,
    FormField,
    PreflightDetails,
    PreflightResult,
    RunOutcome,
    RunRecord,
    RunStart,
    TrainingCurve,
)
from .training_progress import JobHostInterface, TrainingRunProgress, finite_or_none, thin_rows
from .user_paths import check_user_path, find_user_path, user_dataset_folder

TAB_OWNED_SETTINGS = frozenset(
    {
        "output_dir", "sample_prompts", "logging_dir", "log_with", "log_prefix", "log_tracker_name", "save_model_as",
        "push_to_hub", "hub_model_id",
    }
)  # fmt: skip
"""Options that the tab sets itself: results go to the output folder, and prompts are written into the form."""
_PROMPTS = "prompts.txt"


def form_fields() -> list[FormField]:
    """Every training option of the form, in its order."""
    rows = []
    for name, (field, option) in recipe_options().items():
        if name in TAB_OWNED_SETTINGS:
            continue
        kind, optional = recipe_option_type(name)
        default = field.default
        rows.append(
            FormField(
                name=name,
                help=option.help,
                group=option.group,
                type=kind,
                kind=option.kind,
                choices=list(option.choices),
                low=option.low,
                high=option.high,
                basic=option.basic,
                modes=list(modes_of_option(name)),
                default=list(default) if isinstance(default, tuple) else default,
                optional=optional,
            )
        )
    return rows


class TrainingRuns:
    """All runs: those at work, and those of before, each in a folder below outputs/train."""

    def __init__(self, app_state: AppState) -> None:
        self.app_state = app_state
        self.folder = app_state.folders.outputs / "train"
        self._requests: dict[str, RunRequests] = {}
        """Runs at work, by their jobs → what is asked of them."""
        self._without_samples: set[str] = set()

    # --- the recipe

    def recipe_from_form(self, settings: Mapping[str, Any], folder: Path | None = None) -> Recipe:
        """A checked recipe from a form's values; names become paths inside the user's folders. Raises LoraError."""
        given = {name: value for name, value in settings.items() if value not in (None, "")}
        for name in given.keys() & TAB_OWNED_SETTINGS:
            raise TrainError(f"{name} cannot be set in the tab: results are saved in the output folder")
        for name in sorted(given.keys() & OTHER_TRAINERS_OPTIONS):  # they may name paths, which are checked below
            raise TrainError(f"{name} is for the command line; the form has kohya's names of settings")
        name = str(given.get("output_name", "last"))
        if len(check_user_path(name).parts) != 1:
            raise TrainError(f"output_name {name!r} must be a name without folders")
        draws = bool(given.get("reg_generate"))
        for name, (_, option) in recipe_options().items():
            if option.kind and name in given:
                if recipe_option_type(name)[0] == "strs":
                    given[name] = [str(self._path(name, text)) for text in listed_texts(name, given[name])]
                else:
                    given[name] = str(self._path(name, str(given[name]), written=draws and name == "reg_data_dir"))
        return recipe_from_settings({**given, **({"output_dir": str(folder)} if folder else {})})

    def _path(self, option: str, name: str, *, written: bool = False) -> Path:
        """A name of the form → a path; `written` is a data set that the run makes or adds to. Raises FileError."""
        if written:
            return user_dataset_folder(self.app_state.folders.datasets, name)
        if option in ("network_weights", "base_weights"):
            return self.app_state.entry(name).path
        if option == "resume":
            return find_user_path([self.folder], name)
        if option in ("pretrained_model_name_or_path", "vae"):
            return find_user_path(self.app_state.folders.checkpoints, name)
        return find_user_path(self.app_state.folders.datasets, name)

    # --- before a run

    def run_preflight(self, settings: Mapping[str, Any], job: Job) -> PreflightResult:
        """The preflight report: pictures, buckets, steps, time and memory."""
        recipe = self.recipe_from_form(settings)
        data = load_training_data(recipe, notify=job.notify, track=track_with_callback(job.progress))
        with self.app_state.backend.open_trainable_model(recipe.pretrained_model_name_or_path) as model:
            found = run_preflight(data, model)
        return PreflightResult(preflight_details(found), found.text())

    # --- a run

    def train(self, settings: Mapping[str, Any], prompts: str, job: Job) -> FinishedRun:
        """Trains; what came of it, with names instead of paths. Copies of the files go into the LoRA folder."""
        folder = self._new_folder(str(settings.get("output_name") or "last"))
        recipe = self.recipe_from_form(settings, folder)
        if prompts.strip():
            (folder / _PROMPTS).write_text(prompts, encoding="utf-8", errors="replace")
            recipe = replace(recipe, sample_prompts=str(folder / _PROMPTS))
        record: RunStart = {
            "name": folder.name,
            "job": job.id,
            "settings": dict(settings),
            "prompts": prompts,
            "begun": time.time(),
        }
        self._save_record(folder, record)
        requests = self._requests[job.id] = RunRequests()  # what is asked while the model is loaded waits
        if not recipe.sample_prompts:
            self._without_samples.add(job.id)
        live = TrainingRunProgress(self.app_state, job, folder, recipe.output_name)
        try:
            with self.app_state.backend.open_trainable_model(recipe.pretrained_model_name_or_path) as model:
                shell = JobHostInterface(job, self.app_state.folders.loras)
                run = TrainingRun(
                    model, recipe, shell, on_progress=live.update,
                    take_request=requests.take,
                )  # fmt: skip
                result = run.run()
            live.copy_remaining_files()
        except JobCancelledError:
            self.app_state.refresh_library()
            files = [self.app_state.library_name(path) for path in live.copies]
            self._save_record(folder, {**record, "ended": time.time(), "stopped": True, "files": files})
            raise
        except BaseException as error:
            message = self.app_state.hide_folders(str(error)) or type(error).__name__
            self._save_record(folder, {**record, "ended": time.time(), "error": message})
            raise
        finally:
            self._requests.pop(job.id, None)
            self._without_samples.discard(job.id)
        self.app_state.refresh_library()
        finished: FinishedRun = {**record, **self._result_fields(result, folder, live), "ended": time.time()}
        self._save_record(folder, finished)
        return finished

    def request(self, job: str, request: RunRequest) -> None:
        """Asks something of a run at work, after its next step. Raises TrainError where it cannot be asked."""
        if job not in self._requests:
            raise TrainError("this run is not at work")
        if request.sample and job in self._without_samples:
            raise TrainError("this run has no sample prompts")
        self._requests[job].add(request)

    def _result_fields(self, outcome: TrainingResult, folder: Path, live: TrainingRunProgress) -> RunOutcome:
        state = outcome.state or (_newest_state(folder) if outcome.stopped else None)
        return {
            "steps": outcome.steps,
            "epochs": outcome.epochs,
            "loss": finite_or_none(outcome.loss),
            "seconds": outcome.seconds,
            "stopped": outcome.stopped,
            "files": [self.app_state.library_name(path) for path in live.copies],
            "samples": live.sample_names(),
            "state": state.relative_to(self.folder).as_posix() if state else None,
        }

    def _new_folder(self, name: str) -> Path:
        check_user_path(name)
        self.app_state.output_folder("train")
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for extra in ("", *(f"-{n}" for n in range(2, 100))):
            folder = self.folder / (stem + extra)
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
        raise TrainError(f"the folder {stem} already exists; start the run again")

    def _save_record(self, folder: Path, record: Mapping[str, Any]) -> None:
        with replacing_file(folder / RECORD_FILE, overwrite=True) as part:
            text = json.dumps(_plain(record), ensure_ascii=False, indent=1)
            part.write_text(text, encoding="utf-8", errors="replace")

    def load_record(self, name: str) -> RunRecord:
        """What is written down of a run: settings, prompts, files. Raises LoraError."""
        try:
            return load_run_record(find_user_path([self.folder], name))
        except (OSError, ValueError):
            raise TrainError(f"there is no training run {name!r}") from None

    def recipe_and_files(self, name: str) -> tuple[Recipe, list[str]]:
        """A run's recipe, and what prompts call those of its files that are still there. Raises LoraError."""
        record, folder = self.load_record(name), find_user_path([self.folder], name)
        recipe, prompts = self.recipe_from_form(record["settings"], folder), folder / _PROMPTS
        if prompts.is_file():
            recipe = replace(recipe, sample_prompts=str(prompts))
        names = []
        for library_name in record.get("files") or ():
            with suppress(FileError):
                names.append(self.app_state.library.shortest_name(self.app_state.entry(library_name)))
        return recipe, names

    # --- runs of before

    def history(self) -> list[RunRecord]:
        """Every run's record, newest first."""
        found: list[RunRecord] = []
        for path in self.folder.glob(f"*/{RECORD_FILE}"):
            with suppress(OSError, ValueError):
                record = load_run_record(path.parent)
                state = _newest_state(path.parent)
                record["state"] = state.relative_to(self.folder).as_posix() if state else None
                found.append(record)
        return sorted(found, key=lambda record: -record.get("begun", 0.0))

    def find_run_of_file(self, name: str) -> str | None:
        """The newest run that made this file, by its numbers: whatever the file is called now. Raises FileError."""
        digest = self.app_state.entry(name).content_hash
        for record in self.history() if digest else ():
            for path in (self.folder / record["name"]).glob("*.safetensors"):
                with suppress(FileError):
                    if load_metadata_quickly(path).get("sshs_model_hash", "").startswith(digest):
                        return str(record["name"])
        return None

    def loss_curve(self, name: str) -> TrainingCurve:
        """Losses and learning rates from a run's table, thinned out. Raises FileError."""
        try:
            return TrainingCurve(thin_rows(load_curve_rows(find_user_path([self.folder], name))))
        except OSError as error:
            raise FileError(f"the table of {name} cannot be read: {error.strerror or error}") from error


def preflight_details(report: PreflightReport) -> PreflightDetails:
    """The report as the API answers it; a number that JSON does not have is None."""
    cost = report.expected
    expected = None
    if cost is not None:
        numbers = {name: getattr(cost, name) for name in ("weights", "training", "activations", "seconds", "have")}
        low, high = report.seconds_range
        numbers |= {"bytes": cost.bytes, "total_seconds": report.seconds, "least_seconds": low, "most_seconds": high}
        expected = ExpectedCost(spare=cost.spare, **{name: finite_or_none(value) for name, value in numbers.items()})
    return PreflightDetails(**{**vars(report), "expected": expected})


def _newest_state(folder: Path) -> Path | None:
    states = [path for path in folder.glob("*-state") if path.is_dir()]
    return max(states, key=lambda path: path.stat().st_mtime, default=None)


def _plain(value: Any) -> Any:
    """As JSON holds it: NaN and infinity are null, paths text."""
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)

"""Sheets behind the tab: what is asked → a plan, a job that draws it, and a history on disk."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.responses import FileResponse, Response

from ..compare import build_sheet, sheet_plan
from ..compare.axes import AXIS_KINDS
from ..compare.cell_store import MANIFEST_FILE, CellStore, load_manifest
from ..compare.generate_cells import SheetProgress, SheetStopped
from ..compare.image_spec import ImageSettings, ImageSpec, edit_tag
from ..compare.scores import SCORES_FILE, find_training_images
from ..compare.training_run_files import runs_in_library
from ..errors import FileError, LoraError, PromptError, TrainError
from ..file.saving import check_not_linked, replacing_file
from ..generate.compare_command import create_scorer
from ..jobs import MODEL_LANE, Job, JobSummary
from ..json_text import parse_json
from ..prompt_warnings import tag_warnings
from ..training.epoch_comparison import epoch_comparison, training_image_paths
from .app_state import AppState
from .dataset_browser import dataset_folder
from .prompt_insertion import insert_words
from .routing import RequestBody, SamplingRequest
from .sheet_answers import AxesAnswer, AxisExample, PastSheet, PastSheets, PromptText, SheetDetails, SheetLive
from .training_runs import TrainingRuns
from .user_paths import find_user_path

_ASKED = "asked.json"


class SheetRequest(SamplingRequest):
    """A sheet: axes as text (`/compare/axes`), and what each picture is drawn from.

    Attributes:
        lora: The file that axes speak about, by its name in the library; "" for that of the prompt.
        x: Axis of the columns, `NAME:VALUES`; "" for none.
        y: Axis of the rows; "" for none.
        z: Axis of the pages; "" for none.
        seed: The pictures' seed.
        batch: How many pictures are drawn at a time.
        dataset: The data set that pictures are scored by; "" for no scores.
        run: The training run whose pictures they are scored by; "" for none.
        folder: The folder of a sheet to resume; "" for a new one.
    """

    lora: str = ""
    x: str = Field("", max_length=50_000)
    y: str = Field("", max_length=50_000)
    z: str = Field("", max_length=50_000)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    batch: int = Field(4, ge=1, le=32)
    dataset: str = ""
    run: str = ""
    folder: str = ""


class CellTagRequest(RequestBody):
    """A cell's tag, and the prompt that it goes into.

    Attributes:
        tag: The tag.
        prompt: The prompt as it is.
    """

    tag: str = Field(..., max_length=4000)
    prompt: str = Field("", max_length=20_000)


def requested_image_fields(options: SamplingRequest) -> dict[str, Any]:
    """The fields of a `ImageSettings` by name."""
    return {item.name: getattr(options, item.name) for item in fields(ImageSettings)}


class SheetService:
    """All sheets, each in a folder below outputs/compare."""

    def __init__(self, app_state: AppState) -> None:
        self.app_state = app_state
        self.runs = TrainingRuns(app_state)
        self.folder = app_state.folders.outputs / "compare"

    def plan_sheet(self, options: SheetRequest) -> sheet_plan.SheetPlan:
        """The plan. Raises LoraError."""
        lora = self.app_state.library.shortest_name(self.app_state.entry(options.lora)) if options.lora else ""
        image_spec = ImageSpec(**requested_image_fields(options), lora=lora)
        return sheet_plan.plan_sheet(
            image_spec, options.x, options.y, options.z, self.app_state.library, self.app_state.backend.presets()
        )

    def start_job(self, options: SheetRequest) -> Job:
        """Queues a sheet. Raises LoraError about what cannot be."""
        planned = self.plan_sheet(options)
        title = planned.base.lora or "sheet"
        return self.app_state.jobs.start("compare", title, lambda job: self.build(options, job), lane=MODEL_LANE)

    def request_for_run(self, name: str) -> SheetRequest:
        """Epochs × weights of a training run that has ended. Raises LoraError."""
        recipe, names = self.runs.recipe_and_files(name)
        wanted = epoch_comparison(recipe, names)
        checkpoint = self.runs.load_record(name)["settings"].get("pretrained_model_name_or_path") or ""
        axes: dict[str, Any] = {"lora": wanted.lora, "x": wanted.x, "y": wanted.y, "z": wanted.z}
        try:
            return SheetRequest(**wanted.image_fields.image_fields(), **axes, run=name, batch=8, checkpoint=checkpoint)
        except ValidationError as error:
            row = error.errors()[0]
            raise TrainError(f"the run's sample prompts cannot be drawn: {row['loc'][-1]}: {row['msg']}") from None

    def _training_images(self, options: SheetRequest) -> list[Path]:
        """The pictures that likeness is measured by."""
        if options.run:
            return training_image_paths(self.runs.recipe_and_files(options.run)[0])
        return find_training_images(dataset_folder(self.app_state, options.dataset)) if options.dataset else []

    def build(self, options: SheetRequest, job: Job) -> SheetDetails:
        """Draws what is missing of a sheet and writes its pages; stopped, it keeps what there is."""
        planned = self.plan_sheet(options)
        folder = (
            find_user_path([self.folder], options.folder) if options.folder else self._new(planned.base.lora or "sheet")
        )
        check_not_linked(folder, self.app_state.folders.outputs)
        scorer, store = create_scorer(self._training_images(options)), CellStore(folder)
        store.create_folder()
        for text in tag_warnings(options.prompt, options.negative_prompt):
            job.notify(text)
        with replacing_file(folder / _ASKED, overwrite=True) as part:
            part.write_text(json.dumps(dict(options)), encoding="utf-8")

        def watch(now: SheetProgress) -> None:
            job.show_progress(now.done_with_batch, now.total, "drawing")
            found = (store.path(key) for key in now.newest)
            live: SheetLive = {
                "folder": folder.name,
                "pictures": now.total,
                "done": now.done,
                "newest": [self._name(path) for path in found if path] or job.live.get("newest", []),
            }
            job.live = live
            if job.cancelled():
                raise SheetStopped

        job.text = "loading the model"
        with self.app_state.backend.open_renderer(options.checkpoint, self.app_state.library) as renderer:
            result = build_sheet.build_sheet(
                planned, renderer, store, batch=options.batch, scorer=scorer, on_progress=watch
            )
            fits = list(getattr(renderer, "fits", {}).values())
        for fit in fits:
            job.notify(str(fit))
        if result.warning:
            job.notify(result.warning)
        if not job.cancelled():
            job.done = job.total
        notes = [str(fit) for fit in fits if fit.is_worth_telling]
        return cast("SheetDetails", {**self.load_sheet(folder), "notes": notes})

    def load_sheet(self, folder: Path) -> SheetDetails:
        """A sheet as it is now; without a `sheet.json` that can be read, it has only what this type adds."""
        found: dict[str, Any] = {**(load_manifest(folder) or {})}
        for cell in found.get("cells", []):
            cell["file"] = self._name(folder / cell["file"]) if cell.get("file") else None
        names = found.get("pages")
        pages = [
            self._name(folder / name) for name in (names if isinstance(names, list) else ()) if isinstance(name, str)
        ]
        asked = {}
        with suppress(OSError, ValueError):
            asked = parse_json((folder / _ASKED).read_text(encoding="utf-8"))
        table = (folder / SCORES_FILE).is_file()
        own = {"pages": pages, "folder": folder.name, "table": table, "asked": asked, "notes": []}
        return cast("SheetDetails", {**found, **own})

    def history(self) -> list[PastSheet]:
        """Sheets of before, newest first."""
        rows = []
        for path in self.folder.glob(f"*/{MANIFEST_FILE}"):
            with suppress(OSError, ValueError, AttributeError, TypeError):
                found = parse_json(path.read_text(encoding="utf-8"))
                row = PastSheet(
                    folder=path.parent.name,
                    title=found.get("title", ""),
                    complete=found.get("complete"),
                    cells=len(found.get("cells", [])),
                    time=path.stat().st_mtime,
                )
                rows.append(row)
        return sorted(rows, key=lambda row: -row.time)

    def _new(self, name: str) -> Path:
        stem = re.sub(r"[^\w.-]+", "-", name.rpartition("/")[2])[:60].strip("-.") or "sheet"
        folder = self.folder / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 2
        while folder.exists():
            folder = folder.with_name(f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{number}")
            number += 1
        return folder

    def _name(self, path: Path) -> str:
        return path.relative_to(self.app_state.folders.outputs).as_posix()


def register_sheet_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    sheets = SheetService(app_state)

    @api.get("/compare/axes")
    def axes() -> AxesAnswer:
        """Kinds of axes with examples, and runs of training whose epochs can be compared."""
        kinds = [AxisExample(kind.name, kind.title, kind.example) for kind in AXIS_KINDS.values()]
        try:
            runs = {run: [file.name for file in files] for run, files in runs_in_library(app_state.library).items()}
        except LoraError:
            runs = {}
        return AxesAnswer(kinds, runs)

    @api.post("/compare", status_code=202)
    def compare(options: SheetRequest) -> JobSummary:
        """Draws a sheet. Answers with a job; cancelling it keeps what is drawn."""
        return sheets.start_job(options).summary()

    @api.get("/compare/history")
    def history() -> PastSheets:
        """Sheets of before, newest first."""
        return PastSheets(sheets.history())

    @api.post("/compare/prompt")
    def prompt(options: CellTagRequest) -> PromptText:
        """The prompt with a cell's tag in the place of its run's, or at its end, and the file's trigger words."""
        request = next(iter(ImageSpec(prompt=options.tag).tags()), None)
        if request is None:
            raise PromptError("the text has no <lora:…> tag")
        text = edit_tag(options.prompt, request.name, lambda _: request)
        with suppress(FileError):  # a file that is there no more still has its tag
            text = insert_words(text, app_state.search.info(app_state.entry(request.name)).prompt_words)
        return PromptText(text)

    @api.get("/compare/{folder}/scores.csv", response_class=Response)
    def table(folder: str) -> Response:
        """A sheet's scores as a table, a line a cell."""
        path = find_user_path([sheets.folder], f"{folder}/{SCORES_FILE}")
        return FileResponse(path, media_type="text/csv", filename=f"{folder}.csv")

    @api.get("/compare/{folder}")
    def sheet(folder: str) -> SheetDetails:
        """A sheet: axes, cells with picture, tag and scores, what is suggested."""
        return sheets.load_sheet(find_user_path([sheets.folder], folder))

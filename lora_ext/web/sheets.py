"""Sheets behind the tab: what is asked → a plan, a job that draws it, and a history on disk."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field, ValidationError
from starlette.responses import FileResponse, Response

from ..compare import build_sheet, sheet_plan
from ..compare.axes import KINDS
from ..compare.cell_store import MANIFEST, Store, read
from ..compare.generate_cells import Progress, Stopped
from ..compare.image_spec import Picture, Shot, edit
from ..compare.scores import TABLE, training_pictures
from ..compare.training_run_files import runs_in
from ..errors import LoraError, PromptError, TrainError
from ..file.saving import check_not_linked, replacing
from ..generate.compare_command import scorer_of
from ..jobs import MODEL, Job
from ..prompt_warnings import elsewhere, unread
from ..training.epoch_comparison import asked, pictures
from .app_state import Studio
from .dataset_browser import folder_of
from .routing import Body, Sampled
from .training_runs import Runs
from .user_paths import below

_ASKED = "asked.json"


class Asked(Sampled):
    """A sheet: axes as text (`/compare/axes`), and what each picture is drawn from.

    lora: the file that axes speak about. dataset: its pictures, to score by; run: those of this training run.
    folder: a sheet that is gone on with.
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


class Take(Body):
    """A cell's tag, and the prompt that it goes into."""

    tag: str = Field(..., max_length=4000)
    prompt: str = Field("", max_length=20_000)


def pictured(wish: Sampled) -> dict[str, Any]:
    """The fields of a `Picture` by name."""
    return {item.name: getattr(wish, item.name) for item in fields(Picture)}


class Sheets:
    """All sheets, each in a folder below outputs/compare."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.runs = Runs(studio)
        self.folder = studio.folders.outputs / "compare"

    def plan(self, wish: Asked) -> sheet_plan.Plan:
        """The plan. Raises LoraError."""
        lora = self.studio.library.call(self.studio.entry(wish.lora)) if wish.lora else ""
        shot = Shot(**pictured(wish), lora=lora)
        return sheet_plan.plan(shot, wish.x, wish.y, wish.z, self.studio.library, self.studio.desk.presets())

    def start(self, wish: Asked) -> Job:
        """Queues a sheet. Raises LoraError about what cannot be."""
        planned = self.plan(wish)
        title = f"{planned.base.lora or 'sheet'}: {len(planned.cells)}"
        return self.studio.jobs.start("compare", title, lambda job: self.draw(wish, job), lane=MODEL)

    def of_run(self, name: str) -> Asked:
        """Epochs × weights of a training run that has ended. Raises LoraError."""
        recipe, names = self.runs.of(name)
        wanted = asked(recipe, names)
        checkpoint = self.runs.record(name)["settings"].get("pretrained_model_name_or_path") or ""
        axes: dict[str, Any] = {"lora": wanted.lora, "x": wanted.x, "y": wanted.y, "z": wanted.z}
        try:
            return Asked(**wanted.picture.picture(), **axes, run=name, batch=8, checkpoint=checkpoint)
        except ValidationError as error:
            row = error.errors()[0]
            raise TrainError(f"the run's sample prompts cannot be drawn: {row['loc'][-1]}: {row['msg']}") from None

    def _training(self, wish: Asked) -> list[Path]:
        """The pictures that likeness is measured by."""
        if wish.run:
            return pictures(self.runs.of(wish.run)[0])
        return training_pictures(folder_of(self.studio, wish.dataset)) if wish.dataset else []

    def draw(self, wish: Asked, job: Job) -> dict[str, Any]:
        """Draws what is missing of a sheet and writes its pages; stopped, it keeps what there is."""
        planned = self.plan(wish)
        folder = below([self.folder], wish.folder) if wish.folder else self._new(planned.base.lora or "sheet")
        check_not_linked(folder, self.studio.folders.outputs)
        store, scorer = Store(folder), scorer_of(self._training(wish))
        for text in (*unread(wish.prompt, wish.negative_prompt), *elsewhere(wish.prompt)):
            job.say(text)
        with replacing(folder / _ASKED, overwrite=True) as part:
            part.write_text(json.dumps(dict(wish)), encoding="utf-8")

        def watch(now: Progress) -> None:
            job.done, job.total, job.text = now.done * 100 + round(99 * now.share), now.pictures * 100, "drawing"
            found = (store.path(key) for key in now.newest)
            job.live = {
                "folder": folder.name,
                "pictures": now.pictures,
                "done": now.done,
                "newest": [self._name(path) for path in found if path] or job.live.get("newest", []),
            }
            if job.cancelled():
                raise Stopped

        job.text = "loading the model"
        with self.studio.desk.artist(wish.checkpoint, self.studio.library) as artist:
            made = build_sheet.make(planned, artist, store, batch=wish.batch, scorer=scorer, watch=watch)
            for fit in getattr(artist, "fits", {}).values():
                job.say(str(fit))
        if made.warning:
            job.say(made.warning)
        job.done = job.total
        return self.sheet(folder)

    def sheet(self, folder: Path) -> dict[str, Any]:
        """A sheet's manifest as it is now, with names below the output folder."""
        found = read(folder)
        for cell in found.get("cells", []):
            cell["file"] = self._name(folder / cell["file"]) if cell.get("file") else None
        pages = [self._name(folder / name) for name in found.get("pages", [])]
        wish = {}
        with suppress(OSError, ValueError):
            wish = json.loads((folder / _ASKED).read_text(encoding="utf-8"))
        table = (folder / TABLE).is_file()
        return {**found, "pages": pages, "folder": folder.name, "table": table, "asked": wish}

    def history(self) -> list[dict[str, Any]]:
        """Sheets of before, newest first: name, title, time, whether complete."""
        rows = []
        for path in self.folder.glob(f"*/{MANIFEST}"):
            with suppress(OSError, ValueError, AttributeError):
                found = json.loads(path.read_text(encoding="utf-8"))
                row = {"folder": path.parent.name, "title": found.get("title", ""), "complete": found.get("complete")}
                rows.append({**row, "cells": len(found.get("cells", [])), "time": path.stat().st_mtime})
        return sorted(rows, key=lambda row: -row["time"])

    def _new(self, name: str) -> Path:
        stem = re.sub(r"[^\w.-]+", "-", name.rpartition("/")[2])[:60].strip("-.") or "sheet"
        folder = self.folder / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 2
        while folder.exists():
            folder = folder.with_name(f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{number}")
            number += 1
        return folder

    def _name(self, path: Path) -> str:
        return path.relative_to(self.studio.folders.outputs).as_posix()


def add(api: APIRouter, studio: Studio) -> None:
    """Adds the routes."""
    sheets = Sheets(studio)

    @api.get("/compare/axes")
    def axes() -> dict[str, Any]:
        """Kinds of axes with examples, and runs of training whose epochs can be compared."""
        kinds = [{"name": kind.name, "title": kind.title, "example": kind.example} for kind in KINDS.values()]
        try:
            runs = {run: [file.name for file in files] for run, files in runs_in(studio.library).items()}
        except LoraError:
            runs = {}
        return {"kinds": kinds, "runs": runs}

    @api.post("/compare", status_code=202)
    def compare(wish: Asked) -> dict[str, Any]:
        """Draws a sheet. Answers with a job; cancelling it keeps what is drawn."""
        return sheets.start(wish).as_json(brief=True)

    @api.get("/compare/history")
    def history() -> dict[str, Any]:
        """Sheets of before, newest first."""
        return {"sheets": sheets.history()}

    @api.post("/compare/prompt")
    def prompt(wish: Take) -> dict[str, str]:
        """The prompt with a cell's tag in the place of its run's, or at its end."""
        request = next(iter(Shot(prompt=wish.tag).tags()), None)
        if request is None:
            raise PromptError("there is no <lora:…> tag in it")
        return {"prompt": edit(wish.prompt, request.name, lambda _: request)}

    @api.get("/compare/{folder}/scores.csv", response_class=Response)
    def table(folder: str) -> Response:
        """A sheet's scores as a table, a line a cell."""
        path = below([sheets.folder], f"{folder}/{TABLE}")
        return FileResponse(path, media_type="text/csv", filename=f"{folder}.csv")

    @api.get("/compare/{folder}")
    def sheet(folder: str) -> dict[str, Any]:
        """A sheet: axes, cells with picture, tag and scores, what is suggested."""
        return sheets.sheet(below([sheets.folder], folder))

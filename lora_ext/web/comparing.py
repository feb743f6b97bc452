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
from pydantic import Field

from ..compare import make, plan
from ..compare.axes import KINDS
from ..compare.run import Progress, Stopped
from ..compare.runs import runs_in
from ..compare.scores import Scorer, training_pictures
from ..compare.shot import Picture, Shot
from ..compare.store import MANIFEST, Store
from ..errors import LoraError
from ..jobs import MODEL, Job
from .datasets import folder_of
from .names import below
from .route import Sampled
from .studio import Studio


class Asked(Sampled):
    """A sheet: axes as text (`/compare/axes`), and what each picture is drawn from.

    lora: the file that axes speak about. dataset: its pictures, to score by. folder: a sheet that is gone on with.
    """

    lora: str = ""
    x: str = Field("", max_length=4000)
    y: str = Field("", max_length=4000)
    z: str = Field("", max_length=4000)
    seed: int = Field(0, ge=0, le=2**32 - 1)
    batch: int = Field(4, ge=1, le=32)
    dataset: str = ""
    folder: str = ""


class Sheets:
    """All sheets, each in a folder below outputs/compare."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.folder = studio.folders.outputs / "compare"

    def plan(self, wish: Asked) -> plan.Plan:
        """The plan. Raises LoraError."""
        lora = self.studio.library.call(self.studio.entry(wish.lora)) if wish.lora else ""
        shot = Shot(**{item.name: getattr(wish, item.name) for item in fields(Picture)}, lora=lora)
        return plan.plan(shot, wish.x, wish.y, wish.z, self.studio.library, self.studio.desk.presets())

    def draw(self, wish: Asked, job: Job) -> dict[str, Any]:
        """Draws what is missing of a sheet and writes its pages; stopped, it keeps what there is."""
        planned = self.plan(wish)
        folder = below([self.folder], wish.folder) if wish.folder else self._new(planned.base.lora or "sheet")
        store = Store(folder)
        training = training_pictures(folder_of(self.studio, wish.dataset)) if wish.dataset else ()
        scorer = Scorer(training)

        def watch(now: Progress) -> None:
            job.done, job.total, job.text = now.done * 100 + round(99 * now.share), now.pictures * 100, "drawing"
            found = (store.path(key) for key in now.newest)
            job.live = {
                "pictures": now.pictures,
                "done": now.done,
                "newest": [self._name(path) for path in found if path] or job.live.get("newest", []),
            }
            if job.cancelled():
                raise Stopped

        with self.studio.desk.artist(wish.checkpoint, self.studio.library) as artist:
            made = make.make(planned, artist, store, batch=wish.batch, scorer=scorer, watch=watch)
            for fit in getattr(artist, "fits", {}).values():
                job.say(str(fit))
        with suppress(OSError):
            (folder / "asked.json").write_text(json.dumps(dict(wish)), encoding="utf-8")
        job.done = job.total
        return self.sheet(folder, how=scorer.how if made.scores else "")

    def sheet(self, folder: Path, how: str = "") -> dict[str, Any]:
        """A sheet's manifest with names below the output folder."""
        found = Store(folder).read()
        for cell in found.get("cells", []):
            cell["file"] = self._name(folder / cell["file"]) if cell.get("file") else None
        pages = [self._name(folder / name) for name in found.get("pages", [])]
        asked = {}
        with suppress(OSError, ValueError):
            asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
        return {**found, "pages": pages, "folder": folder.name, "how": how, "asked": asked}

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
        planned = sheets.plan(wish)
        title = f"{planned.base.lora or 'sheet'}: {len(planned.cells)}"
        return studio.jobs.start("compare", title, lambda job: sheets.draw(wish, job), lane=MODEL).as_json(brief=True)

    @api.get("/compare/history")
    def history() -> dict[str, Any]:
        """Sheets of before, newest first."""
        return {"sheets": sheets.history()}

    @api.get("/compare/{folder}")
    def sheet(folder: str) -> dict[str, Any]:
        """A sheet: axes, cells with picture, tag and scores, what is suggested."""
        return sheets.sheet(below([sheets.folder], folder))

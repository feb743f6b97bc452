"""Block analysis behind the tab: which blocks of a LoRA matter, as a heat map and a preset that keeps them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from ..compare import axis_values, block_analysis, heatmap
from ..compare.block_analysis import Analysis
from ..compare.cell_store import Store
from ..compare.generate_cells import Progress
from ..compare.image_spec import Shot
from ..file.lora_file import LoraFile
from ..inject import targets
from ..jobs import FILES, MODEL, Job
from .app_state import Studio
from .routing import Sampled
from .sheets import pictured


class Blocks(Sampled):
    """way: one of `norms`, `lowered`, `raised`. layout: 12, 17, 20, 25 or 26 positions, 0 what suits the file.

    seeds: to average over, such as 1,2,3. keep: share of the effect that the preset `name` is to keep.
    """

    lora: str
    way: str = block_analysis.NORMS
    layout: int = 0
    seed: int = Field(0, ge=0, le=2**32 - 1)
    seeds: str = Field("", max_length=400)
    keep: float = Field(0.8, gt=0, le=1)
    name: str = Field("KEEP", max_length=64)
    batch: int = Field(8, ge=1, le=32)


def analyse(studio: Studio, wish: Blocks, job: Job) -> dict[str, Any]:
    """The analysis with the names of its map and pictures below the output folder, the one to measure from as "".

    What is drawn is kept for the next time.
    """
    entry = studio.entry(wish.lora)
    name = studio.library.call(entry)
    file = studio.library.load(name)
    file.check_architecture()
    layout = block_analysis.layout_of(wish.layout or (12 if file.family == "SDXL" else 17))
    stem = re.sub(r"[^\w.-]+", "-", name)[:60].strip("-.") or "lora"
    store = Store(studio.output("blocks", f"{stem}-{len(layout.labels)}-{wish.way}"))
    drawn: dict[str, Path | None] = {}
    if wish.way == block_analysis.NORMS:
        found = _norms(studio, wish, file, name, layout)
    else:
        seeds = [int(seed) for seed in axis_values.numbers(wish.seeds, "seeds", whole=True)] if wish.seeds else []

        def watch(now: Progress) -> None:
            job.progress(now.done * 100 + round(99 * now.share), now.pictures * 100, "drawing")

        job.text = "loading the model"
        with studio.desk.artist(wish.checkpoint, studio.library) as artist:
            base = Shot(**pictured(wish), lora=name)
            found = block_analysis.by_pictures(
                base, layout, wish.way, artist, store, seeds=seeds, batch=wish.batch, watch=watch
            )
            first, others = block_analysis.shots(replace(base, seed=(seeds or [base.seed])[0]), layout, wish.way)
            drawn = {label: store.path(one.key(artist.identity(one))) for label, one in {"": first, **others}.items()}
    told = found.as_dict(wish.keep, wish.name)
    outputs, folder = studio.folders.outputs.resolve(), store.folder.resolve()
    chart = heatmap.write(found, wish.keep, folder)
    pictures = {label: path.resolve().relative_to(outputs).as_posix() for label, path in drawn.items() if path}
    told |= {"map": chart.relative_to(outputs).as_posix(), "pictures": pictures, "layout": len(layout.labels)}
    return {**told, "name": entry.place, "title": entry.name}


def _norms(studio: Studio, wish: Blocks, file: LoraFile, name: str, layout: Any) -> Analysis:
    if block_analysis.alone(file):
        return block_analysis.by_norms(file, layout, name)
    with studio.desk.borrowed(wish.checkpoint or None) as model:
        places = {site: target for part, root in model.parts().items() for site, target in targets(part, root).items()}
        return block_analysis.by_norms(file, layout, name, places)


def add(api: APIRouter, studio: Studio) -> None:
    """Adds the route."""

    @api.post("/compare/blocks", status_code=202)
    def start(wish: Blocks) -> dict[str, Any]:
        """Measures what each block does. Answers with a job."""
        block_analysis.checked(wish.way)
        entry = studio.entry(wish.lora)
        lane = FILES if wish.way == block_analysis.NORMS and block_analysis.alone(entry.load()) else MODEL
        return studio.jobs.start("blocks", entry.name, lambda job: analyse(studio, wish, job), lane=lane).as_json(
            brief=True
        )

"""Block analysis behind the tab: which blocks of a LoRA matter, as a heat map and a preset that keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import APIRouter
from pydantic import Field

from ..blocks import BlockLayout
from ..compare import axis_values, block_analysis, heatmap
from ..compare.block_analysis import BlockAnalysis, BlockAnalysisData
from ..compare.cell_store import CellStore
from ..compare.generate_cells import SheetProgress
from ..compare.image_spec import ImageSpec
from ..file.base_model import block_layout_sizes
from ..file.lora_file import LoraFile
from ..inject import find_layer_targets
from ..jobs import FILES_LANE, MODEL_LANE, Job, JobSummary
from .app_state import AppState
from .routing import SamplingRequest
from .sheets import requested_image_fields


class BlockAnalysisRequest(SamplingRequest):
    """Which blocks of a file matter.

    Attributes:
        lora: The file's name in the library.
        way: How blocks are measured: `norms`, `lowered` or `raised`.
        layout: Number of positions of the block weights: 12, 17, 20, 25 or 26; 0 for what suits the file.
        seed: Seed of the pictures, where `seeds` is empty.
        seeds: Seeds to average over, such as 1,2,3; "" for `seed` alone.
        keep: Share of the effect that the preset `name` is to keep, above 0 and up to 1.
        name: Name of the preset of the blocks to keep.
        batch: How many pictures are drawn at a time.
    """

    lora: str
    way: str = block_analysis.NORMS
    layout: int = 0
    seed: int = Field(0, ge=0, le=2**32 - 1)
    seeds: str = Field("", max_length=400)
    keep: float = Field(0.8, gt=0, le=1)
    name: str = Field("KEEP", max_length=64)
    batch: int = Field(8, ge=1, le=32)


@dataclass(frozen=True)
class BlockAnalysisAnswer(BlockAnalysisData):
    """What a block analysis says of a file of the library.

    Attributes:
        map: The heat map, by its path below the output folder.
        pictures: Block → its picture by its path below the output folder; "" → the one to measure from.
        layout: How many positions the layout of block weights has.
        name: The file's name in the library.
        title: Its file name without the suffix.
    """

    map: str
    pictures: dict[str, str]
    layout: int
    name: str
    title: str


def run_block_analysis_job(app_state: AppState, options: BlockAnalysisRequest, job: Job) -> BlockAnalysisAnswer:
    """The analysis with the names of its map and pictures below the output folder, the one to measure from as "".

    What is drawn is kept for the next time.
    """
    entry = app_state.entry(options.lora)
    name = app_state.library.shortest_name(entry)
    file = app_state.library.load(name)
    file.check_architecture()
    layout = block_analysis.parse_layout(options.layout or block_layout_sizes(file.family)[0])
    stem = re.sub(r"[^\w.-]+", "-", name)[:60].strip("-.") or "lora"
    store = CellStore(app_state.output_folder("blocks", f"{stem}-{len(layout.labels)}-{options.way}"))
    drawn: dict[str, Path | None] = {}
    if options.way == block_analysis.NORMS:
        found = _norms(app_state, options, file, name, layout)
    else:
        seeds = (
            [int(seed) for seed in axis_values.parse_number_list(options.seeds, "seeds", whole=True)]
            if options.seeds
            else []
        )

        def watch(now: SheetProgress) -> None:
            job.progress(now.done_with_batch, now.total, "drawing")

        job.text = "loading the model"
        with app_state.backend.open_renderer(options.checkpoint, app_state.library) as renderer:
            base = ImageSpec(**requested_image_fields(options), lora=name)
            found = block_analysis.analyse_by_images(
                base, layout, options.way, renderer, store, seeds=seeds, batch=options.batch, on_progress=watch
            )
            first, others = block_analysis.block_image_specs(
                replace(base, seed=(seeds or [base.seed])[0]), layout, options.way
            )
            drawn = {label: store.path(one.key(renderer.identity(one))) for label, one in {"": first, **others}.items()}
    data = found.data(options.keep, options.name)
    outputs, folder = app_state.folders.outputs.resolve(), store.folder.resolve()
    store.create_folder()
    chart = heatmap.save_heatmap(found, options.keep, folder)
    pictures = {label: path.resolve().relative_to(outputs).as_posix() for label, path in drawn.items() if path}
    return BlockAnalysisAnswer(
        **vars(data),
        map=chart.relative_to(outputs).as_posix(),
        pictures=pictures,
        layout=len(layout.labels),
        name=entry.relative_name,
        title=entry.name,
    )


def _norms(
    app_state: AppState, options: BlockAnalysisRequest, file: LoraFile, name: str, layout: BlockLayout
) -> BlockAnalysis:
    if block_analysis.can_measure_without_model(file):
        return block_analysis.analyse_by_norms(file, layout, name)
    with app_state.backend.open_trainable_model(options.checkpoint or None) as model:
        places = {
            layer_id: target
            for part, root in model.parts().items()
            for layer_id, target in find_layer_targets(part, root).items()
        }
        return block_analysis.analyse_by_norms(file, layout, name, places)


def register_block_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the route."""

    @api.post("/compare/blocks", status_code=202)
    def start(options: BlockAnalysisRequest) -> JobSummary:
        """Measures what each block does. Answers with a job."""
        block_analysis.check_analysis_method(options.way)
        entry = app_state.entry(options.lora)
        lane = (
            FILES_LANE
            if options.way == block_analysis.NORMS and block_analysis.can_measure_without_model(entry.load())
            else MODEL_LANE
        )
        return app_state.jobs.start(
            "blocks", entry.name, lambda job: run_block_analysis_job(app_state, options, job), lane=lane
        ).summary()

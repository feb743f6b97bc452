"""Routes of the file tools: merge, resize, extract, split, convert, reweight. Each answers with a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field

from ..applied_networks import Use
from ..blocks import UNIFORM, BlockWeights, parse_weights
from ..command_line import check_output, device_of, dtype_of, rules
from ..errors import ToolError
from ..file.lora_file import LoraFile
from ..jobs import Job
from ..progress import through
from ..tools.convert import convert
from ..tools.extract import MIN_DIFF, extract
from ..tools.merge import merge
from ..tools.merge_into_checkpoint import merge_into
from ..tools.merge_layer import Recipe
from ..tools.report import Report
from ..tools.resize import resize
from ..tools.result_metadata import save
from ..tools.reweight import reweight
from ..tools.split_dylora import split
from .app_state import Studio
from .rank_energy import Energy, energy
from .routing import Body
from .user_paths import below, checked, to_write

_MOST, _PARTS = 100.0, 200


class Writing(Body):
    """What every tool takes. save_to: the result's name below the LoRA folder. precision: "" for the input's."""

    save_to: str
    overwrite: bool = False
    precision: str = ""
    device: str = "cpu"


class Part(Body):
    """One file of a merge. lbw: block weights, a preset's name or numbers; "" for 1 everywhere."""

    name: str
    ratio: float = Field(1.0, ge=-_MOST, le=_MOST)
    lbw: str = ""


class Merge(Writing):
    """checkpoint: where the files go into, "" for a LoRA of their own. new_rank: for the method "svd"."""

    parts: list[Part]
    method: str = "concat"
    new_rank: int = Field(16, ge=1, le=1024)
    new_conv_rank: int | None = Field(None, ge=1, le=1024)
    checkpoint: str = ""


class Rank(Body):
    """How ranks are chosen: fixed, or by a dynamic method and its number up to new_rank."""

    name: str
    new_rank: int = Field(16, ge=1, le=4096)
    new_conv_rank: int | None = Field(None, ge=1, le=4096)
    dynamic_method: str | None = None
    dynamic_param: float | None = Field(None, ge=0, le=1e9)


class Resize(Rank, Writing):
    """`resize`."""


class Extract(Writing):
    """`extract`: tuned − original; both are names of `/choices`."""

    original: str
    tuned: str
    dim: int = Field(16, ge=1, le=1024)
    conv_dim: int | None = Field(None, ge=1, le=1024)
    min_diff: float = Field(MIN_DIFF, ge=0, le=1e9)
    dynamic_method: str | None = None
    dynamic_param: float | None = Field(None, ge=0, le=1e9)


class Split(Writing):
    """`split-dylora`: files NAME-0004 and so on. unit: None for what the file says."""

    name: str
    unit: int | None = Field(None, ge=1, le=4096)
    alpha: str | None = None


class Convert(Writing):
    """`convert`: to "kohya" or "diffusers"; rank makes LoRA of other kinds."""

    name: str
    to: str = "kohya"
    rank: int | None = Field(None, ge=1, le=4096)


class Reweight(Writing):
    """`reweight`: block weights made permanent."""

    name: str
    lbw: str = ""
    te: float = Field(1.0, ge=-_MOST, le=_MOST)
    unet: float = Field(1.0, ge=-_MOST, le=_MOST)


def nameless(report: Report) -> dict[str, Any]:
    """The report without the paths of what was written."""
    return report.as_json() | {"outputs": []}


class Bench:
    """The tools at the studio's files. Each method does the work of one job."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def read(self, name: str) -> LoraFile:
        """The library's file. Raises FileError."""
        return self.studio.entry(name).load()

    def check(self, wish: Any) -> None:
        """Whether the files that a wish names are there, before it becomes a job. Raises FileError."""
        checked(wish.save_to)
        for name in (getattr(wish, "name", None), *(part.name for part in getattr(wish, "parts", ()))):
            if name is not None:
                self.studio.entry(name)
        for name in (getattr(wish, field, "") for field in ("original", "tuned", "checkpoint")):
            if name:
                below(self.studio.folders.checkpoints, name)

    def blocks(self, text: str) -> BlockWeights:
        """Block weights as a prompt would read them. Raises BlockError."""
        return parse_weights(text, presets=self.studio.desk.presets().weights) if text.strip() else UNIFORM

    def energy(self, name: str) -> Energy:
        """The file's singular values, computed once."""
        entry = self.studio.entry(name)
        return self.studio.remembered("energy", entry, lambda: energy(entry.load()))

    def write(self, wish: Writing, made: LoraFile, report: Report, job: Job) -> dict[str, Any]:
        """Writes the result, and what the page shows of the work."""
        path = self.target(wish, job)
        report.outputs.append(str(save(made, path, overwrite=wish.overwrite)))
        return self.told(report)

    def target(self, wish: Writing, job: Job) -> Path:
        """Where the result goes. Raises FileError, ToolError."""
        path = check_output(self.studio.target(wish.save_to), overwrite=wish.overwrite)
        if any(path.resolve().is_relative_to(folder.resolve()) for folder in self.studio.folders.fixed):
            raise ToolError(f"{path.parent.name} belongs to this installation and stays as it is")
        job.say(f"{job.kind}: {path.name}")
        return path

    def told(self, report: Report) -> dict[str, Any]:
        """The report, with the library's names of what was written instead of paths."""
        self.studio.changed()
        return {"report": nameless(report), "files": [self.studio.place(path) for path in report.outputs]}

    def merge(self, wish: Merge, job: Job) -> dict[str, Any]:
        """Into one LoRA, or into a checkpoint."""
        files = [self.read(part.name) for part in wish.parts]
        blocks = [self.blocks(part.lbw) for part in wish.parts]
        ratios = [part.ratio for part in wish.parts]
        if wish.checkpoint:
            return self.into(wish, files, job)
        self.target(wish, job)
        device, dtype = device_of(wish.device), dtype_of(wish.precision or None)
        recipe = Recipe(wish.method, wish.new_rank, wish.new_conv_rank, None, dtype, device)
        made, report = merge(files, ratios, recipe, blocks=blocks, track=through(job.progress))
        return self.write(wish, made, report, job)

    def into(self, wish: Merge, files: list[LoraFile], job: Job) -> dict[str, Any]:
        """Into a checkpoint."""
        folders = self.studio.folders.checkpoints
        source = below(folders, wish.checkpoint)
        suffix = source.suffix.lower() if source.is_file() else ""
        path = to_write(folders[0], wish.save_to, suffix)
        uses = [
            Use(file, part.ratio, part.ratio, self.blocks(part.lbw))
            for file, part in zip(files, wish.parts, strict=True)
        ]
        report = merge_into(
            source,
            uses,
            path,
            dtype=dtype_of(wish.precision or None),
            device=device_of(wish.device),
            overwrite=wish.overwrite,
            track=through(job.progress),
        )
        return {"report": nameless(report), "files": [], "checkpoint": path.relative_to(folders[0]).as_posix()}

    def resize(self, wish: Resize, job: Job) -> dict[str, Any]:
        """To another rank."""
        self.target(wish, job)
        made, report = resize(
            self.read(wish.name),
            wish.new_rank,
            wish.new_conv_rank,
            dynamic_method=wish.dynamic_method,
            dynamic_param=wish.dynamic_param,
            dtype=dtype_of(wish.precision or None),
            device=device_of(wish.device),
            track=through(job.progress),
        )
        return self.write(wish, made, report, job)

    def extract(self, wish: Extract, job: Job) -> dict[str, Any]:
        """The difference of two checkpoints."""
        folders = self.studio.folders.checkpoints
        self.target(wish, job)
        made, report = extract(
            below(folders, wish.original),
            below(folders, wish.tuned),
            dim=wish.dim,
            conv_dim=wish.conv_dim,
            min_diff=wish.min_diff,
            dynamic_method=wish.dynamic_method,
            dynamic_param=wish.dynamic_param,
            dtype=dtype_of(wish.precision or None),
            device=device_of(wish.device),
            track=through(job.progress),
        )
        return self.write(wish, made, report, job)

    def split(self, wish: Split, job: Job) -> dict[str, Any]:
        """A DyLoRA into one file a rank."""
        base = self.studio.target(wish.save_to)
        files, report = split(
            self.read(wish.name),
            wish.unit,
            alpha=wish.alpha,
            dtype=dtype_of(wish.precision or None),
            track=through(job.progress),
        )
        paths = {rank: base.with_name(f"{base.stem}-{rank:04}{base.suffix}") for rank in files}
        for path in paths.values():
            check_output(path, overwrite=wish.overwrite)
        for rank, path in paths.items():
            report.outputs.append(str(save(files[rank], path, overwrite=wish.overwrite)))
        return self.told(report)

    def convert(self, wish: Convert, job: Job) -> dict[str, Any]:
        """Another spelling, or LoRA of another kind."""
        self.target(wish, job)
        made, report = convert(
            self.read(wish.name),
            wish.to,
            wish.rank,
            dtype=dtype_of(wish.precision or None),
            device=device_of(wish.device),
            track=through(job.progress),
        )
        return self.write(wish, made, report, job)

    def reweight(self, wish: Reweight, job: Job) -> dict[str, Any]:
        """Block weights made permanent."""
        self.target(wish, job)
        blocks = self.blocks(wish.lbw)
        made, report = reweight(
            self.read(wish.name), blocks, te=wish.te, unet=wish.unet, dtype=dtype_of(wish.precision or None)
        )
        return self.write(wish, made, report, job)


def add(api: APIRouter, studio: Studio) -> None:
    """Adds the routes."""
    bench = Bench(studio)

    def start(kind: str, wish: Writing, work: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        bench.check(wish)
        return studio.jobs.start(kind, wish.save_to[:80], lambda job: work(wish, job)).as_json(brief=True)

    @api.post("/merge", status_code=202)
    def merge_(wish: Merge) -> dict[str, Any]:
        """Merges LoRA files into one, or into a checkpoint."""
        if not 1 <= len(wish.parts) <= _PARTS:  # the web UI's pydantic takes no bounds of a list
            raise ToolError(f"a merge takes 1 to {_PARTS} files, not {len(wish.parts)}")
        return start("merge", wish, bench.merge)

    @api.post("/resize", status_code=202)
    def resize_(wish: Resize) -> dict[str, Any]:
        """Changes the rank of a LoRA."""
        return start("resize", wish, bench.resize)

    @api.get("/resize/curve")
    def curve(name: str = Query(..., max_length=800)) -> dict[str, Any]:
        """How much of a file each rank keeps, and how large the result is."""
        return bench.energy(name).curve()

    @api.post("/resize/preview")
    def preview(wish: Rank) -> dict[str, Any]:
        """What a resize would keep, how large the result would be, and the ranks that it would choose."""
        ranks = rules(wish.new_rank, wish.new_conv_rank, wish.dynamic_method, wish.dynamic_param)
        return bench.energy(wish.name).preview(ranks)

    @api.post("/extract", status_code=202)
    def extract_(wish: Extract) -> dict[str, Any]:
        """The difference of two checkpoints as a LoRA."""
        return start("extract", wish, bench.extract)

    @api.post("/split", status_code=202)
    def split_(wish: Split) -> dict[str, Any]:
        """One LoRA for each rank of a DyLoRA."""
        return start("split", wish, bench.split)

    @api.post("/convert", status_code=202)
    def convert_(wish: Convert) -> dict[str, Any]:
        """Another spelling, or other kinds as LoRA."""
        return start("convert", wish, bench.convert)

    @api.post("/reweight", status_code=202)
    def reweight_(wish: Reweight) -> dict[str, Any]:
        """Block weights made permanent in a copy."""
        return start("reweight", wish, bench.reweight)

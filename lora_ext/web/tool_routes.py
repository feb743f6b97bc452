"""Routes of the file tools: merge, resize, extract, split, convert, reweight. Each answers with a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fastapi import APIRouter, Query
from pydantic import Field

from ..adapter_spec import AdapterSpec
from ..block_weights import UNIFORM_WEIGHTS, BlockWeights, parse_block_weights
from ..command_line import check_output_path, parse_device, parse_precision, rank_rules
from ..errors import ToolError
from ..file.lora_file import LoraFile
from ..jobs import Job, JobSummary
from ..precisions import SAVE_PRECISIONS
from ..progress import track_with_callback
from ..tools.convert import convert_lora
from ..tools.extract import MIN_DIFF, extract_lora
from ..tools.merge import merge_loras
from ..tools.merge_into_checkpoint import merge_into_checkpoint
from ..tools.merge_layer import MergeOptions
from ..tools.report import ReportData, SplitReportData, ToolReport
from ..tools.resize import resize_lora
from ..tools.result_metadata import save_tool_result
from ..tools.reweight import reweight_lora
from ..tools.split_dylora import split_dylora
from .app_state import AppState
from .rank_energy import RankCurve, RankEnergy, ResizePreview, measure_rank_energy
from .routing import RequestBody
from .user_paths import check_user_path, find_user_path, user_output_path

_MOST, _PARTS = 100.0, 200


class ToolRequest(RequestBody):
    """What every tool takes.

    Attributes:
        save_to: The result's name below the LoRA folder.
        overwrite: Whether a file of that name may be replaced.
        precision: What numbers are stored in: `float`, `fp16` or `bf16`; "" for the input's.
        device: Where it is computed: `cpu`, `cuda` or `cuda:1`.
    """

    save_to: str
    overwrite: bool = False
    precision: str = ""
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype | None:
        """What the result's numbers are stored in; None for the input's dtype. Raises ToolError."""
        return parse_precision(self.precision or None)

    @property
    def torch_device(self) -> torch.device:
        """The device that computes. Raises ToolError."""
        return parse_device(self.device)


class MergePart(RequestBody):
    """One file of a merge.

    Attributes:
        name: The file's name in the library.
        ratio: The factor of its change.
        lbw: Block weights, a preset's name or numbers; "" for 1 everywhere.
    """

    name: str
    ratio: float = Field(1.0, ge=-_MOST, le=_MOST)
    lbw: str = ""


class MergeRequest(ToolRequest):
    """Files to merge.

    Attributes:
        parts: The files.
        method: "concat", the exact sum; "svd", its best approximation at a rank; or "factors", as kohya's script.
        new_rank: The result's rank with the method "svd".
        new_conv_rank: Its rank for kernels above 1x1; null for `new_rank`.
        checkpoint: The checkpoint that the files go into, a name of `/choices`; "" for a LoRA of their own.
    """

    parts: list[MergePart]
    method: str = "concat"
    new_rank: int = Field(16, ge=1, le=1024)
    new_conv_rank: int | None = Field(None, ge=1, le=1024)
    checkpoint: str = ""


class RankRequest(RequestBody):
    """How ranks are chosen: fixed, or by a dynamic method and its number up to new_rank.

    Attributes:
        name: The file's name in the library.
        new_rank: Rank of the layers; with a dynamic method the highest one.
        new_conv_rank: The same of Conv2d layers; null for `new_rank`.
        dynamic_method: "sv_ratio", "sv_fro" or "sv_cumulative"; null for a fixed rank.
        dynamic_param: The method's number: a ratio above 1, or a share up to 1.
    """

    name: str
    new_rank: int = Field(16, ge=1, le=4096)
    new_conv_rank: int | None = Field(None, ge=1, le=4096)
    dynamic_method: str | None = None
    dynamic_param: float | None = Field(None, ge=0, le=1e9)


class ResizeRequest(RankRequest, ToolRequest):
    """A file to resize."""


class ExtractRequest(ToolRequest):
    """Two models whose difference, tuned − original, becomes a LoRA.

    Attributes:
        original: The model before, a name of `/choices`.
        tuned: The model after, a name of `/choices`.
        dim: Rank of the layers; with a dynamic method the highest one.
        conv_dim: Rank of kernels above 1x1; null leaves these out.
        min_diff: The text encoders are left out where no weight differs by more than this.
        dynamic_method: "sv_ratio", "sv_fro" or "sv_cumulative"; null for a fixed rank.
        dynamic_param: The method's number: a ratio above 1, or a share up to 1.
    """

    original: str
    tuned: str
    dim: int = Field(16, ge=1, le=1024)
    conv_dim: int | None = Field(None, ge=1, le=1024)
    min_diff: float = Field(MIN_DIFF, ge=0, le=1e9)
    dynamic_method: str | None = None
    dynamic_param: float | None = Field(None, ge=0, le=1e9)


class SplitRequest(ToolRequest):
    """A DyLoRA file to split into files NAME-0004 and so on.

    Attributes:
        name: The file's name in the library.
        unit: The step between ranks; null for what the file says.
        alpha: "trained", as the ranks were trained, or "keep", as kohya's script; null for "trained" where the file
            tells it.
    """

    name: str
    unit: int | None = Field(None, ge=1, le=4096)
    alpha: str | None = None


class ConvertRequest(ToolRequest):
    """A file to write in another key format, or as LoRA.

    Attributes:
        name: The file's name in the library.
        to: The key format: "kohya", "diffusers" or "comfyui".
        rank: The rank at which other kinds become LoRA; null leaves them as they are.
        bake: Whether layers that the program cannot read become the nearest LoRA.
        base: With `bake` the base model, a name of `/choices`; "" for none.
    """

    name: str
    to: str = "kohya"
    rank: int | None = Field(None, ge=1, le=4096)
    bake: bool = False
    base: str = ""


class ReweightRequest(ToolRequest):
    """A file whose block weights become permanent.

    Attributes:
        name: The file's name in the library.
        lbw: Block weights, a preset's name or numbers; "" for 1 everywhere.
        te: Weight of the text encoder.
        unet: Weight of the U-Net.
    """

    name: str
    lbw: str = ""
    te: float = Field(1.0, ge=-_MOST, le=_MOST)
    unet: float = Field(1.0, ge=-_MOST, le=_MOST)


@dataclass(frozen=True)
class ToolResult:
    """What came of a tool.

    Attributes:
        report: The tool's report; its `outputs` are left out, as they are paths of this system.
        files: What the library calls the files that were written.
    """

    report: ReportData | SplitReportData
    files: list[str]


@dataclass(frozen=True)
class CheckpointResult(ToolResult):
    """What came of a merge into a checkpoint.

    Attributes:
        checkpoint: The checkpoint that was written, by its path below the checkpoint folder.
    """

    checkpoint: str


def report_without_paths(report: ToolReport) -> ReportData | SplitReportData:
    """The report without the paths of what was written."""
    return replace(report.data(), outputs=[])


class ToolService:
    """The tools, on files of the library. Each method does the work of one job."""

    def __init__(self, app_state: AppState) -> None:
        self.app_state = app_state

    def load_file(self, name: str) -> LoraFile:
        """The library's file. Raises FileError."""
        return self.app_state.entry(name).load()

    def check_inputs(self, options: Any) -> None:
        """Checks a request before it becomes a job. Raises FileError for files that are not there, ToolError."""
        check_user_path(options.save_to)
        if options.precision and options.precision not in SAVE_PRECISIONS:
            accepted = ", ".join(SAVE_PRECISIONS)
            raise ToolError(
                f"precision {options.precision[:40]!r} is unknown; give {accepted}, or none for the input's"
            )
        for name in (getattr(options, "name", None), *(part.name for part in getattr(options, "parts", ()))):
            if name is not None:
                self.app_state.entry(name)
        for name in (getattr(options, field, "") for field in ("original", "tuned", "checkpoint", "base")):
            if name:
                find_user_path(self.app_state.folders.checkpoints, name)

    def parse_blocks(self, text: str) -> BlockWeights:
        """Block weights as a prompt would read them. Raises BlockError."""
        return (
            parse_block_weights(text, presets=self.app_state.backend.presets().weights)
            if text.strip()
            else UNIFORM_WEIGHTS
        )

    def energy(self, name: str) -> RankEnergy:
        """The file's singular values, computed once."""
        entry = self.app_state.entry(name)
        return self.app_state.cached("energy", entry, lambda: measure_rank_energy(entry.load()))

    def save_result(self, options: ToolRequest, made: LoraFile, report: ToolReport, job: Job) -> ToolResult:
        """Writes the result, and what the page shows of the work."""
        path = self.output_path(options, job)
        report.outputs.append(str(save_tool_result(made, path, overwrite=options.overwrite)))
        return self.result(report)

    def output_path(self, options: ToolRequest, job: Job) -> Path:
        """Where the result goes. Raises FileError, ToolError."""
        path = check_output_path(self.app_state.lora_output_path(options.save_to), overwrite=options.overwrite)
        if any(path.resolve().is_relative_to(folder.resolve()) for folder in self.app_state.folders.read_only):
            raise ToolError(
                f"the folder {path.parent.name} is part of this installation and cannot be changed; choose another name"
            )
        job.notify(f"writing {path.name}")
        return path

    def result(self, report: ToolReport) -> ToolResult:
        """The report, with the library's names of what was written instead of paths."""
        self.app_state.refresh_library()
        return ToolResult(report_without_paths(report), [self.app_state.library_name(path) for path in report.outputs])

    def merge(self, options: MergeRequest, job: Job) -> ToolResult:
        """Into one LoRA, or into a checkpoint."""
        files = [self.load_file(part.name) for part in options.parts]
        blocks = [self.parse_blocks(part.lbw) for part in options.parts]
        ratios = [part.ratio for part in options.parts]
        if options.checkpoint:
            return self.merge_into_checkpoint_file(options, files, job)
        self.output_path(options, job)
        recipe = MergeOptions(
            options.method, options.new_rank, options.new_conv_rank, None, options.dtype, options.torch_device
        )
        made, report = merge_loras(files, ratios, recipe, blocks=blocks, track=track_with_callback(job.progress))
        return self.save_result(options, made, report, job)

    def merge_into_checkpoint_file(self, options: MergeRequest, files: list[LoraFile], job: Job) -> CheckpointResult:
        """Into a checkpoint."""
        folders = self.app_state.folders.checkpoints
        source = find_user_path(folders, options.checkpoint)
        suffix = source.suffix.lower() if source.is_file() else ""
        path = user_output_path(folders[0], options.save_to, suffix)
        specs = [
            AdapterSpec(file, part.ratio, part.ratio, self.parse_blocks(part.lbw))
            for file, part in zip(files, options.parts, strict=True)
        ]
        report = merge_into_checkpoint(
            source,
            specs,
            path,
            dtype=options.dtype,
            device=options.torch_device,
            overwrite=options.overwrite,
            track=track_with_callback(job.progress),
        )
        return CheckpointResult(report_without_paths(report), [], path.relative_to(folders[0]).as_posix())

    def resize(self, options: ResizeRequest, job: Job) -> ToolResult:
        """To another rank."""
        self.output_path(options, job)
        made, report = resize_lora(
            self.load_file(options.name),
            options.new_rank,
            options.new_conv_rank,
            dynamic_method=options.dynamic_method,
            dynamic_param=options.dynamic_param,
            dtype=options.dtype,
            device=options.torch_device,
            track=track_with_callback(job.progress),
        )
        return self.save_result(options, made, report, job)

    def extract(self, options: ExtractRequest, job: Job) -> ToolResult:
        """The difference of two checkpoints."""
        folders = self.app_state.folders.checkpoints
        self.output_path(options, job)
        made, report = extract_lora(
            find_user_path(folders, options.original),
            find_user_path(folders, options.tuned),
            dim=options.dim,
            conv_dim=options.conv_dim,
            min_diff=options.min_diff,
            dynamic_method=options.dynamic_method,
            dynamic_param=options.dynamic_param,
            dtype=options.dtype,
            device=options.torch_device,
            track=track_with_callback(job.progress),
        )
        return self.save_result(options, made, report, job)

    def split(self, options: SplitRequest, job: Job) -> ToolResult:
        """A DyLoRA into one file a rank."""
        base = self.app_state.lora_output_path(options.save_to)
        files, report = split_dylora(
            self.load_file(options.name),
            options.unit,
            alpha=options.alpha,
            dtype=options.dtype,
            track=track_with_callback(job.progress),
        )
        paths = {rank: base.with_name(f"{base.stem}-{rank:04}{base.suffix}") for rank in files}
        for path in paths.values():
            check_output_path(path, overwrite=options.overwrite)
        for rank, path in paths.items():
            report.outputs.append(str(save_tool_result(files[rank], path, overwrite=options.overwrite)))
        return self.result(report)

    def convert(self, options: ConvertRequest, job: Job) -> ToolResult:
        """To another key format, or from another kind of network to LoRA."""
        self.output_path(options, job)
        made, report = convert_lora(
            self.load_file(options.name),
            options.to,
            options.rank,
            bake=options.bake,
            base=find_user_path(self.app_state.folders.checkpoints, options.base) if options.base else None,
            dtype=options.dtype,
            device=options.torch_device,
            track=track_with_callback(job.progress),
        )
        return self.save_result(options, made, report, job)

    def reweight(self, options: ReweightRequest, job: Job) -> ToolResult:
        """Block weights made permanent."""
        self.output_path(options, job)
        blocks = self.parse_blocks(options.lbw)
        made, report = reweight_lora(
            self.load_file(options.name),
            blocks,
            te=options.te,
            unet=options.unet,
            dtype=options.dtype,
        )
        return self.save_result(options, made, report, job)


def register_tool_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    tools = ToolService(app_state)

    def start(kind: str, options: ToolRequest, work: Callable[..., ToolResult]) -> JobSummary:
        tools.check_inputs(options)
        return app_state.jobs.start(kind, options.save_to[:80], lambda job: work(options, job)).summary()

    @api.post("/merge", status_code=202)
    def merge_(options: MergeRequest) -> JobSummary:
        """Merges LoRA files into one, or into a checkpoint."""
        if not 1 <= len(options.parts) <= _PARTS:  # the web UI's pydantic takes no bounds of a list
            raise ToolError(f"a merge takes 1 to {_PARTS} files, not {len(options.parts)}")
        return start("merge", options, tools.merge)

    @api.post("/resize", status_code=202)
    def resize_(options: ResizeRequest) -> JobSummary:
        """Changes the rank of a LoRA."""
        return start("resize", options, tools.resize)

    @api.get("/resize/curve")
    def curve(name: str = Query(..., max_length=800)) -> RankCurve:
        """How much of a file each rank keeps, and how large the result is."""
        return tools.energy(name).curve()

    @api.post("/resize/preview")
    def preview(options: RankRequest) -> ResizePreview:
        """What a resize would keep, how large the result would be, and the ranks that it would choose."""
        ranks = rank_rules(options.new_rank, options.new_conv_rank, options.dynamic_method, options.dynamic_param)
        return tools.energy(options.name).preview(ranks)

    @api.post("/extract", status_code=202)
    def extract_(options: ExtractRequest) -> JobSummary:
        """The difference of two checkpoints as a LoRA."""
        return start("extract", options, tools.extract)

    @api.post("/split", status_code=202)
    def split_(options: SplitRequest) -> JobSummary:
        """One LoRA for each rank of a DyLoRA."""
        return start("split", options, tools.split)

    @api.post("/convert", status_code=202)
    def convert_(options: ConvertRequest) -> JobSummary:
        """Converts to another key format, or other kinds of network to LoRA."""
        if options.base and not options.bake:
            raise ToolError("base is the base model of bake; give both")
        return start("convert", options, tools.convert)

    @api.post("/reweight", status_code=202)
    def reweight_(options: ReweightRequest) -> JobSummary:
        """Block weights made permanent in a copy."""
        return start("reweight", options, tools.reweight)

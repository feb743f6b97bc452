"""From Python, on any diffusers pipeline: `apply` for a while, or `merge` for good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch

from .adapter_spec import AdapterSpec, Presets, spec_from_tag
from .compare.per_image_weights import PerImageNetworks, networks_for_rows
from .errors import BakingMemoryError, FileError, FitError, PromptError, did_you_mean
from .file.loading import load_lora_file
from .file.lora_file import LoraFile
from .fit_report import FitReport
from .host.memory_estimate import pipeline_generation_bytes
from .host.standalone.model import hookable_model_of
from .inject import AUTO, BAKED, MODES, MemoryBudget
from .inject.separate_predictions import SeparatePredictions
from .layer_names import UNET
from .lora_tags import REGION_WAYS, SEPARATE, LoraTag
from .no_effect_reasons import no_effect_reason
from .prompt_regions import RegionalPrompt, RegionRow, cover_everything
from .protocols import HookableModel
from .regions import Region, parse_region
from .regions.region import PLACE_WORDS
from .weight_curve import is_curve, parse_weight

LoraWeight: TypeAlias = "float | Mapping[str, Any]"
"""A number for U-Net and text encoder alike, or the fields of a tag: {"unet": "0@0,1@1", "lbw": "OUTALL"}."""
LoraSource: TypeAlias = "str | PathLike[str] | LoraFile"
LoraWeights: TypeAlias = "Mapping[Any, LoraWeight] | Sequence[LoraSource] | LoraSource"
"""{file: weight}, or files at weight 1 each; one named twice adds up."""


class Loras:
    """LoRA files on one model. A context manager: leaving it restores the model bit-exactly.

    Args:
        model: the model to hook.
        loras: the files with their weights, as for `apply`.
        mode: "live", "baked" or "auto".
        presets: named block weights; None for the built-in ones.
        image_bytes: memory that "auto" leaves free for generating an image.

    Attributes:
        fits: one report a file, on how it fits the model.

    Raises:
        FileError: a file cannot be read.
        PromptError: a weight is not accepted.
        FitError: the mode is unknown, or a file cannot be applied.
    """

    def __init__(
        self,
        model: HookableModel,
        loras: LoraWeights,
        *,
        mode: str = AUTO,
        presets: Presets | None = None,
        image_bytes: int = 0,
    ):
        if mode not in MODES:
            raise FitError(f"unknown mode {mode!r}{did_you_mean(str(mode), MODES)}")
        self._presets = presets or Presets()
        self._files: dict[str, LoraFile] = {}
        self._specs: dict[str, AdapterSpec] = {}
        self._regions: dict[str, Region | None] = {}
        self._predictions: SeparatePredictions | None = None
        self.fits: list[FitReport] = []
        for source, weight in _pairs(loras):
            file = source if isinstance(source, LoraFile) else load_lora_file(Path(source))
            name = file.name
            while name in self._files:  # the same file twice adds up
                name += "+"
            self._files[name] = file
            self._specs[name] = self._make_spec(name, weight)
        memory = MemoryBudget(image_bytes=image_bytes)
        self._applied = networks_for_rows(model, mode, any(self._regions.values()), memory)
        try:
            self._apply_specs()
        except BaseException:
            self.close()
            raise

    def set(self, name: str, weight: LoraWeight) -> list[FitReport]:
        """Changes the weight of one file; only its layers are changed.

        Args:
            name: the file's stem.
            weight: a number, or the fields of a tag, as for `apply`.

        Returns:
            One report a file.

        Raises:
            FileError: no file of this name is applied; the message names the nearest.
            PromptError: the weight is not accepted.
        """
        if name not in self._files:
            raise FileError(f"no LoRA {name!r} is applied{did_you_mean(name, self._files)}")
        self._specs[name] = self._make_spec(name, weight)
        return self._apply_specs()

    def remove(self, name: str) -> list[FitReport]:
        """Sets the weight of one file to 0. It can be set again later.

        Args:
            name: the file's stem.

        Returns:
            One report a file.

        Raises:
            FileError: no file of this name is applied; the message names the nearest.
        """
        return self.set(name, 0.0)

    def at_step(self, step: int, total: int, sigma: float | None = None) -> None:
        """Sets the weights that curves, `start` and `stop` schedule for a step.

        Args:
            step: number of the U-Net's call, from 0.
            total: how many calls an image takes.
            sigma: the noise level, for curves over noise levels (`@s`).

        Raises:
            BlockError: a curve is over noise levels and `sigma` is not given.
        """
        self._applied.at_step(step, total, sigma)

    def go_live(self) -> bool:
        """Applies live from now on what "auto" has baked; to be called when the pipeline runs out of memory.

        Returns:
            Whether that freed memory, so that another try makes sense.
        """
        return self._applied.go_live()

    def on_step_end(self, pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Follows a pipeline's steps: `pipe(..., callback_on_step_end=lora.on_step_end)`.

        Args:
            pipe: the pipeline, which diffusers passes.
            step: the step that has ended, from 0.
            timestep: its timestep; not used.
            kwargs: the tensors that diffusers passes.

        Returns:
            `kwargs`, unchanged.
        """
        total = int(pipe.num_timesteps)
        following = (step + 1) % total
        sigma = _noise_level(pipe.scheduler, following, total) if self._applied.needs_sigma else None
        self.at_step(following, total, sigma)
        return kwargs

    def close(self) -> None:
        """Removes all files; every Parameter is the original object again."""
        self._stop_repeating()
        self._applied.close()

    def __enter__(self) -> Loras:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _apply_specs(self) -> list[FitReport]:
        specs = tuple(self._specs.values())
        fits = self._apply_rows() if isinstance(self._applied, PerImageNetworks) else self._applied.apply(specs)
        reasons = (
            no_effect_reason(spec, self._applied.matching_layers(spec)) if spec.te or spec.unet else ""
            for spec in specs
        )
        by_name = dict(zip((spec.display_name for spec in specs), reasons, strict=True))
        self.fits = [replace(fit, notes=(*fit.notes, why)) if (why := by_name.get(fit.name)) else fit for fit in fits]
        return self.fits

    def _apply_rows(self) -> list[FitReport]:
        """Applies files with regions: each region is a row of the U-Net's batch, which is repeated in its calls."""
        assert isinstance(self._applied, PerImageNetworks)
        self._stop_repeating()
        regions = list(dict.fromkeys(filter(None, self._regions.values())))
        places = regions if cover_everything(regions) else [None, *regions]
        rows = RegionalPrompt(tuple(RegionRow(place, "") for place in places))
        fits = self._applied.apply_each(
            [[self._specs[name] for name, own in self._regions.items() if own in (None, place)] for place in places]
        )
        self._predictions = SeparatePredictions(self._applied.roots[UNET], len(places), rows.weights)
        return fits

    def _stop_repeating(self) -> None:
        if self._predictions is not None:
            self._predictions.close()
            self._predictions = None

    def _make_spec(self, name: str, weight: LoraWeight) -> AdapterSpec:
        fields: dict[str, Any] = dict(weight) if isinstance(weight, Mapping) else {"te": weight}
        if "weight" in fields:
            fields = {"te": fields["weight"], "unet": fields.pop("weight")} | fields
        unknown = fields.keys() - set(LORA_TAG_FIELDS)
        if unknown:
            raise PromptError(f"{name}: unknown field {min(unknown)!r}{did_you_mean(min(unknown), LORA_TAG_FIELDS)}")
        for field in ("te", "unet"):
            if isinstance(fields.get(field), str) and is_curve(fields[field]):
                fields[field], fields[f"{field}_curve"] = parse_weight(fields[field], f"{name}: {field}")
        for field in NUMERIC_TAG_FIELDS:
            if (field in ("te", "unet") and field in fields) or fields.get(field) is not None:
                fields[field] = _number(name, field, fields[field])
        for field, other in (("te", "unet"), ("unet", "te")):
            if field not in fields:
                fields |= {field: fields.get(other, 1.0), f"{field}_curve": fields.get(f"{other}_curve")}
        way = fields.pop("way", SEPARATE)
        region = _region(name, fields.pop("at", None), fields.pop("feather", 0.0), way)
        separate = region if way == SEPARATE else None
        if separate is not None and self.fits and not isinstance(self._applied, PerImageNetworks):
            raise FitError(f"{name}: a region by separate prediction is given to lora_ext.apply, not later to set")
        self._regions[name] = separate
        spec = spec_from_tag(LoraTag(name, **fields), self._files[name], self._presets)
        if region is not None and region.pixels is not None and not bool(region.pixels.any()):
            spec = replace(spec, notes=(*spec.notes, _BLACK))
        if separate is None:
            return replace(spec, region=region)
        has_te = any(layer_id.part != UNET for layer_id in self._files[name].adapters)
        notes = (_TEXT_ONCE,) if has_te and spec.te else ()
        return replace(spec, te=0.0, notes=(*spec.notes, *notes))


def _noise_level(scheduler: Any, step: int, total: int) -> float:
    """The noise level at a step by a diffusers scheduler; an image that is changed gets the last `total` steps."""
    place = len(scheduler.timesteps) - total + step
    if getattr(scheduler, "sigmas", None) is not None:
        return float(scheduler.sigmas[place])
    share = float(scheduler.alphas_cumprod[int(scheduler.timesteps[place])])
    return ((1 - share) / share) ** 0.5


_TEXT_ONCE = "a pipeline encodes the text once for all regions: the text-encoder part of this file does not act"
_BLACK = "its mask is 0 everywhere: it acts in no part of the picture"
_ARRAYS = count(1)
LORA_TAG_FIELDS = ("te", "unet", "dyn", "lbw", "lbwe", "start", "stop", "x", "compose", "at", "feather", "way")
NUMERIC_TAG_FIELDS = ("te", "unet", "dyn", "start", "stop", "x")


def _number(name: str, field: str, value: Any) -> Any:
    """The value of a field of a tag, checked. Raises PromptError for anything but a finite number.

    NaN would spoil every image without an error.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise PromptError(f"{name}: {field} is {value!r}; a finite number is needed, such as 0.8")
    return number if field in ("te", "unet", "x") else value  # steps and ranks stay whole numbers, 0.5 is a share


def _region(name: str, at: Any, feather: Any, way: Any) -> Region | None:
    """The region of `at`: text as in a tag, a `regions.Region`, or a mask (height, width) in 0..1."""
    if way not in REGION_WAYS:
        raise PromptError(f"{name}: way is {way!r}{did_you_mean(str(way), REGION_WAYS)}")
    if at is None or isinstance(at, Region):
        return at
    if not isinstance(at, str):
        pixels = torch.as_tensor(at, dtype=torch.float32).cpu()
        if pixels.dim() != 2 or not bool(((pixels >= 0) & (pixels <= 1)).all()):
            raise PromptError(f"{name}: a mask is (height, width) in 0 to 1; got {tuple(pixels.shape)}")
        return Region(feather=_number(name, "feather", feather), mask_name=f"array {next(_ARRAYS)}", pixels=pixels)
    region = parse_region(at, float(_number(name, "feather", feather)))
    if region.mask_name:
        raise PromptError(f"{name}: at={at!r} is no place{did_you_mean(at, PLACE_WORDS)}; give a mask as a tensor")
    return region


def apply(pipe: object, loras: LoraWeights, *, mode: str = AUTO) -> Loras:
    """Applies LoRA files to a diffusers pipeline until the result is closed.

    "auto" bakes where that leaves enough memory for one image of the model's own size, and applies live otherwise. If
    the pipeline runs out of memory later (larger images, batches), call `go_live()` and the pipeline again, or give
    mode="live".

    Args:
        pipe: the pipeline, or any object with `unet`, `text_encoder` and `text_encoder_2`.
        loras: {file: weight}, or files, each at weight 1. A weight is a number or the fields of a tag, such as
            {"unet": 0.8, "te": 0.3, "lbw": "OUTALL", "start": 3}. {"weight": 0.8, "at": "left"} keeps a file to a
            region of the picture; `at` may also be a mask (height, width) in 0 to 1. `feather` and `way` are as in a
            tag.
        mode: "live", "baked" or "auto".

    Returns:
        A context manager that removes the files at its end; `close()` does so too.

    Raises:
        FileError: a file cannot be read.
        PromptError: a weight is not accepted.
        FitError: the mode is unknown, or a file cannot be applied.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> from lora_ext.file.loading import assemble_lora_file
        >>> pipe = SimpleNamespace(unet=torch.nn.ModuleDict({"time_embedding": torch.nn.ModuleDict()}))
        >>> pipe.unet.time_embedding["linear_1"] = torch.nn.Linear(2, 2, bias=False)
        >>> key = "lora_unet_time_embedding_linear_1.lora_{}.weight".format
        >>> file = assemble_lora_file({key("up"): torch.ones(2, 1), key("down"): torch.ones(1, 2)}, {})
        >>> with apply(pipe, {file: 0.8}) as loras:
        ...     print(loras.fits[0])
        unnamed: its only layer applies
    """
    return Loras(hookable_model_of(pipe), loras, mode=mode, image_bytes=pipeline_generation_bytes(pipe))


def merge(pipe: object, loras: LoraWeights) -> list[FitReport]:
    """Adds LoRA files to a pipeline's weights permanently: W + ΔW is summed in float32 and rounded once to W's dtype.

    Args:
        pipe: as for `apply`.
        loras: as for `apply`.

    Returns:
        One report a file.

    Raises:
        FileError: a file cannot be read.
        PromptError: a weight is not accepted.
        FitError: a file cannot be applied, or memory is not enough. On any exception the pipeline is unchanged.
    """
    try:
        with Loras(hookable_model_of(pipe), loras, mode=BAKED) as applied:
            applied._applied.injection.make_permanent()
            return applied.fits
    except BakingMemoryError as error:
        raise FitError(f"{error.shortage}; free some memory, or merge into the checkpoint's file") from error


def _pairs(loras: LoraWeights) -> list[tuple[LoraSource, LoraWeight]]:
    if isinstance(loras, Mapping):
        return list(loras.items())
    files = [loras] if isinstance(loras, (str, PathLike, LoraFile)) else loras
    return [(file, 1.0) for file in files]

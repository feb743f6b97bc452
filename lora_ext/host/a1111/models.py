"""The web UI's models as `protocols.HookableModel`, and the LoRA files that are applied to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from modules import devices, sd_models
from torch import nn

from ...adapter_spec import AdapterSpec
from ...applied_networks import AppliedNetworks
from ...conditions import Condition
from ...errors import FitError
from ...fit_report import FitReport
from ...inject import AUTO, LIVE, Injection, MemoryBudget
from ...inject.condition_rows import BatchRow
from ...layer_names import TE, TE2, UNET
from ...no_effect_reasons import no_effect_reason
from ..memory_estimate import generation_bytes
from ..patched.model import PatchedModel, has_patchers
from .other_extensions import BLOCK_WEIGHT_EXTENSION, is_extension_enabled


@dataclass(frozen=True, eq=False)
class A1111Model:
    """One of the web UI's models (`shared.sd_model`) as a `protocols.HookableModel`.

    How it is held is found out from its attributes: AUTOMATIC1111's model is LDM's network itself, a model with
    `forge_objects` belongs to patchers (`host.patched`).
    """

    sd_model: Any

    def parts(self) -> Mapping[str, nn.Module]:
        """Returns "unet", "te", "te2" → network, without the web UI's wrappers; empty for unsupported models (SD3)."""
        if not is_supported_model(self.sd_model):
            return {}
        return PatchedModel(self.sd_model).parts() if has_patchers(self.sd_model) else _ldm_parts(self.sd_model)

    def create_injection(self, mode: str, memory: MemoryBudget | None = None) -> Injection:
        """Returns an injection that bakes as the model is held."""
        if has_patchers(self.sd_model):
            return PatchedModel(self.sd_model).create_injection(mode, memory)
        return Injection(mode, memory)


def _ldm_parts(sd_model: Any) -> dict[str, nn.Module]:
    """U-Net and text encoders of LDM's model."""
    parts: dict[str, nn.Module] = {UNET: sd_model.model.diffusion_model}
    conditioner = getattr(sd_model, "conditioner", None)
    encoders = [sd_model.cond_stage_model] if conditioner is None else list(conditioner.embedders)
    for encoder in encoders:
        encoder = getattr(encoder, "wrapped", encoder)
        if isinstance(getattr(encoder, "transformer", None), nn.Module):  # transformers' CLIP-L
            parts[TE] = encoder.transformer
        elif isinstance(getattr(encoder, "model", None), nn.Module):  # OpenCLIP
            parts[TE if conditioner is None else TE2] = encoder.model
    return parts


def is_supported_model(sd_model: Any) -> bool:
    """Whether a model is SD1, SD2 or SDXL (not SD3 or Flux), in AUTOMATIC1111's web UI or in Forge and its kin."""
    if has_patchers(sd_model):
        return any(getattr(sd_model, name, False) for name in ("is_sd1", "is_sd2", "is_sdxl"))
    return not getattr(sd_model, "is_sd3", False) and hasattr(sd_model, "model")


def has_patch_manager() -> bool:
    """Whether this web UI applies LoRA files as patches of a model manager (Forge, reForge, Classic, Neo).

    It does not depend on the model: before the first image none is loaded.
    """
    return find_spec("modules_forge") is not None


def current_sd_model() -> Any:
    """Returns the model in use, None while none is loaded. Unlike `shared.sd_model` it never loads one."""
    return sd_models.model_data.sd_model


def loaded_sd_models() -> list[Any]:
    """Returns all models that the web UI keeps, the one in use first."""
    data = sd_models.model_data
    models = [data.sd_model, *getattr(data, "loaded_sd_models", ())]  # Forge keeps one
    return [m for i, m in enumerate(models) if m is not None and m not in models[:i]]


class AppliedNetworksByModel:
    """The selected LoRA files, and what is applied to each of the web UI's models.

    Args:
        mode: returns the user's setting, "auto", "live" or "baked".
        notify: shows the user a sentence about the current image.

    Attributes:
        specs: the selected files.
    """

    def __init__(self, mode: Callable[[], str], notify: Callable[[str], None]) -> None:
        self.mode, self.notify = mode, notify
        self._image_bytes, self._is_new_batch = 0, False
        self.specs: tuple[AdapterSpec, ...] = ()
        self._conditions: tuple[Condition, ...] = ()
        self._on_all_rows = False
        self._applied: WeakKeyDictionary[Any, tuple[object, AppliedNetworks]] = WeakKeyDictionary()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """As in `AppliedNetworks`; empty where all files act on all conditions."""
        return () if self._on_all_rows else self._conditions

    @conditions.setter
    def conditions(self, conditions: tuple[Condition, ...]) -> None:
        self._conditions = conditions

    def begin_batch(self, p: Any, sd_model: Any) -> None:
        """Notes that a batch begins, and how much memory it needs; the next `apply` is for it."""
        self._image_bytes, self._is_new_batch = _batch_bytes(p, sd_model), True

    def apply(self, sd_model: Any) -> list[FitReport] | None:
        """Applies the selected files to a model.

        Returns:
            How each file fits where something changed, else None.
        """
        key, applied = self._applied.get(sd_model, (None, None))
        if not self.specs:
            if applied is not None:
                applied.apply(())
            return None
        if applied is not None and key != self.mode_key(sd_model):
            applied.close()
            applied = None
        if applied is None:
            with without_autocast():
                applied = Float32AppliedNetworks(A1111Model(sd_model), self._apply_mode(sd_model))
            self._applied[sd_model] = self.mode_key(sd_model), applied
        anew, self._is_new_batch = self._is_new_batch, False
        applied.reserve_memory(self._image_bytes)
        if (applied.specs, applied.conditions) == (self.specs, self.conditions):
            if anew:
                applied.bake_when_stable()
            return None
        applied.conditions = self.conditions
        return applied.apply(self.specs)

    def encode_as(self, condition: Condition | None) -> None:
        """Gives the text encoders of the model in use the weights for one condition's text, or all files."""
        _, applied = self._applied.get(current_sd_model(), (None, None))
        if applied is not None:
            applied.encode_as(condition)

    def begin_rows(self, sd_model: Any, rows: Sequence[BatchRow]) -> None:
        """Says what the rows of the U-Net's next step are conditioned on."""
        _, applied = self._applied.get(sd_model, (None, None))
        if applied is not None and applied.has_scopes:
            applied.begin_rows(rows)

    def run_image(self, work: Callable[[], Any]) -> Any:
        """Runs a part of an image's computation and returns its result; it may run it a second time.

        Where memory runs out and files are baked, it runs once more with all of them as forward hooks. Where files act
        on single rows of the batch, and another extension gives layers other rows than the U-Net's, it runs once more
        with all files on all rows. Both are said.
        """
        sd_model = current_sd_model()
        _, applied = (None, None) if sd_model is None else self._applied.get(sd_model, (None, None))
        if applied is None:
            return work()
        try:
            return self._run_in_memory(applied, work)
        except FitError as error:
            if not applied.has_scopes:
                raise
            problem = str(error)
        self.notify(f"{problem}; LoRA files of single AND parts, of regions, or with neg=0 act on all rows")
        self._on_all_rows = True  # also where a script hands the tags out again after each step
        try:
            self.apply(sd_model)
            return self._run_in_memory(applied, work)
        finally:
            self._on_all_rows, self._conditions = False, ()

    def _run_in_memory(self, applied: AppliedNetworks, work: Callable[[], Any]) -> Any:
        """`AppliedNetworks.retry_when_out_of_memory`; says so where files are no longer baked."""
        before = applied.fallback.note
        result = applied.retry_when_out_of_memory(work)
        if applied.fallback.note != before:
            self.notify(f"lora-ext: {applied.fallback.note}")
        return result

    def at_step(self, sd_model: Any, step: int, total: int, sigma: Callable[[], float]) -> None:
        """Moves the schedules of tags to U-Net call `step` of `total`; `sigma` returns its noise level."""
        _, applied = self._applied.get(sd_model, (None, None))
        if applied is not None:
            applied.at_step(step, total, sigma() if applied.needs_sigma else None)

    def scheduled_weights(self, sd_model: Any) -> list[tuple[str, float]]:
        """Returns the present weights of scheduled files, as `AppliedNetworks.scheduled_weights`."""
        _, applied = self._applied.get(sd_model, (None, None))
        return [] if applied is None else applied.scheduled_weights()

    def no_effect_messages(self, sd_model: Any, total: int) -> list[str]:
        """Explains, one sentence each, which files have no effect in an image of `total` U-Net calls."""
        _, applied = self._applied.get(sd_model, (None, None))
        if applied is None:
            return []
        messages = (no_effect_reason(spec, applied.matching_layers(spec), total) for spec in applied.specs)
        return [text for text in dict.fromkeys(messages) if text]

    def remove(self, sd_model: Any) -> None:
        """Removes all files from a model and forgets it."""
        _, applied = self._applied.pop(sd_model, (None, None))
        if applied is not None:
            applied.close()

    def close(self) -> None:
        """Removes all files from all models."""
        self.specs, self.conditions = (), ()
        for sd_model in list(self._applied):
            self.remove(sd_model)

    def mode_key(self, sd_model: Any) -> tuple[object, ...]:
        """Returns what the mode depends on; when it changes, all files are applied anew."""
        return self.mode(), _has_fp8_weights(), bool(getattr(sd_model, "lowvram", False))

    def _apply_mode(self, sd_model: Any) -> str:
        """Returns the mode for a model: live where --medvram or --lowvram move weights between devices.

        Also live where sd-webui-lora-block-weight would drop what is baked: for a tag with block weights or steps it
        keeps in the patchers of Forge and its kin only the patches of kinds that it knows.

        fp8 weights are never baked, since a small ΔW is lost when it is rounded to fp8; patchers choose layer by layer.
        `AppliedNetworks` itself checks whether there is memory for baking.
        """
        patched = has_patchers(sd_model)
        if _has_fp8_weights() and not patched:
            return LIVE
        mode = self.mode()
        drops_patches = patched and is_extension_enabled(BLOCK_WEIGHT_EXTENSION)
        return LIVE if mode == AUTO and (getattr(sd_model, "lowvram", False) or drops_patches) else mode


def _has_fp8_weights() -> bool:
    """Whether the web UI stores weights as fp8 (setting "FP8 weight")."""
    return bool(getattr(devices, "fp8", False))


def _batch_bytes(p: Any, sd_model: Any) -> int:
    """Estimates the memory in bytes that one batch of `p` needs, including the hires pass."""
    width, height = int(getattr(p, "width", 0) or 512), int(getattr(p, "height", 0) or 512)
    if getattr(p, "enable_hr", False):
        scale = float(getattr(p, "hr_scale", 0) or 2.0)
        width = int(getattr(p, "hr_resize_x", 0) or width * scale)
        height = int(getattr(p, "hr_resize_y", 0) or height * scale)
    sizes = (getattr(devices, name, torch.float16).itemsize for name in ("dtype_unet", "dtype_vae"))
    family = "SDXL" if getattr(sd_model, "is_sdxl", False) else ""
    return generation_bytes(family, (width, height), int(getattr(p, "batch_size", 1) or 1), *sizes)


class Float32AppliedNetworks(AppliedNetworks):
    """`AppliedNetworks` whose sums are in float32 although the web UI generates under autocast."""

    def _apply_changes(self, anew: bool = False) -> None:
        with without_autocast():
            super()._apply_changes(anew)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Disables gradients and autocast, under which the web UI calls extra networks: sums of weights are float32."""
    with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        yield

"""What LoRAs do to the files of a checkpoint: which tensor gets what (`CheckpointFilePlan`), the sums, and the
writing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..adapter_spec import AdapterSpec
from ..command_line import check_disk_space
from ..errors import ToolError
from ..file.lora_file import is_tensor_finite
from ..file.saving import replacing_file, save_safetensors
from ..inject.applied_adapter import AppliedAdapter, sum_bias_deltas
from ..inject.baking import add_delta
from ..inject.rounding import Rounding
from ..layer_names import LayerId
from ..progress import Track
from .checkpoint_keys import WeightLocation, checkpoint_family, describe_checkpoint
from .checkpoint_stream import (
    TensorChange,
    TensorFile,
    changed_tensors,
    file_size_as,
    save_torch_file,
    write_changed_safetensors,
)
from .report import LayerReport, ToolReport

TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
"""Suffixes that are written as torch files."""


@dataclass
class CheckpointFilePlan:
    """What is to be done to one file of a checkpoint. rounding: what became of each tensor's ΔW, once it is written."""

    tensor_file: TensorFile
    locations: Mapping[LayerId, WeightLocation]
    adapters_by_key: dict[str, list[tuple[WeightLocation, LayerId, AppliedAdapter]]] = field(default_factory=dict)
    biases_by_key: dict[str, list[AppliedAdapter]] = field(default_factory=dict)
    rounding: dict[str, tuple[Rounding, torch.dtype]] = field(default_factory=dict)

    def add_adapter(self, layer_id: LayerId, applied_adapter: AppliedAdapter) -> None:
        """Notes a piece that acts at a place of this file."""
        place = self.locations[layer_id]
        self.adapters_by_key.setdefault(place.key, []).append((place, layer_id, applied_adapter))
        if place.bias is not None:
            self.biases_by_key.setdefault(place.bias, []).append(applied_adapter)

    def applied_adapters(self) -> Iterator[AppliedAdapter]:
        """Every piece."""
        return (piece for rows in self.adapters_by_key.values() for _, _, piece in rows)

    def tensor_changes(self, dtype: torch.dtype | None, device: torch.device) -> dict[str, TensorChange]:
        """What happens to each tensor that is touched."""
        found: dict[str, TensorChange] = {}
        for key, rows in self.adapters_by_key.items():
            found[key] = _adder(self.tensor_file, key, rows, dtype, device, self._measured(key, dtype))
        for key, pieces in self.biases_by_key.items():
            shift = sum_bias_deltas(pieces, self.tensor_file.shapes[key][0])
            if shift is not None:
                found[key] = _shifter(key, shift, dtype, self._measured(key, dtype))
        return found

    def _measured(self, key: str, dtype: torch.dtype | None) -> Rounding:
        self.rounding[key] = rounding, _ = Rounding(), dtype or self.tensor_file.dtype(key)
        return rounding

    def add_rounding_to(self, report: ToolReport) -> None:
        """Reports what survived rounding; layers in one stacked tensor (OpenCLIP's q, k, v) share its figure."""
        for key, (rounding, dtype) in self.rounding.items():
            names = list(dict.fromkeys(str(site) for _, site, _ in self.adapters_by_key.get(key, ()))) or [key]
            for name in names:
                report.add_rounding(name, rounding.share, rounding.squared_norm / len(names), dtype)


# --- what goes where -------------------------------------------------------------------------------------------------


def assign_adapters(
    plans: Sequence[CheckpointFilePlan], specs: Sequence[AdapterSpec], report: ToolReport, checkpoint_name: str
) -> None:
    """Gives every adapter to the places that it fits and reports the rest. Raises ToolError as `merge_into` says."""
    here = {site: place for plan in plans for site, place in plan.locations.items()}
    if not here:
        raise ToolError(f"{checkpoint_name} holds no layer of a Stable Diffusion model (SD1, SD2 or SDXL)")
    ranks: dict[LayerId, int | None] = {}
    matched = acting = 0
    for use in specs:
        lacks: list[str] = []
        wrong: list[str] = []
        for site, adapter in use.file.adapters.items():
            holders = [plan for plan in plans if site in plan.locations]
            fitting = [plan for plan in holders if adapter.fits(plan.locations[site].shape)]
            if not fitting:
                (wrong if holders else lacks).append(str(site))
                continue
            matched += 1
            weight = use.weight_at(site)
            if not weight:
                continue
            acting += 1
            ranks[site] = None if adapter.rank is None else (ranks.get(site) or 0) + adapter.rank
            for plan in fitting:
                plan.add_adapter(site, AppliedAdapter(adapter, weight, rows=plan.locations[site].rows))
        if lacks or wrong:
            _check_family(use, here, checkpoint_name)
        _report_source(report, use, lacks, wrong)
    report.layers += [LayerReport(str(site), rank, None) for site, rank in ranks.items()]
    if not acting or not any(_has_nonzero_delta(piece) for plan in plans for piece in plan.applied_adapters()):
        labels = ", ".join(use.display_name for use in specs)
        if matched:
            what = "ΔW is 0 everywhere (never trained?)" if acting else "every weight is 0"
            raise ToolError(f"{labels}: {what}, {checkpoint_name} would stay as it is")
        raise ToolError(f"nothing of {labels} fits {checkpoint_name} ({describe_checkpoint(here)}); it was not written")


def _has_nonzero_delta(applied_adapter: AppliedAdapter) -> bool:
    """Whether ΔW is not zero, as far as the factors tell: a layer that was never trained has one of zeros."""
    low = applied_adapter.adapter.low_rank()
    return low is None or all(bool(t.float().any()) for t in (low.up, low.gain, low.down))


def _check_family(spec: AdapterSpec, here: Mapping[LayerId, WeightLocation], name: str) -> None:
    """Raises ToolError when both families are known and differ (asked when not all layers fit)."""
    family, own = checkpoint_family(here), spec.file.family
    if "unknown" not in (family, own) and not family.startswith(own):
        raise ToolError(f"{spec.display_name} was made for {own}, {name} is {family}")


def _report_source(report: ToolReport, spec: AdapterSpec, lacks: list[str], wrong: list[str]) -> None:
    if lacks:
        report.only_in[spec.display_name] = lacks
    if wrong:
        report.add_note(
            f"{spec.display_name}: {len(wrong)} layers are of another size and left out, such as {wrong[0]}"
        )
    if spec.file.unrecognized_keys:
        report.not_understood[spec.display_name] = spec.file.unrecognized_keys
    report.add_source_notes(spec.display_name, spec.file)
    if spec.file.embeddings:
        report.add_note(
            f"{spec.display_name}: its embeddings ({', '.join(spec.file.embeddings)}) have no place in a checkpoint"
        )


# --- sums ------------------------------------------------------------------------------------------------------------


def _adder(
    tensor_file: TensorFile,
    key: str,
    rows: Sequence[tuple[WeightLocation, LayerId, AppliedAdapter]],
    dtype: torch.dtype | None,
    device: torch.device,
    rounding: Rounding,
) -> TensorChange:
    """W → W + Σ weight·ΔW, as baked injection computes it. A tensor from the disk is overwritten."""
    turned = any(place.transposed for place, _, _ in rows)
    pieces = tuple(piece for _, _, piece in rows)

    def add(tensor: Tensor) -> Tensor:
        weight = (tensor.mT if turned else tensor).to(device)
        mine = tensor_file.header is not None and dtype in (None, tensor.dtype)
        out = weight if mine else torch.empty(weight.shape, dtype=dtype or tensor.dtype, device=device)
        if not add_and_check_finite(weight, pieces, out, rounding) and not is_tensor_finite(out):
            before = tensor_file.load_tensor(key)
            raise _not_finite_error(key, rows[0][1], (before.mT if turned else before).to(device), pieces, out.dtype)
        return out.mT if turned else out

    return add


AMINMAX_DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def add_and_check_finite(
    weight: Tensor, applied_adapters: tuple[AppliedAdapter, ...], out: Tensor, rounding: Rounding
) -> bool:
    """`out` (may be `weight` itself) = weight + Σ weight·ΔW, as baked into a model; whether its sum is finite."""
    check = torch.zeros((), device=weight.device)

    def look(block: Tensor) -> None:
        # torch 2.1 has no aminmax of float16 on the CPU, no release has one of float8
        least, most = torch.aminmax(block if block.dtype in AMINMAX_DTYPES else block.float())
        check.add_(0 * least + 0 * most)  # 0, but of NaN and infinity NaN

    add_delta(weight, applied_adapters, out, look, rounding)
    return not bool(check)


def _shifter(key: str, shift: Tensor, dtype: torch.dtype | None, rounding: Rounding) -> TensorChange:
    def add(tensor: Tensor) -> Tensor:
        total = tensor.float() + shift
        out = total.to(dtype or tensor.dtype)
        if out.dtype != total.dtype:
            rounding.measure(tensor, total, out.dtype)
        if not is_tensor_finite(out):
            raise ToolError(f"{key} holds NaN or infinity when the LoRAs are added")
        return out

    return add


def _not_finite_error(
    key: str, layer_id: LayerId, weight: Tensor, applied_adapters: tuple[AppliedAdapter, ...], dtype: torch.dtype
) -> ToolError:
    """Why a sum is not finite: the checkpoint was not, or the dtype is too small."""
    if not is_tensor_finite(weight):
        return ToolError(f"the checkpoint contains NaN or infinity in {key!r}")
    wide = add_delta(weight, applied_adapters, torch.empty(weight.shape, dtype=torch.float32, device=weight.device))
    name = str(dtype).removeprefix("torch.")
    return ToolError(
        f"{layer_id} does not fit {name} after merging: {key!r} reaches {float(wide.abs().max()):.4g}, "
        "the largest number "
        f"is {torch.finfo(dtype).max:.4g}; use a smaller ratio, or save as bf16 or float"
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def save_checkpoint_file(
    plan: CheckpointFilePlan,
    path: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    overwrite: bool,
    track: Track,
) -> None:
    """One file of the checkpoint with its changes made, whole or not at all. Raises FileError, ToolError."""
    changes = plan.tensor_changes(dtype, device)
    with _iterate_from_outside(track, list(changes), f"merge into {path.name}") as step:
        header = plan.tensor_file.header
        if header is None or path.suffix.lower() in TORCH_SUFFIXES:
            tensors = dict(changed_tensors(plan.tensor_file, changes, dtype, step))
            check_disk_space(path, sum(tensor.nbytes for tensor in tensors.values()) + 1_000_000)
            if path.suffix.lower() not in TORCH_SUFFIXES:
                save_safetensors(tensors, path, metadata={"format": "pt"}, overwrite=overwrite)
                return
            with replacing_file(path, overwrite=overwrite) as part:
                save_torch_file(plan.tensor_file, tensors, part)
        else:
            check_disk_space(path, file_size_as(header, dtype))
            with replacing_file(path, overwrite=overwrite) as part, part.open("wb") as out:
                write_changed_safetensors(plan.tensor_file, out, changes, dtype, step)


@contextlib.contextmanager
def _iterate_from_outside(track: Track, names: Sequence[str], text: str) -> Iterator[Callable[[str], object]]:
    """A function to call at each item, for loops that are driven from elsewhere."""
    shown = track(names, text)
    try:
        yield lambda name: next(shown, None)
        for _ in shown:
            pass
    finally:
        close = getattr(shown, "close", None)
        if close is not None:
            close()

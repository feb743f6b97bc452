"""How LoRAs change the files of a checkpoint: the plan of each file, the sums W + ΔW, and the writing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..adapter_spec import AdapterSpec
from ..adapters import Adapter
from ..command_line import check_disk_space
from ..errors import ToolError
from ..file.lora_file import is_tensor_finite
from ..file.saving import replacing_file, save_safetensors
from ..inject.applied_adapter import AppliedAdapter, sum_bias_deltas
from ..inject.baking import add_delta
from ..inject.rounding import Rounding
from ..layer_names import LayerId
from ..progress import Track
from .cancelling import cancel_each_other, weighted_names, zero_sum_reason
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
"""Suffixes of files that are written in torch's format instead of safetensors."""


@dataclass
class CheckpointFilePlan:
    """The changes that are planned for one file of a checkpoint.

    Attributes:
        tensor_file: the file that is read.
        locations: where the file holds each layer.
        adapters_by_key: tensor name → the adapters that change it, each with its layer and location.
        biases_by_key: bias tensor name → the adapters that change it.
        rounding: tensor name → how much of its ΔW survived rounding, and to which dtype; filled while writing.
    """

    tensor_file: TensorFile
    locations: Mapping[LayerId, WeightLocation]
    adapters_by_key: dict[str, list[tuple[WeightLocation, LayerId, AppliedAdapter]]] = field(default_factory=dict)
    biases_by_key: dict[str, list[AppliedAdapter]] = field(default_factory=dict)
    rounding: dict[str, tuple[Rounding, torch.dtype]] = field(default_factory=dict)

    def add_adapter(self, layer_id: LayerId, applied_adapter: AppliedAdapter) -> None:
        """Plans an adapter for a layer of this file."""
        location = self.locations[layer_id]
        self.adapters_by_key.setdefault(location.key, []).append((location, layer_id, applied_adapter))
        if location.bias is not None:
            self.biases_by_key.setdefault(location.bias, []).append(applied_adapter)

    def changes_nothing(self) -> bool:
        """Whether the planned changes of every layer are 0, or cancel each other."""
        layers: dict[LayerId, list[tuple[Adapter, float]]] = {}
        for rows in self.adapters_by_key.values():
            for _, layer_id, applied in rows:
                layers.setdefault(layer_id, []).append((applied.adapter, float(applied.weight)))
        return all(cancel_each_other(parts) for parts in layers.values())

    def tensor_changes(self, dtype: torch.dtype | None, device: torch.device) -> dict[str, TensorChange]:
        """Tensor name → the function that computes what is written in its place.

        Args:
            dtype: dtype of the result; None keeps each tensor's own.
            device: where the sums are computed.
        """
        found: dict[str, TensorChange] = {}
        for key, rows in self.adapters_by_key.items():
            found[key] = _adder(self.tensor_file, key, rows, dtype, device, self._measured(key, dtype))
        for key, applied_adapters in self.biases_by_key.items():
            shift = sum_bias_deltas(applied_adapters, self.tensor_file.shapes[key][0])
            if shift is not None:
                found[key] = _shifter(key, shift, dtype, self._measured(key, dtype))
        return found

    def _measured(self, key: str, dtype: torch.dtype | None) -> Rounding:
        self.rounding[key] = rounding, _ = Rounding(), dtype or self.tensor_file.dtype(key)
        return rounding

    def add_rounding_to(self, report: ToolReport) -> None:
        """Adds what survived rounding to the report; layers in one stacked tensor (OpenCLIP's q, k, v) share a figure.

        The tensor's ‖ΔW‖² is divided evenly between them, so that the sum over the layers stays right.
        """
        for key, (rounding, dtype) in self.rounding.items():
            names = list(dict.fromkeys(str(layer_id) for _, layer_id, _ in self.adapters_by_key.get(key, ()))) or [key]
            for name in names:
                report.add_rounding(name, rounding.share, rounding.squared_norm / len(names), dtype)


# --- planning --------------------------------------------------------------------------------------------------------


def assign_adapters(
    plans: Sequence[CheckpointFilePlan], specs: Sequence[AdapterSpec], report: ToolReport, checkpoint_name: str
) -> None:
    """Assigns every adapter to the files that hold its layer in a fitting shape, and reports the others.

    Args:
        plans: one plan a file of the checkpoint; they are filled.
        specs: the LoRA files with their weights.
        report: gets the changed layers, and for each LoRA what did not fit.
        checkpoint_name: what messages call the checkpoint.

    Raises:
        ToolError: the checkpoint holds no known layer, a LoRA is for another model family, or nothing would change.
    """
    locations = {layer_id: location for plan in plans for layer_id, location in plan.locations.items()}
    if not locations:
        raise ToolError(f"{checkpoint_name} holds no layer of a Stable Diffusion model (SD1, SD2 or SDXL)")
    ranks: dict[LayerId, int | None] = {}
    matched = acting = 0
    for spec in specs:
        lacks: list[str] = []
        wrong: list[str] = []
        for layer_id, adapter in spec.file.adapters.items():
            holders = [plan for plan in plans if layer_id in plan.locations]
            fitting = [plan for plan in holders if adapter.fits(plan.locations[layer_id].shape)]
            if not fitting:
                (wrong if holders else lacks).append(str(layer_id))
                continue
            matched += 1
            weight = spec.weight_at(layer_id)
            if not weight:
                continue
            acting += 1
            ranks[layer_id] = None if adapter.rank is None else (ranks.get(layer_id) or 0) + adapter.rank
            for plan in fitting:
                plan.add_adapter(layer_id, AppliedAdapter(adapter, weight, rows=plan.locations[layer_id].rows))
        if lacks or wrong:
            _check_family(spec, locations, checkpoint_name)
        _report_source(report, spec, lacks, wrong)
    report.layers += [LayerReport(str(layer_id), rank, None) for layer_id, rank in ranks.items()]
    if not acting or all(plan.changes_nothing() for plan in plans):
        if matched:
            what = zero_sum_reason(specs, ranks) if acting else "every weight is 0"
            raise ToolError(f"{weighted_names(specs)}: {what}, {checkpoint_name} would stay as it is")
        labels = ", ".join(spec.display_name for spec in specs)
        raise ToolError(
            f"nothing of {labels} fits {checkpoint_name} ({describe_checkpoint(locations)}); it was not written"
        )


def _check_family(spec: AdapterSpec, locations: Mapping[LayerId, WeightLocation], name: str) -> None:
    """Raises ToolError when both model families are known and differ; called when not all layers fit."""
    family, own = checkpoint_family(locations), spec.file.family
    if "unknown" not in (family, own) and not family.startswith(own):
        raise ToolError(f"{spec.display_name} was made for {own}, {name} is {family}")


def _report_source(report: ToolReport, spec: AdapterSpec, lacks: list[str], wrong: list[str]) -> None:
    if lacks:
        report.only_in[spec.display_name] = lacks
    if wrong:
        text = (
            "{0}: {1} layer has another size than the checkpoint's and is left out: {2}"
            if len(wrong) == 1
            else "{0}: {1} layers have another size than the checkpoint's and are left out, such as {2}"
        )
        report.add_note(text.format(spec.display_name, len(wrong), wrong[0]))
    if spec.file.unrecognized_keys:
        report.not_understood[spec.display_name] = spec.file.unrecognized_keys
    report.add_source_notes(spec.display_name, spec.file)
    if spec.file.embeddings:
        report.add_note(
            f"{spec.display_name}: its embeddings ({', '.join(spec.file.embeddings)}) are left out: "
            "a checkpoint cannot hold them"
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
    """The change W → W + Σ weight·ΔW, computed as baked LoRAs are.

    A tensor that comes from the disk has memory of its own, which the result overwrites where the dtype allows it.
    """
    transposed = any(location.transposed for location, _, _ in rows)
    applied_adapters = tuple(applied_adapter for _, _, applied_adapter in rows)

    def add(tensor: Tensor) -> Tensor:
        weight = (tensor.mT if transposed else tensor).to(device)
        in_place = tensor_file.header is not None and dtype in (None, tensor.dtype)
        out = weight if in_place else torch.empty(weight.shape, dtype=dtype or tensor.dtype, device=device)
        if not add_and_check_finite(weight, applied_adapters, out, rounding) and not is_tensor_finite(out):
            before = tensor_file.load_tensor(key)
            raise _not_finite_error(
                key, rows[0][1], (before.mT if transposed else before).to(device), applied_adapters, out.dtype
            )
        return out.mT if transposed else out

    return add


AMINMAX_DTYPES = (torch.float64, torch.float32, torch.bfloat16)
"""Dtypes that `torch.aminmax` takes on the CPU in every supported torch release."""


def add_and_check_finite(
    weight: Tensor, applied_adapters: tuple[AppliedAdapter, ...], out: Tensor, rounding: Rounding
) -> bool:
    """Computes `out` = `weight` + Σ weightᵢ·ΔWᵢ block by block, as baking into a model does.

    Args:
        weight: (out, in[, kh, kw]), on the device where the sum is made.
        applied_adapters: the adapters with their weights.
        out: the result, of the same shape; may be `weight` itself.
        rounding: measures what survives rounding to the dtype of `out`.

    Returns:
        Whether all numbers of the result are finite.
    """
    check = torch.zeros((), device=weight.device)

    def check_block(block: Tensor) -> None:
        # torch 2.1 has no aminmax of float16 on the CPU, no release has one of float8
        least, most = torch.aminmax(block if block.dtype in AMINMAX_DTYPES else block.float())
        check.add_(0 * least + 0 * most)  # 0 for finite numbers, NaN for NaN and infinity

    add_delta(weight, applied_adapters, out, check_block, rounding)
    return not bool(check)


def _shifter(key: str, shift: Tensor, dtype: torch.dtype | None, rounding: Rounding) -> TensorChange:
    """The change bias → bias + shift, summed in float32."""

    def add(tensor: Tensor) -> Tensor:
        total = tensor.float() + shift
        out = total.to(dtype or tensor.dtype)
        if out.dtype != total.dtype:
            rounding.measure(tensor, total, out.dtype)
        if not is_tensor_finite(out):
            raise ToolError(f"{key!r} is NaN or infinity once the LoRAs are added; use a smaller ratio")
        return out

    return add


def _not_finite_error(
    key: str, layer_id: LayerId, weight: Tensor, applied_adapters: tuple[AppliedAdapter, ...], dtype: torch.dtype
) -> ToolError:
    """The error for a sum that is not finite: the checkpoint was not, or the dtype is too small for the numbers."""
    if not is_tensor_finite(weight):
        return ToolError(f"the checkpoint contains NaN or infinity in {key!r}")
    wide = add_delta(weight, applied_adapters, torch.empty(weight.shape, dtype=torch.float32, device=weight.device))
    name = str(dtype).removeprefix("torch.")
    return ToolError(
        f"{layer_id} does not fit {name} after merging: {key!r} reaches {float(wide.abs().max()):.4g}, "
        f"the largest number is {torch.finfo(dtype).max:.4g}; use a smaller ratio, or save as bf16 or float"
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
    """Writes one file of the checkpoint with its planned changes; a failure leaves no partial file.

    Args:
        plan: the file and its changes; `plan.rounding` is filled.
        path: where to write. Its suffix decides between safetensors and torch's format.
        dtype: of all floating-point tensors of the result; None keeps each tensor's own.
        device: where the sums are computed.
        overwrite: whether a file at `path` may be replaced.
        track: shows progress.

    Raises:
        FileError: a file that cannot be read or written.
        ToolError: too little space on the disk, NaN, or a number that `dtype` cannot hold.
    """
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
    """Yields a function to call before each item, for a loop that runs elsewhere (`write_changed_safetensors`)."""
    shown = track(names, text)
    try:
        yield lambda name: next(shown, None)
        for _ in shown:
            pass
    finally:
        close = getattr(shown, "close", None)
        if close is not None:
            close()

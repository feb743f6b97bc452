"""Write a diffusers folder as an LDM checkpoint (`merge --sd_model FOLDER --save_to X.safetensors`), LoRAs or not.

Memory holds the tensors that one tensor of the result is made of; a `.ckpt` is held whole, as torch writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapter_spec import AdapterSpec
from ..command_line import cast_tensor, check_disk_space
from ..errors import FileError, ToolError
from ..file.saving import replacing_file
from ..json_text import parse_json
from ..layer_names import LayerId
from ..progress import Track
from .checkpoint_changes import TORCH_SUFFIXES, CheckpointFilePlan, assign_adapters
from .checkpoint_keys import WeightLocation, checkpoint_family, describe_checkpoint, find_weight_locations
from .checkpoint_stream import TensorChange, TensorFile, open_tensor_file, save_torch_file, write_made_tensors
from .diffusers_folders import check_model_folder
from .ldm_names import TEXT_PREFIXES, LdmTensor, ldm_tensors, unused_last_layer
from .merge_into_folder import NETWORK_SUBFOLDERS
from .report import ToolReport


@dataclass
class FolderNetwork:
    """One network of a diffusers folder: its files, and which of them holds each tensor.

    Attributes:
        plans: the files with their planned changes.
        holders: tensor name → the file that counts.
    """

    plans: list[CheckpointFilePlan]
    holders: dict[str, CheckpointFilePlan]


def merge_folder_into_file(
    folder: Path,
    specs: Sequence[AdapterSpec],
    save_to: Path,
    report: ToolReport,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    overwrite: bool,
    track: Track,
) -> None:
    """Writes a diffusers folder as an LDM checkpoint, with Σ weightᵢ·ΔWᵢ added.

    Args:
        folder: the diffusers folder: SD1, SD2 or SDXL.
        specs: the LoRA files with their weights; may be empty.
        save_to: the file to write; its suffix decides between safetensors and torch's format.
        report: is filled.
        dtype: of all floating-point tensors of the result; None keeps each tensor's own.
        device: where the sums are computed.
        overwrite: whether `save_to` may be replaced.
        track: shows progress.

    Raises:
        FileError: a file that cannot be read or written.
        ToolError: no model of these families, a tensor without a name in such a checkpoint, or as `assign_adapters`.
    """
    check_model_folder(folder)
    networks = {name: _open_network(folder / name, part) for name, part in {**NETWORK_SUBFOLDERS, "vae": None}.items()}
    locations: dict[LayerId, WeightLocation] = {}
    for network in networks.values():
        for plan in network.plans:
            locations = {**plan.locations, **locations}
    family = checkpoint_family(locations)
    wanted = ("unet", "vae", *TEXT_PREFIXES.get(family, ()))
    missing = [name for name in wanted if not networks[name].holders]
    if family not in TEXT_PREFIXES or missing:
        model = describe_checkpoint(locations)
        if missing:
            model = f"{model} and has no {', '.join(missing)}"
        raise ToolError(
            f"{folder} cannot become a checkpoint file: it is {model}; SD1, SD2 and SDXL can, "
            "with U-Net, autoencoder and text encoders"
        )
    if specs:
        plans = [plan for name in wanted for plan in networks[name].plans]
        assign_adapters(plans, specs, report, str(folder))
    rows = [(networks[name], row) for name in wanted for row in ldm_tensors(name, family, networks[name].holders)]
    if family == "SD2":
        rows += [(networks["text_encoder"], row) for row in unused_last_layer([row for _, row in rows])]
    _write(rows, save_to, dtype, device, overwrite=overwrite, track=track)
    for name in wanted:
        for plan in networks[name].plans:
            plan.add_rounding_to(report)
    report.add_note(
        f"{len(rows)} tensors of {family} under LDM's names; tokenizer, scheduler and configuration are left out"
    )
    if _prediction_type(folder) == "v_prediction":
        report.add_note("the model predicts v, which the file cannot say: programs that do not detect it need a .yaml")


def _open_network(folder: Path, part: str | None) -> FolderNetwork:
    """The weight files of one network; the plain file counts before a variant such as `.fp16.`."""
    files = [p for p in folder.glob("*") if p.suffix in (".safetensors", *TORCH_SUFFIXES) and p.is_file()]
    tensors = [p for p in files if p.suffix == ".safetensors"] or files
    plans: list[CheckpointFilePlan] = []
    holders: dict[str, CheckpointFilePlan] = {}
    for path in sorted(tensors, key=lambda p: (p.name.count("."), p.name)):
        tensor_file = open_tensor_file(path)
        plan = CheckpointFilePlan(tensor_file, find_weight_locations(tensor_file.shapes, part) if part else {})
        if any(name not in holders for name in tensor_file.shapes):
            plans.append(plan)
        for name in tensor_file.shapes:
            holders.setdefault(name, plan)
    return FolderNetwork(plans, holders)


def _write(
    rows: list[tuple[FolderNetwork, LdmTensor]],
    path: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    overwrite: bool,
    track: Track,
) -> None:
    """Writes the tensors, each made when its turn comes."""
    plans = {id(plan): plan for network, _ in rows for plan in network.plans}
    changes = {key: plan.tensor_changes(dtype, device) for key, plan in plans.items()}
    by_name = {row.name: (network, row) for network, row in rows}
    shapes = {name: _shape_of(network, row, dtype) for name, (network, row) in by_name.items()}
    check_disk_space(path, sum(t.numel() * t.element_size() for t in shapes.values()) + 1_000_000)
    if path.suffix.lower() in TORCH_SUFFIXES:
        whole = {name: _tensor(*by_name[name], changes, dtype) for name in track(list(by_name), f"write {path.name}")}
        with replacing_file(path, overwrite=overwrite) as part:
            save_torch_file(TensorFile(path), whole, part)
        return
    with replacing_file(path, overwrite=overwrite) as part:
        write_made_tensors(part, shapes, lambda name: _tensor(*by_name[name], changes, dtype), track, path.name)


def _shape_of(network: FolderNetwork, row: LdmTensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor on the meta device. Raises FileError where one of its sources is missing."""
    missing = [name for name in row.sources if name not in network.holders]
    if missing:
        raise FileError(f"{missing[0]!r} is missing beside {row.sources[0]!r}")
    files = [(network.holders[name].tensor_file, name) for name in row.sources]
    made = row.build(torch.empty(f.shapes[name], dtype=f.dtype(name), device="meta") for f, name in files)
    return made.to(dtype) if dtype is not None and made.is_floating_point() else made


def _tensor(
    network: FolderNetwork, row: LdmTensor, changes: dict[int, dict[str, TensorChange]], dtype: torch.dtype | None
) -> Tensor:
    """The tensor itself, with the LoRAs' changes."""

    def sources() -> Iterator[Tensor]:
        for name in row.sources:
            plan = network.holders[name]
            tensor = plan.tensor_file.load_tensor(name)
            change = changes[id(plan)].get(name)
            yield tensor if change is None else change(tensor)

    made = row.build(sources())
    return cast_tensor(made, dtype, row.name) if dtype is not None and made.is_floating_point() else made


def _prediction_type(folder: Path) -> str:
    try:
        config = parse_json((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("prediction_type", "")) if isinstance(config, dict) else ""

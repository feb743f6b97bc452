"""Merge LoRAs into a diffusers folder: the networks' files are rewritten, all others copied.

A failure leaves no partial folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from ..adapter_spec import AdapterSpec
from ..command_line import check_disk_space
from ..errors import ToolError
from ..layer_names import TE, TE2, UNET
from ..progress import Track
from .checkpoint_changes import TORCH_SUFFIXES, CheckpointFilePlan, assign_adapters, save_checkpoint_file
from .checkpoint_keys import find_weight_locations
from .checkpoint_stream import open_tensor_file
from .diffusers_folders import check_model_folder, check_replaceable, replacing_folder
from .report import ToolReport

NETWORK_SUBFOLDERS = {"unet": UNET, "text_encoder": TE, "text_encoder_2": TE2}
"""Subfolder → the part of the model that its files hold."""


def merge_into_diffusers_folder(
    folder: Path,
    specs: Sequence[AdapterSpec],
    save_to: Path,
    report: ToolReport,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    track: Track,
) -> None:
    """Writes a copy of a diffusers folder with Σ weightᵢ·ΔWᵢ added; see `merge_into_checkpoint`.

    Every weight file of a network is merged (each shard, the fp16 variant, a `.bin` copy), so that none keeps the old
    weights.

    Args:
        folder: the diffusers folder.
        specs: the LoRA files with their weights.
        save_to: the folder to write.
        report: is filled.
        dtype: of all floating-point tensors of the result; None keeps each tensor's own.
        device: where the sums are computed.
        track: shows progress.

    Raises:
        FileError: a file that cannot be read or written.
        ToolError: one of the two folders is not a diffusers model, or as `assign_adapters`.
    """
    check_model_folder(folder)
    if folder.resolve() in save_to.resolve().parents:
        raise ToolError(f"{save_to} is inside {folder}; choose another folder")
    check_replaceable(save_to)
    plans: dict[Path, CheckpointFilePlan] = {}
    for name, part in NETWORK_SUBFOLDERS.items():
        for path in sorted((folder / name).glob("*")):
            if path.suffix in (".safetensors", *TORCH_SUFFIXES) and path.is_file():
                tensor_file = open_tensor_file(path)
                plans[path.relative_to(folder)] = CheckpointFilePlan(
                    tensor_file, find_weight_locations(tensor_file.shapes, part)
                )
    assign_adapters(list(plans.values()), specs, report, str(folder))
    sizes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    check_disk_space(save_to, sizes * (2 if dtype in (torch.float32, torch.float64) else 1))
    touched = {path for path, plan in plans.items() if plan.adapters_by_key or dtype is not None}
    with replacing_folder(save_to) as part_folder:
        skipped = {folder / path for path in touched}
        shutil.copytree(
            folder,
            part_folder,
            dirs_exist_ok=True,
            ignore=lambda where, names: [name for name in names if Path(where) / name in skipped],
        )
        for path in sorted(touched):
            save_checkpoint_file(plans[path], part_folder / path, dtype, device, overwrite=False, track=track)
            plans[path].add_rounding_to(report)

"""LoRAs into a diffusers folder: its networks' files anew, everything else copied; the folder whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..adapter_spec import AdapterSpec
from ..command_line import check_disk_space
from ..errors import FileError, ToolError
from ..file.saving import replace_file
from ..layer_names import TE, TE2, UNET
from ..progress import Track
from .checkpoint_changes import TORCH_SUFFIXES, CheckpointFilePlan, assign_adapters, save_checkpoint_file
from .checkpoint_keys import find_weight_locations
from .checkpoint_stream import open_tensor_file
from .report import ToolReport

NETWORK_SUBFOLDERS = {"unet": UNET, "text_encoder": TE, "text_encoder_2": TE2}
"""Subfolder → the part that its files hold."""


def merge_into_diffusers_folder(
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
    """The folder with Σ weight·ΔW in its networks; see `checkpoint.merge_into`.

    Every weight file of a network is merged (a shard, the fp16 variant, a `.bin` twin), so that none stays behind.
    """
    if not (folder / "model_index.json").is_file():
        raise ToolError(f"{folder} is no diffusers model: it has no model_index.json")
    if folder.resolve() in save_to.resolve().parents:
        raise ToolError(f"{save_to} lies inside {folder}; choose another folder")
    if save_to.exists() and not (save_to / "model_index.json").is_file():
        raise ToolError(f"{save_to} exists and is no diffusers model; choose another folder")
    plans: dict[Path, CheckpointFilePlan] = {}
    for name, part in NETWORK_SUBFOLDERS.items():
        for path in sorted((folder / name).glob("*")):
            if path.suffix in (".safetensors", *TORCH_SUFFIXES) and path.is_file():
                store = open_tensor_file(path)
                plans[path.relative_to(folder)] = CheckpointFilePlan(store, find_weight_locations(store.shapes, part))
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


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, moved onto it when the block ends well and removed when it does not."""
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}-", suffix=".part"))
    old = part.with_suffix(".old")
    try:
        yield part
        part.chmod(0o755)
        if path.exists():
            replace_file(path, old, path)
        replace_file(part, path)
    except FileError as error:  # of one of its files: by the name that it was to have
        raise FileError(str(error).replace(str(part), str(path))) from error
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if old.exists() and not path.exists():
            replace_file(old, path)
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)

"""All that a run needs to go on: saved as a folder, whole or not at all; read back without running code from it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import TrainError
from .recipe import Recipe

NUMBERS, TENSORS = "run.json", "run.pt"
SUFFIX = "-state"
OLD = ".old-"
"""Begins the name of a state that is just being replaced by one of the same name; only a kill leaves it there."""
_HARMLESS = frozenset(
    {"output_dir", "output_name", "resume", "device", "max_train_epochs", "max_train_steps"}
    | {"training_comment", "logging_dir", "log_with", "log_prefix", "log_tracker_name", "strict_images"}
    | {"gradient_checkpointing", "vae_batch_size", "max_data_loader_n_workers", "no_metadata"}
)
"""Knobs that may change between saving and resuming without changing the losses' meaning."""


@dataclass
class State:
    """Where a run stands. epoch and batch count from 0: the batch of that epoch comes next.

    tensors: parameters, optimizer, scheduler, scaler. smoothed: the log's running mean and what is left of its start.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seed: int = 0
    smoothed: tuple[float, float] = (0.0, 1.0)
    kept: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    started: float = 0.0
    tensors: dict[str, Any] = field(default_factory=dict)


def save(state: State, folder: Path) -> Path:
    """Writes the state beside its place and moves it there, so that a kill at any moment leaves the old or the new.

    Raises TrainError when it cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with (part / TENSORS).open("wb") as file:
            torch.save(state.tensors, file)
            file.flush()
            os.fsync(file.fileno())
        numbers = {name: value for name, value in vars(state).items() if name != "tensors"}
        with (part / NUMBERS).open("w", encoding="utf-8") as text:
            json.dump(numbers, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        old = folder.with_name(f"{OLD}{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # torch tells a full disk by a RuntimeError
        shutil.rmtree(part, ignore_errors=True)
        raise TrainError(f"the state {folder} cannot be written: {error}; earlier states are untouched") from error
    return folder


def load(where: Path, name: str | None = None) -> State:
    """The state in a folder, or the newest state among the folders in it (of the run called `name`).

    Raises TrainError: none is there, or it cannot be read.
    """
    folder = find(where, name)
    try:
        numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        tensors = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
        numbers["smoothed"] = tuple(numbers["smoothed"])
        numbers["kept"] = {kind: [tuple(item) for item in items] for kind, items in numbers["kept"].items()}
        return State(**numbers, tensors=tensors)
    except Exception as error:  # whatever a damaged file makes a reader raise
        raise TrainError(f"the state {folder} cannot be read: {str(error).splitlines()[0]}") from error


def find(where: Path, name: str | None = None) -> Path:
    """The folder itself if it is a state, else the state in it that went furthest. Raises TrainError."""
    if (where / NUMBERS).is_file():
        return where
    wanted = re.compile((re.escape(name) if name else ".+") + rf"(-\d+|-step\d+)?{SUFFIX}")
    found: list[tuple[int, float, Path]] = []
    for numbers in where.glob(f"*{SUFFIX}/{NUMBERS}") if where.is_dir() else ():
        if wanted.fullmatch(numbers.parent.name.removeprefix(OLD)):
            try:
                step = int(json.loads(numbers.read_text(encoding="utf-8"))["step"])
            except (OSError, ValueError, KeyError):
                continue
            found.append((step, numbers.stat().st_mtime, numbers.parent))
    if not found:
        raise TrainError(f"--resume {where}: no saved state is there (folders ending in {SUFFIX}, by --save_state)")
    return max(found)[2]


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON holds it."""
    return json.loads(json.dumps(asdict(recipe)))


def differences(state: State, recipe: Recipe) -> list[str]:
    """Knobs that are not what they were when the state was saved, and that change what is learned."""
    now = plain(recipe)
    if state.recipe.get("seed") is None or now["seed"] is None:
        now["seed"] = state.recipe.get("seed")
    return [
        f"{name} was {state.recipe.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if name in state.recipe and state.recipe[name] != value and name not in _HARMLESS
        and not name.startswith(("save_", "sample_", "metadata_", "cache_"))
    ]  # fmt: skip

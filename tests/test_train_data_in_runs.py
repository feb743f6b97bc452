"""Data in real runs: caches change nothing but the time."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from tiny_trainee import pictures, recipe, trainee

from lora_ext.training.start import Quiet, train


def losses(out: Path) -> list[float]:
    with (out / "last.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_caches_on_disk_change_no_loss(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", 4)
    torch.set_num_threads(1)
    found = []
    for name, cached in (("plain", False), ("first", True), ("second", True)):
        words = {"cache_latents_to_disk": cached, "cache_text_encoder_outputs_to_disk": cached}
        made = recipe(data, tmp_path / name, network_train_unet_only=True, max_train_epochs=1, **words)
        train(made, model=trainee(), shell=Quiet())
        found.append(losses(tmp_path / name))
    kept = list((data / ".lora_ext_cache").iterdir())
    assert len(kept) >= 4 + 1 and all(path.suffix == ".safetensors" for path in kept)
    assert len(found[0]) == 4 and found[1] == found[2]
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4)

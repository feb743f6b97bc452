"""Memory and disks that are full, folders that go: a sentence that helps, and nothing lost that was saved."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_run import losses, one_thread  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.inject.free_memory import is_out_of_memory
from lora_ext.train.config.recipe import Recipe
from lora_ext.training.standalone_run import SilentHost, train


class Full(StandaloneTrainableModel):
    """Its device has no memory left at the fifth step."""

    calls = 0

    def predict(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        Full.calls += 1
        if Full.calls == 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")
        return super().predict(*args, **kwargs)


@pytest.mark.long
def test_full_memory_says_what_to_turn_on(tmp_path: Path) -> None:
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", save_every_n_steps=3, save_state=True)
    host = tiny_model()
    Full.calls = 0
    with pytest.raises(TrainError) as error:
        train(made, model=Full(host.model))
    assert str(error.value) == (
        "not enough memory on cpu (CUDA out of memory. Tried to allocate 2.00 GiB.); in this order, try: "
        "cache_latents, mixed_precision bf16 (or fp16), gradient_checkpointing, "
        "train_batch_size 1 with gradient_accumulation_steps, "
        "network_train_unet_only with cache_text_encoder_outputs, optimizer_type AdamW8bit, a smaller resolution"
    )
    assert not any(module._forward_hooks for module in host.model.unet.modules())
    _goes_on(made, tmp_path)


def test_this_machines_memory_is_known_to_be_full() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    assert is_out_of_memory(error.value) and not is_out_of_memory(RuntimeError("sizes do not match"))


def _goes_on(made: Recipe, folder: Path) -> None:
    """From what was saved, with the very same losses."""
    again = recipe(folder / "data", folder / "out", save_every_n_steps=3, save_state=True, resume=str(folder / "out"))
    assert train(again, model=tiny_model()).steps == 8
    train(recipe(folder / "data", folder / "whole"), model=tiny_model())
    assert losses(folder / "out") == losses(folder / "whole")


@pytest.mark.long
def test_a_full_disk_loses_nothing_that_was_saved(tmp_path: Path, monkeypatch: Any) -> None:
    """The disk is full when the second file is written."""
    out, real = tmp_path / "out", os.fsync

    def full(handle: int) -> None:
        if (out / "last-step00000003-state").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    made = recipe(pictures(tmp_path / "data"), out, save_every_n_steps=3, save_state=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TrainError, match=r"No space left on device.*--resume continues from the last saved state"):
            train(made, model=tiny_model())
    assert sorted(path.name for path in out.iterdir()) == [
        "last-step00000003-state", "last-step00000003.safetensors", "last.csv",
    ]  # fmt: skip
    _goes_on(made, tmp_path)


def test_a_full_disk_of_the_log_is_reported_too(tmp_path: Path, monkeypatch: Any) -> None:
    class Full:
        def log(self, row: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "events.out")

        def close(self) -> None:
            pass

    monkeypatch.setattr("lora_ext.train.run.setup.open_tracker", lambda *_: Full())
    with pytest.raises(TrainError, match=r"events\.out: No space left on device; what was saved before"):
        train(recipe(pictures(tmp_path / "data"), tmp_path / "out"), model=tiny_model())


class Takes(SilentHost):
    """Removes a folder, once, when training has begun."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, False

    def progress(self, done: int, total: int, text: str) -> None:
        if text.startswith("epoch") and not self.done:
            shutil.rmtree(self.folder)
            self.done = True


def test_a_folder_that_goes_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("lora_ext.train.data.cropped_images.IMAGE_CACHE_BYTES", 0)
    data = pictures(tmp_path / "data", 6)
    made = recipe(data, tmp_path / "out", max_data_loader_n_workers=0)
    with pytest.raises(TrainError, match=r"2_thing.\d\.png cannot be read: .*No such file"):
        train(made, model=tiny_model(), host=Takes(data))


@pytest.mark.long
def test_results_find_their_folder_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = train(recipe(pictures(tmp_path / "data"), out), model=tiny_model(), host=Takes(out))
    assert outcome.file is not None and outcome.file.is_file()

"""Training in half precision with scaled gradients: a step that overflows changes nothing; the scale is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_run import losses, one_thread  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run import training_state
from lora_ext.train.run.process_group import ProcessGroup
from lora_ext.train.run.training_step import TrainingStepper
from lora_ext.training.standalone_run import train

pytestmark = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="torch before 2.3 scales on CUDA only")


@pytest.mark.long
@pytest.mark.parametrize("network", ["lierla", "dylora"])
def test_a_step_that_overflows_changes_nothing_but_the_scale(network: str, tmp_path: Path) -> None:
    """Parameters, moments and schedule stay; the next steps, at half the scale, go on as usual."""
    host = tiny_model()
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", mixed_precision="fp16", lr_scheduler="cosine",
                  network_module=network, unit=2)  # fmt: skip
    batches = list(Dataset.from_recipe(made, 5).epoch_batches(0))
    with host.prepared_for_training(TrainingModelOptions("fp16")), TrainableNetwork(host.parts(), made) as net:
        stepper = TrainingStepper(host, net, made, ProcessGroup(), 20)
        assert stepper.scaler is not None
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**36)

        def step(place: int) -> float:
            stepper.backward(batches[place % len(batches)], 1, 0, place)
            return float(stepper.optimizer_step()[1])

        before, rate = [p.detach().clone() for p in stepper.parameters], stepper.learning_rates["unet"]
        assert not step(0) < float("inf")
        assert all(torch.equal(p, old) for p, old in zip(stepper.parameters, before, strict=True))
        assert (
            not stepper.optimizer.state and stepper.learning_rates["unet"] == rate and stepper.scheduler.last_epoch == 0
        )
        assert stepper.scaler.get_scale() == 2.0**35
        place = 0
        while stepper.scheduler.last_epoch == 0 and place < 35:
            place += 1
            norm = step(place)
        assert norm < float("inf") and stepper.learning_rates["unet"] < rate
        assert any(not torch.equal(p, old) for p, old in zip(stepper.parameters, before, strict=True))
        assert all(bool(p.isfinite().all()) for p in stepper.parameters)


@pytest.mark.long
def test_a_run_in_half_precision_continues_with_the_same_scale(tmp_path: Path, monkeypatch: Any) -> None:
    """Also where the first steps overflow, and the scale grows on the way."""
    real = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda d: real(d, init_scale=2.0**24, growth_interval=2))
    data = pictures(tmp_path / "data")
    more: dict[str, Any] = {"mixed_precision": "fp16", "lr_scheduler": "linear", "save_state": True}
    train(recipe(data, tmp_path / "whole", **more), model=tiny_model())
    train(recipe(data, tmp_path / "cut", save_every_n_steps=5, **more), model=tiny_model())
    saved = training_state.load_training_state(tmp_path / "cut" / "last-step00000005-state")
    scale, done = saved.tensors["scaler"]["scale"], saved.tensors["scheduler"]["last_epoch"]
    assert saved.step == 5 and 0 < done < 5 and scale != 2.0**24, "some of the first steps overflowed"
    again = recipe(data, tmp_path / "cut", resume=str(tmp_path / "cut" / "last-step00000005-state"), **more)
    assert train(again, model=tiny_model()).steps == 8
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    first, second = (
        training_state.load_training_state(tmp_path / name / "last-state").tensors for name in ("whole", "cut")
    )
    assert first["scaler"] == second["scaler"] and first["scheduler"]["last_epoch"] == second["scheduler"]["last_epoch"]

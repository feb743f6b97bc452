"""The training loop: what is trained is what is applied; going on after a kill, an interrupt; several processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import LoggerType
from PIL import Image
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.api import apply, merge
from lora_ext.errors import TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import settings_from_recipe
from lora_ext.train.run import training_state
from lora_ext.train.run.process_group import ProcessGroup
from lora_ext.train.run.setup import open_tracker
from lora_ext.training.standalone_run import SilentHost, train

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """The same sums in the same order everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "last.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def losses(out: Path) -> list[tuple[str, str, str]]:
    return [(row["step"], row["epoch"], row["loss"]) for row in rows(out)]


def worker(made: Recipe, env: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[bytes]:
    """A process that trains by the recipe."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    given = json.dumps({**settings_from_recipe(made), **more})
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.Popen([sys.executable, str(HERE / "tiny_trainable_model.py"), given], env=environment)


def weights(file: Path) -> dict[Any, torch.Tensor]:
    return {layer_id: adapter.low_rank().delta() for layer_id, adapter in load_lora_file(file).adapters.items()}


def test_a_run_writes_its_file_its_table_and_says_what_it_was(tmp_path: Path) -> None:
    data, out = pictures(tmp_path / "data"), tmp_path / "out"
    seen = []
    outcome = train(recipe(data, out), model=tiny_model(), on_progress=seen.append)
    assert outcome.steps == 8 and outcome.file == out / "last.safetensors"
    table = rows(out)
    assert [int(row["step"]) for row in table] == list(range(1, 9))
    assert [int(row["epoch"]) for row in table] == [1] * 4 + [2] * 4
    assert seen[-1].step == seen[-1].steps == 8 and seen[-1].file == outcome.file
    metadata = load_lora_file(outcome.file).metadata
    assert metadata["ss_seed"] == "5" and metadata["ss_steps"] == "8" and metadata["ss_epoch"] == "2"
    assert metadata["ss_output_name"] == "last" and metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert len(metadata["sshs_model_hash"]) == 64


@pytest.mark.long
def test_the_model_is_as_it_was(tmp_path: Path) -> None:
    host = tiny_model()
    networks = (host.model.unet, host.model.vae, host.model.text_encoders[0].module)
    host.model.unet.requires_grad_(True)
    host.model.unet.train()

    def all_of() -> list[Any]:
        return [
            [(id(p), p.data_ptr(), p.dtype, p.requires_grad, p.grad, p.clone()) for p in n.parameters()]
            + [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in n.modules()]
            for n in networks
        ]

    before = all_of()
    data = pictures(tmp_path / "data")
    more: dict[str, Any] = {"gradient_checkpointing": True, "mixed_precision": "bf16"}
    train(recipe(data, tmp_path / "out", max_train_epochs=None, max_train_steps=2, **more), model=host)
    with pytest.raises(TrainError, match="broken"):
        train(recipe(data, tmp_path / "out", max_train_steps=2, **more), model=host, on_progress=_fails)
    for now, then in zip(all_of(), before, strict=True):
        for a, b in zip(now, then, strict=True):
            assert a[:5] == b[:5]
            assert len(a) < 6 or torch.equal(a[5], b[5])


def _fails(_: object) -> None:
    raise TrainError("broken")


@pytest.mark.long
@pytest.mark.parametrize("network", ["lierla", "c3lier", "dylora"])
def test_what_is_trained_is_what_is_applied(network: str, tmp_path: Path) -> None:
    """In memory at the end = saved, applied live = baked = merged."""
    host = tiny_model()
    data = pictures(tmp_path / "data")
    seen: dict[str, torch.Tensor] = {}

    def noise(model: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 4, 8, 8, generator=generator)
        with torch.no_grad():
            return model.predict(x, torch.tensor([10, 700]), model.encode_text(["a thing", "number"]))

    plain = noise(host)

    class Looking(type(host)):  # type: ignore[misc]
        def generate_image(self, spec: Any) -> Any:
            seen["memory"] = noise(self)
            return Image.new("RGB", (8, 8))

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a thing", encoding="utf-8")
    more = {"conv_dim": 4, "conv_alpha": 4} if network == "c3lier" else {"unit": 2} if network == "dylora" else {}
    made = recipe(
        data, tmp_path / "out", network_module=network, sample_prompts=str(prompts), sample_every_n_epochs=2, **more
    )
    outcome = train(made, model=Looking(host.model))
    assert (seen["memory"] - plain).abs().max() > 1e-2
    pipe = type("Pipe", (), {"unet": host.model.unet, "text_encoder": host.model.text_encoders[0].module})()
    for mode in ("live", "baked"):
        with apply(pipe, outcome.file, mode=mode):
            torch.testing.assert_close(noise(host), seen["memory"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noise(host), plain, rtol=0, atol=0)
    merge(pipe, outcome.file)
    torch.testing.assert_close(noise(host), seen["memory"], rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_after_kill_9_the_losses_continue_the_same(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    more = {"network_module": "dylora", "unit": 2, "save_state": True, "save_every_n_steps": 3, "shuffle_caption": True}
    whole = recipe(data, tmp_path / "whole", rank_dropout=0.1, lr_scheduler="cosine", flip_aug=True, **more)
    train(whole, model=tiny_model())
    cut = recipe(data, tmp_path / "cut", rank_dropout=0.1, lr_scheduler="cosine", flip_aug=True, **more)
    process = worker(cut, slow=True)
    table = tmp_path / "cut" / "last.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (table.is_file() and len(table.read_text().splitlines()) > 5):
        time.sleep(0.05)
        assert process.poll() is None, "the worker ended by itself"
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert 5 <= len(losses(tmp_path / "cut")) < 8
    outcome = train(recipe(data, tmp_path / "cut", rank_dropout=0.1, lr_scheduler="cosine", flip_aug=True,
                           resume=str(tmp_path / "cut"), **more), model=tiny_model())  # fmt: skip
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    first, second = weights(tmp_path / "whole" / "last.safetensors"), weights(outcome.file)
    assert all(torch.equal(first[layer_id], second[layer_id]) for layer_id in first)


class Stops(SilentHost):
    """Asks to stop once so many steps are done."""

    def __init__(self, after: int) -> None:
        self.after, self.done, self.said = after, 0, ""

    def progress(self, done: int, total: int, text: str) -> None:
        self.done = done if text.startswith("epoch") else 0

    def cancelled(self) -> bool:
        return self.done >= self.after

    def notify(self, text: str) -> None:
        self.said = text


@pytest.mark.long
def test_an_interrupt_saves_first_and_can_be_resumed(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    shell = Stops(5)
    outcome = train(recipe(data, tmp_path / "out"), model=tiny_model(), host=shell)
    assert outcome.stopped and outcome.steps == 5
    assert (tmp_path / "out" / "last-step00000005.safetensors").is_file() and "--resume" in shell.said
    assert training_state.find_training_state(tmp_path / "out", "last") == outcome.state
    assert train(recipe(data, tmp_path / "out", resume=str(outcome.state)), model=tiny_model()).steps == 8
    train(recipe(data, tmp_path / "whole"), model=tiny_model())
    assert losses(tmp_path / "out") == losses(tmp_path / "whole")


@pytest.mark.long
def test_two_processes_with_half_the_batch_learn_the_same(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", 7)  # 14 turns: the last batch of an epoch is not full
    more = {"max_train_epochs": None, "max_train_steps": 5, "network_module": "dylora", "unit": 2}
    train(recipe(data, tmp_path / "one", train_batch_size=4, **more), model=tiny_model())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    both = [
        worker(recipe(data, tmp_path / "two", **more), {**shared, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in (0, 1)
    ]
    assert [process.wait(timeout=180) for process in both] == [0, 0]
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 5
    for a, b in zip(one, two, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-3)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """Two batches of 1 make the step of one batch of 2."""
    data = pictures(tmp_path / "data", 1)
    more = {"train_batch_size": 1, "gradient_accumulation_steps": 2}
    train(recipe(data, tmp_path / "one"), model=tiny_model())
    train(recipe(data, tmp_path / "two", **more), model=tiny_model())
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4)
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-3)


@pytest.mark.long
def test_only_the_last_files_stay(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    out = tmp_path / "out"
    more = {"save_every_n_epochs": 1, "save_last_n_epochs": 2, "save_state": True}
    outcome = train(recipe(data, out, max_train_epochs=4, **more), model=tiny_model())
    kept = sorted(path.name for path in out.glob("*.safetensors"))
    assert kept == ["last-000002.safetensors", "last-000003.safetensors", "last.safetensors"]
    assert sorted(path.name for path in out.glob("*-state")) == ["last-000002-state", "last-000003-state", "last-state"]
    assert [path.name for path in outcome.files] == kept


@pytest.mark.long
def test_the_files_of_the_last_steps_stay_as_kohyas_do(tmp_path: Path) -> None:
    """A file may be as many steps old as asked for; states have a number of their own."""
    more = {"save_every_n_steps": 2, "save_last_n_steps": 4, "save_last_n_steps_state": 1, "save_state": True}
    train(recipe(pictures(tmp_path / "data"), tmp_path / "out", max_train_epochs=3, **more), model=tiny_model())
    found = sorted(path.name for path in (tmp_path / "out").iterdir() if "step" in path.name)
    kept = [f"last-step{step:08}.safetensors" for step in (6, 8, 10)]
    assert found == sorted([*kept, "last-step00000010-state"])


def test_a_loss_that_is_no_number_stops_the_run_and_says_since_when(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")

    class Breaks(StandaloneTrainableModel):
        calls = 0

        def predict(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            Breaks.calls += 1
            return super().predict(*args, **kwargs) * (float("nan") if Breaks.calls > 4 else 1)

    made = recipe(data, tmp_path / "out", save_every_n_steps=2, save_state=True)
    with pytest.raises(TrainError, match=r"became nan at step 5 \(epoch 2\); .*last-step00000004-state.* than 0.01"):
        train(made, model=Breaks(tiny_model().model))
    assert all(
        adapter.tensors
        for adapter in load_lora_file(tmp_path / "out" / "last-step00000004.safetensors").adapters.values()
    )
    assert not (tmp_path / "out" / "last.safetensors").exists()


def test_a_gradient_that_is_no_number_spoils_no_file(tmp_path: Path) -> None:
    class Breaks(StandaloneTrainableModel):
        calls = 0

        def predict(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            Breaks.calls += 1
            out = super().predict(*args, **kwargs)
            if Breaks.calls == 4:
                out.register_hook(lambda grad: grad * float("nan"))
            return out

    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", save_every_n_steps=2, save_state=True)
    with pytest.raises(TrainError, match=r"the gradient became nan at step 4 .*last-step00000002-state"):
        train(made, model=Breaks(tiny_model().model))
    assert not (tmp_path / "out" / "last-step00000004.safetensors").exists()


def test_resuming_from_nothing_is_reported(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    with pytest.raises(TrainError, match="no saved state"):
        train(recipe(data, tmp_path / "out", resume=str(tmp_path)), model=tiny_model())


@pytest.mark.long
@pytest.mark.parametrize("goes_on", [False, True])
def test_pivotal_tuning_learns_a_word_that_travels_in_the_file(goes_on: bool, tmp_path: Path) -> None:
    host = tiny_model()
    data = pictures(tmp_path / "data")
    more: dict[str, Any] = {"token_string": "sks", "init_word": "thing", "inversion_steps": 3, "inversion_lr": 0.1}
    more |= {"num_vectors_per_token": 2, "inversion_continue": goes_on, "save_state": True, "save_every_n_steps": 5}
    outcome = train(recipe(data, tmp_path / "out", **more), model=host)
    file = load_lora_file(outcome.file)
    (vectors,) = file.embeddings["sks"].values()
    begun = host.token_embeddings("thing", 2)[0]
    assert vectors.shape == (2, 16) and (vectors - begun).abs().max() > 0.02
    assert not host.added_embeddings, "the word is there for the run only"
    assert json.loads(file.metadata["ss_tag_frequency"])["2_thing"]["a sks number 0"] == 1
    plain = host.encode_text(["a sks"]).states
    with host.with_token_embedding("sks", [vectors]):
        assert not torch.equal(host.encode_text(["a sks"]).states, plain)
    again = train(recipe(data, tmp_path / "out", resume=str(tmp_path / "out" / "last-step00000005-state"), **more),
                  model=tiny_model())  # fmt: skip
    assert torch.equal(next(iter(load_lora_file(again.file).embeddings["sks"].values())), vectors)
    assert [row["step"] for row in rows(tmp_path / "out")] == [str(n) for n in range(1, 9)]


def test_tensorboard_gets_what_the_table_has(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", log_with="tensorboard", log_prefix="mine-",
                  log_tracker_name="disc", logging_dir=str(tmp_path / "logs"))  # fmt: skip
    train(made, model=tiny_model())
    (folder,) = (tmp_path / "logs").glob("mine-*/disc")
    seen = reading.EventAccumulator(str(folder)).Reload()
    table = rows(tmp_path / "out")
    for name, column in (("loss/current", "loss"), ("lr/unet", "lr_unet"), ("norm/grad", "grad_norm")):
        logged = {event.step: event.value for event in seen.Scalars(name)}
        assert logged == pytest.approx({int(row["step"]): float(row[column]) for row in table})


def test_a_tracker_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", logging_dir=str(tmp_path / "logs"))
    with pytest.raises(TrainError, match="pip install tensorboard"):
        train(made, model=tiny_model())
    assert not (tmp_path / "out" / "last.safetensors").exists()


def test_of_all_trackers_those_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("tensorboard")
    only = [LoggerType.TENSORBOARD]
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: only)
    said: list[str] = []
    tracker = open_tracker(
        Recipe(log_with="all", logging_dir=str(tmp_path)), tmp_path, 0.0, said.append, ProcessGroup()
    )
    assert tracker is not None and len(tracker.trackers) == 1
    tracker.close()
    assert said == ["log_with all: wandb is not installed and logs nothing (pip install wandb)"]


@pytest.mark.long
def test_regularisation_pictures_that_are_missing_are_drawn_and_used(tmp_path: Path, monkeypatch: Any) -> None:
    """By the model as it is before it learns; a second run finds them."""
    monkeypatch.setattr("lora_ext.train.run.regularisation_images.REGULARISATION_STEPS", 2)
    data = pictures(tmp_path / "data", 2)
    folder = tmp_path / "reg" / "1_thing"
    folder.mkdir(parents=True)
    made = recipe(data, tmp_path / "out", reg_data_dir=str(tmp_path / "reg"), reg_generate=True, prior_loss_weight=0.5)
    outcome = train(made, model=tiny_model())
    drawn = sorted(folder.iterdir())
    assert [path.name for path in drawn] == [f"drawn-{n:04}.png" for n in range(1, 5)]
    assert len({path.read_bytes() for path in drawn}) == 4 and Image.open(drawn[0]).size == (64, 64)
    metadata = load_lora_file(outcome.file).metadata
    assert metadata["ss_num_reg_images"] == metadata["ss_num_train_images"] == "4" and outcome.steps == 8
    times = [path.stat().st_mtime_ns for path in drawn]
    first = losses(tmp_path / "out")
    train(made, model=tiny_model())
    assert [path.stat().st_mtime_ns for path in drawn] == times and losses(tmp_path / "out") == first

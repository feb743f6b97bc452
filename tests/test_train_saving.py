"""What results are saved as and where they are sent: `save_model_as`, `push_to_hub`; `--debug_dataset`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch
from tiny_trainable_model import RecordingHost, pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.file import name_claims
from lora_ext.file.loading import load_lora_file
from lora_ext.file.saving import save_lora_file
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.run.setup import build_network, fit_to_network_weights
from lora_ext.training.run_name import claimed_name, with_unused_name
from lora_ext.training.standalone_run import train
from lora_ext.training.train_command import main

SHORT: dict[str, Any] = {"max_train_epochs": None, "max_train_steps": 2, "network_include": ("*mid_block*to_q",)}


class Hub:
    """A stand-in for huggingface_hub's client. Attribute calls: what it was asked."""

    calls: ClassVar[list[tuple[Any, ...]]]
    error: ClassVar[Exception | None]

    def create_repo(self, name: str, **more: Any) -> SimpleNamespace:
        self.calls.append(("create", name, more))
        if self.error is not None:
            raise self.error
        return SimpleNamespace(repo_id=name if "/" in name else f"me/{name}")

    def upload_file(self, *, path_or_fileobj: Path, path_in_repo: str, repo_id: str) -> None:
        self.calls.append(("upload", path_or_fileobj.read_bytes()[:8], path_in_repo, repo_id))


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    Hub.calls, Hub.error = [], None
    yield Hub


def run(tmp_path: Path, **more: Any) -> tuple[Path, list[str]]:
    """The finished file of two steps, and what was said."""
    folder, host = tmp_path / "data", RecordingHost()
    made = recipe(folder if folder.exists() else pictures(folder), tmp_path / "out", **SHORT, **more)
    file = train(made, model=tiny_model(), host=host).file
    assert file is not None
    return file, host.said


@pytest.mark.long
def test_ckpt_and_pt_have_the_tensors_of_safetensors(tmp_path: Path, hub: type[Hub]) -> None:
    wanted = load_lora_file(run(tmp_path)[0])
    for suffix in ("ckpt", "pt"):
        path, _ = run(tmp_path, save_model_as=suffix, save_every_n_steps=1)
        assert path.name == f"last.{suffix}" and path.with_name(f"last-step00000001.{suffix}").is_file()
        stored = torch.load(path, weights_only=True)
        found = load_lora_file(path)
        assert len(stored) == sum(len(adapter.tensors) for adapter in wanted.adapters.values()) > 0
        for layer_id, adapter in wanted.adapters.items():
            for name, tensor in adapter.tensors.items():
                assert torch.equal(found.adapters[layer_id].tensors[name], tensor)
    assert not hub.calls  # nothing is sent that was not asked for


@pytest.mark.long
def test_the_finished_file_is_sent_when_asked(tmp_path: Path, hub: type[Hub]) -> None:
    path, said = run(tmp_path, push_to_hub=True, save_every_n_steps=1)
    head = path.read_bytes()[:8]
    assert hub.calls == [
        ("create", "last", {"private": True, "exist_ok": True}), ("upload", head, "last.safetensors", "me/last")
    ]  # fmt: skip
    assert "sent last.safetensors to https://huggingface.co/me/last" in said
    assert "secret" not in str(load_lora_file(path).metadata)
    hub.error = OSError("no network\nmore")
    path, said = run(tmp_path, push_to_hub=True, hub_model_id="us/x")
    told = [sentence for sentence in said if "push_to_hub" in sentence]
    assert told == [f"push_to_hub: last.safetensors was not sent to us/x (no network); it is in {path.parent}"]
    assert path.is_file()


def test_a_run_that_could_not_send_its_file_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(TrainError, match=r"nobody is logged in to huggingface\.co; run 'hf auth login'"):
        run(tmp_path, push_to_hub=True)
    assert not (tmp_path / "out").exists()


def test_words_of_kohya_and_diffusers() -> None:
    made = recipe_from_settings({"huggingface_repo_id": "me/lora", "huggingface_repo_type": "model"})
    assert made.push_to_hub and made.hub_model_id == "me/lora"
    assert not recipe_from_settings({"huggingface_repo_id": ""}).push_to_hub


def test_an_existing_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_from_settings({"output_dir": str(tmp_path), "output_name": "x"})
    assert with_unused_name(recipe) == recipe
    for name in ("x", "x-2"):
        (tmp_path / f"{name}.safetensors").touch()
    assert with_unused_name(recipe).output_name == "x-3" and "x.safetensors exists" in capsys.readouterr().err
    assert with_unused_name(replace(recipe, save_model_as="pt")).output_name == "x"
    with claimed_name(replace(recipe, resume="state")) as resumed:
        assert resumed.output_name == "x"
    (tmp_path / "y-000002.safetensors").touch()  # of a run that was killed
    assert with_unused_name(replace(recipe, output_name="y")).output_name == "y-2"


def test_two_runs_at_once_write_no_file_of_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_from_settings({"output_dir": str(tmp_path / "out"), "output_name": "x"})
    with claimed_name(recipe) as first, claimed_name(recipe) as second:
        assert (first.output_name, second.output_name) == ("x", "x-2")
        assert "another run is writing" in capsys.readouterr().err
        with pytest.raises(TrainError, match="is at work"), claimed_name(replace(recipe, resume="state")):
            pass
    with claimed_name(recipe) as third:
        assert third.output_name == "x"
    assert not (tmp_path / "out").exists()


def test_a_claim_of_another_machine_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was refused for good, also that of a killed container, since a new container has another name."""
    recipe = recipe_from_settings({"output_dir": str(tmp_path), "output_name": "x", "resume": "state"})
    claim = tmp_path / ".x.claim"
    claim.write_text('{"host": "another", "pid": 1}')
    monkeypatch.setattr(name_claims, "RECHECK_SECONDS", 0.01)
    threading.Timer(0.1, os.utime, (claim, (1, 1))).start()
    with pytest.raises(TrainError, match="is at work"), claimed_name(recipe):
        pass
    monkeypatch.setattr(name_claims, "LOST_SECONDS", 0.1)
    with claimed_name(recipe) as resumed:
        assert resumed.output_name == "x" and "looking whether it is at work" in capsys.readouterr().err


def test_a_name_must_leave_room_for_those_of_states() -> None:
    assert recipe_from_settings({"output_name": "é" * 110}).output_name
    with pytest.raises(TrainError, match="output_name has 240 bytes, too many for a file's name; use at most 222"):
        recipe_from_settings({"output_name": "é" * 120})


def test_weights_of_a_c3lier_choose_c3lier(tmp_path: Path) -> None:
    model = tiny_model()
    made = recipe_from_settings(
        {"network_module": "c3lier", "network_dim": 3, "conv_dim": 2, "network_include": "*mid*"}
    )
    save_lora_file(TrainableNetwork({"unet": model.parts()["unet"]}, made).to_lora_file(), tmp_path / "a.safetensors")
    said: list[str] = []
    plain = recipe_from_settings({"network_weights": str(tmp_path / "a.safetensors"), "dim_from_weights": True})
    found = fit_to_network_weights(plain, said.append)
    assert (found.network_module, found.conv_dim) == ("c3lier", 2) and "a has" in said[0]
    assert fit_to_network_weights(replace(plain, dim_from_weights=False), said.append).network_module == "lierla"
    network = build_network({"unet": model.parts()["unet"]}, replace(found, seed=1), said.append)
    assert not network.untrained_layers and len(said) == 1


def test_a_dataset_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "data", 2)
    assert main(["--train_data_dir", str(folder), "--resolution", "64", "--debug_dataset"]) == 0
    shown = capsys.readouterr().out
    assert f"{folder / '2_thing' / '1.png'}: 64x64 in 64x64, 2 times: 'a thing number 1'" in shown
    assert "2 pictures" in shown
    assert sorted(tmp_path.iterdir()) == [folder]  # nothing is written

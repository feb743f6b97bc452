"""Training where a model manager holds the web UI's model (Forge and its relatives): on a copy of the checkpoint."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stand_in_webui import StandIn
from test_a1111_training import settings, shapes  # noqa: F401  (a fixture of the module)

from lora_ext import embedded
from lora_ext.file.loading import load_lora_file

SHORT: dict[str, Any] = {
    "train_data_dir": "shapes", "resolution": "64", "min_bucket_reso": 64, "max_train_steps": 3, "network_dim": 2,
    "learning_rate": 0.01, "max_data_loader_n_workers": 0,
}  # fmt: skip


class Manager(SimpleNamespace):
    """Forge's `backend.memory_management`, as far as it is asked here."""

    def __init__(self) -> None:
        super().__init__(told=[])

    def unload_all_models(self) -> None:
        self.told.append("unload")

    def soft_empty_cache(self) -> None:
        self.told.append("empty")


@pytest.fixture(autouse=True)
def manager(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A web UI with a model manager, in which the embedded model is chosen; images stay bit-equal."""
    from modules import sd_models

    before, plain, tagged = settings(), webui.make("a cat"), webui.make("a cat <lora:one:1>")
    find, made = importlib.util.find_spec, Manager()
    monkeypatch.setattr(webui.module("models"), "find_spec", lambda name: name == "modules_forge" or find(name))
    monkeypatch.setitem(sys.modules, "backend.memory_management", made)
    choose(monkeypatch, embedded.CHECKPOINT)
    yield made
    monkeypatch.undo()
    assert settings() == before and sd_models.model_data.sd_model is not None
    assert (webui.make("a cat <lora:one:1>").pixels == tagged.pixels).all()
    assert (webui.make("a cat").pixels == plain.pixels).all()


def choose(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Chooses a checkpoint at the top of the page."""
    from modules import sd_models

    monkeypatch.setattr(sd_models, "select_checkpoint", lambda: SimpleNamespace(filename=str(path)))


def train(webui: StandIn, name: str, prompts: str = "", **changes: Any) -> dict[str, Any]:
    return webui.job("/train", {"settings": {**SHORT, "output_name": name, **changes}, "prompts": prompts})


@pytest.mark.long
def test_a_run_on_the_chosen_checkpoint(webui: StandIn, manager: Manager) -> None:
    from modules import shared

    job = train(webui, "copied", "a cat --w 64 --h 64 --s 2 --d 1", sample_every_n_steps=3)
    assert job["state"] == "done" and job["result"]["steps"] == 3, job
    assert manager.told == ["unload", "empty"]
    file = load_lora_file(webui.data / "models" / "Lora" / "copied.safetensors")
    assert file.adapters and file.metadata["ss_sd_model_name"] == embedded.CHECKPOINT.name
    (sample,) = job["live"]["samples"]
    with Image.open(webui.data / "lora_ext" / "outputs" / sample) as image:
        assert np.asarray(image).shape == (64, 64, 3)
    assert shared.state.current_image.size == (64, 64), "shown as the live preview"


def test_the_preflight_report(webui: StandIn, manager: Manager) -> None:
    job = webui.job("/train/preflight", {"settings": {**SHORT, "output_name": "looked"}, "prompts": ""})
    assert job["state"] == "done" and job["result"]["report"]["steps"] == 3, job


@pytest.mark.long
def test_interrupt_stops_and_the_run_is_resumed(webui: StandIn) -> None:
    from modules import shared

    asked = {**SHORT, "output_name": "halted", "max_train_steps": 4000}
    job = webui.call("/train", {"settings": asked, "prompts": ""})
    while not webui.call(f"/jobs/{job['id']}")["live"].get("rows"):
        pass
    shared.state.interrupt()
    ended = webui.ended(job)["result"]
    assert ended["stopped"] and 0 < ended["steps"] < 4000
    more = train(webui, "halted", resume=ended["state"], max_train_steps=ended["steps"] + 2)
    assert more["state"] == "done" and more["result"]["steps"] == ended["steps"] + 2, more


@pytest.mark.parametrize("kind", ["FLUX", "nothing", "package"])
def test_what_cannot_be_trained_is_said(
    webui: StandIn, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import sd_models

    save_file({"double_blocks.0.img_attn.proj.weight": torch.zeros(2, 2)}, tmp_path / "flux1-dev.safetensors")
    if kind == "FLUX":
        choose(monkeypatch, tmp_path / "flux1-dev.safetensors")
    elif kind == "nothing":
        monkeypatch.setattr(sd_models, "select_checkpoint", lambda: None)
    else:
        missing = ModuleNotFoundError("No module named 'diffusers'", name="diffusers")
        monkeypatch.setattr(webui.module("standalone_training"), "load_model", lambda *_, **__: raised(missing))
    expected = {
        "FLUX": "it is a FLUX model. SD1.x, SD2.x and SDXL",
        "nothing": "choose a checkpoint",
        "package": "needs the package diffusers",
    }
    job = train(webui, "refused")
    assert job["state"] == "failed" and expected[kind] in job["error"], job


def raised(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "folder", ["backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer", "ldm_patched/modules/sd1_tokenizer"]
)
def test_the_tokenizer_that_the_web_ui_ships(
    webui: StandIn, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import paths

    module = webui.module("standalone_training")
    monkeypatch.setattr(paths, "script_path", str(tmp_path))
    assert module.shipped_tokenizer() is None
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "vocab.json").write_text("{}")
    assert module.shipped_tokenizer() == tmp_path / folder

"""Options that say where a run begins and what it is made of: first epoch and step, captions' emphasis, autoencoder."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_trainable_model import RecordingHost, pictures, recipe, tiny_model

from lora_ext.errors import FileError, TrainError
from lora_ext.file.folder_listing import load_metadata_quickly
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.train.run.caption_encoder import CaptionEncoder
from lora_ext.train.run.model_spec import thumbnail_data_url
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.training.standalone_run import SilentHost


def rows(folder: Path, model: StandaloneTrainableModel | None = None, **more: Any) -> list[tuple[int, int, float]]:
    """(step, epoch, loss) of a run of 8 steps in 2 epochs that learns nothing, so each loss is its batch's alone."""
    data = folder.parent / "data"
    if not data.is_dir():
        pictures(data)
    host = RecordingHost()
    run = TrainingRun(model or tiny_model(), recipe(data, folder, **{"learning_rate": 1e-12, **more}), host)
    run.run()
    with (folder / "last.csv").open(encoding="utf-8") as file:
        return [(int(row["step"]), int(row["epoch"]), round(float(row["loss"]), 5)) for row in csv.DictReader(file)]


@pytest.mark.long
def test_a_run_begins_at_an_epoch_or_at_exactly_a_step(tmp_path: Path) -> None:
    whole = rows(tmp_path / "whole")
    assert [row[:2] for row in whole] == [(step, 1 + (step > 4)) for step in range(1, 9)]
    second = [(step - 4, epoch, loss) for step, epoch, loss in whole[4:]]
    assert rows(tmp_path / "epoch", initial_epoch=2) == second
    assert rows(tmp_path / "step", initial_step=6) == second  # kohya: the epoch of that step, counted from 0
    assert rows(tmp_path / "skip", initial_step=6, skip_until_initial_step=True) == whole[6:]
    assert rows(tmp_path / "both", initial_epoch=1, initial_step=6, skip_until_initial_step=True) == whole[6:]
    assert rows(tmp_path / "first", initial_epoch=1, initial_step=None) == whole


def test_the_schedule_begins_at_its_beginning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pictures(data)
    settings = {"lr_scheduler": "linear", "learning_rate": 1e-3, "initial_step": 4}
    run = TrainingRun(tiny_model(), recipe(data, tmp_path / "a", **settings), SilentHost())
    run.run()
    assert run.state.step == 4
    assert run.stepper.learning_rates["unet"] == pytest.approx(0.5e-3)  # half of all 8 steps, as in kohya's script


def test_no_step_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="initial_step 8 leaves no step of the 8; make it smaller, or raise max_train"):
        rows(tmp_path / "a", initial_step=8)
    with pytest.raises(TrainError, match="initial_epoch 3 leaves no step of the 8"):
        rows(tmp_path / "b", initial_epoch=3)


@pytest.mark.long
def test_a_resumed_run_continues_or_moves_to_where_it_is_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    pictures(data)
    moved = {"initial_epoch": 2, "save_every_n_steps": 2, "save_state": True}
    whole = TrainingRun(tiny_model(), recipe(data, tmp_path / "a", **moved), RecordingHost())
    whole.run()
    state = str(tmp_path / "a" / "last-step00000002-state")
    again = TrainingRun(tiny_model(), recipe(data, tmp_path / "b", resume=state, **moved), RecordingHost())
    again.run()  # the state's run began there already: it goes on after its step 2
    assert again.state.step == whole.state.step == 4
    for mine, theirs in zip(again.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    host = RecordingHost()
    other = TrainingRun(tiny_model(), recipe(data, tmp_path / "c", resume=state, initial_epoch=1), host)
    other.run()
    assert other.state.step == 8
    assert any("the run begins where initial_epoch says" in text for text in host.said)


def test_brackets_are_emphasis_where_they_are_asked_to_be() -> None:
    model = tiny_model()

    def encode(caption: str, weighted: bool) -> torch.Tensor:
        return CaptionEncoder(model, recipe(Path("d"), Path("o"), weighted_captions=weighted), with_gradients=False)(
            [caption]
        ).states

    plain, strong = encode("a (red:1.5) square", False), encode("a (red:1.5) square", True)
    assert not torch.equal(plain, strong)
    assert torch.equal(strong, model.encode_text(["a (red:1.5) square"], weighted=True).states)
    assert torch.equal(encode("a red square", True), encode("a red square", False))


@pytest.mark.long
def test_another_autoencoder_encodes_the_pictures_and_leaves_no_trace(tmp_path: Path) -> None:
    other = tiny_model()
    with torch.no_grad():
        for parameter in other.model.vae.parameters():
            parameter.mul_(1.25)
    other.model.vae.save_pretrained(tmp_path / "vae")
    own, model = rows(tmp_path / "own"), tiny_model()
    before = {name: p.clone() for name, p in model.model.vae.named_parameters()}
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    wanted = rows(tmp_path / "wanted", other)
    assert wanted != own
    for name, vae in {"folder": file.parent, "file": file}.items():
        more = {"cache_latents": True, "cache_latents_to_disk": True}
        assert rows(tmp_path / name, model, vae=str(vae), **more) == wanted
        metadata = load_metadata_quickly(tmp_path / name / "last.safetensors")
        assert metadata["ss_vae_name"] == vae.name and len(metadata["ss_new_vae_hash"]) == 64
    assert all(torch.equal(p, before[name]) for name, p in model.model.vae.named_parameters())
    assert rows(tmp_path / "again", model, cache_latents_to_disk=True) == own  # the other's latents are not taken
    with pytest.raises(FileError, match="is not an autoencoder of Stable Diffusion: it has no "):
        rows(tmp_path / "bad", vae=str(tmp_path / "own" / "last.safetensors"))


def test_a_thumbnail_is_a_small_picture_in_the_metadata(tmp_path: Path) -> None:
    Image.new("RGBA", (900, 600), "#3060c0").save(tmp_path / "a.png")
    url = thumbnail_data_url(str(tmp_path / "a.png"))
    assert url is not None and thumbnail_data_url(url) == url and thumbnail_data_url(None) is None
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert (image.format, image.size) == ("JPEG", (512, 341))
        assert image.convert("RGB").getpixel((100, 100))[2] > 180
    rows(tmp_path / "run", metadata_thumbnail=str(tmp_path / "a.png"), metadata_merged_from="one, two")
    metadata = load_metadata_quickly(tmp_path / "run" / "last.safetensors")
    assert metadata["modelspec.thumbnail"] == url and metadata["modelspec.merged_from"] == "one, two"
    (tmp_path / "b.png").write_bytes(b"no picture")
    for wrong in (str(tmp_path / "b.png"), "data:text/html;base64,AAAA", "data:image/png;base64,<script>"):
        with pytest.raises(TrainError, match="metadata_thumbnail: "):
            thumbnail_data_url(wrong)

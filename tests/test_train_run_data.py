"""Data in real runs: caches change nothing but the time."""

from __future__ import annotations

import csv
import math
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_train_optimizers import at_hand
from tiny_trainable_model import RecordingHost, WordTokenizer, pictures, recipe, tiny_model

from lora_ext.errors import LoraError, TrainError
from lora_ext.file.loading import load_lora_file
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.train.config.optimizers import OPTIMIZERS
from lora_ext.train.config.recipe import Recipe, UserOptimizerClass
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.run.caption_encoder import CaptionEncoder
from lora_ext.train.run.preflight import run_preflight
from lora_ext.train.run.training_log import PendingNumbers, TrainingLog
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.training import main as train_main
from lora_ext.training.standalone_run import SilentHost, train


def losses(out: Path) -> list[float]:
    with (out / "last.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.long
def test_caches_on_disk_change_no_loss(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", 4)
    torch.set_num_threads(1)
    found = []
    for name, cached in (("plain", False), ("first", True), ("second", True)):
        words = {"cache_latents_to_disk": cached, "cache_text_encoder_outputs_to_disk": cached}
        made = recipe(data, tmp_path / name, network_train_unet_only=True, max_train_epochs=1, **words)
        train(made, model=tiny_model(), host=SilentHost())
        found.append(losses(tmp_path / name))
    kept = list((data / ".lora_ext_cache").iterdir())
    assert len(kept) >= 4 + 1 and all(path.suffix == ".safetensors" for path in kept)
    assert len(found[0]) == 4 and found[1] == found[2]
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4)


class WithComma(WordTokenizer):
    comma_id = sum(map(ord, ",")) + 1


@pytest.mark.parametrize(
    ("caption", "places"),
    [
        ("w " * 75, 75),
        ("w " * 76, 76),
        ("w " * 60 + ", " + "w " * 14, 75),
        ("w " * 60 + ", " + "w " * 20, 75 + 20),  # the word list moves on from its comma
        ("w " * 60 + ", " + "w " * 87, 75 + 75 + 12),  # 148 tokens, and no room for them in 150
        ("", 0),
    ],
)
def test_what_is_counted_is_what_is_cut_off(caption: str, places: int) -> None:
    host = StandaloneTrainableModel(replace(tiny_model().model, tokenizer=WithComma()))
    assert host.token_count(caption) == places
    for limit in (75, 150, 225):
        states = host.encode_text([caption], max_token_length=limit).states
        assert states.shape[1] == 77 * max(1, min(-(-places // 75), limit // 75))


@pytest.mark.long
def test_longer_captions_are_learned_whole_when_asked(tmp_path: Path) -> None:
    """What is after 75 tokens changes the losses at a length of 150 alone; short captions fill up with empty chunks."""
    data, host = pictures(tmp_path / "data", 2), tiny_model()
    first = "thing " * 75
    found = {}
    for length in (75, 150):
        for rest in ("one", "other"):
            for path in sorted((data / "2_thing").glob("*.txt")):
                path.write_text(first + rest, encoding="utf-8")
            made = recipe(data, tmp_path / "out", max_token_length=length, max_train_epochs=1)
            train(made, model=host)
            found[length, rest] = losses(tmp_path / "out")
    assert found[75, "one"] == found[75, "other"] != found[150, "one"] != found[150, "other"]
    said = run_preflight(Dataset.from_recipe(recipe(data, tmp_path / "out")), host).text()
    assert "a caption of 76 tokens" in said and "max_token_length 150 takes it whole" in said
    captions = CaptionEncoder(host, made, with_gradients=False)
    both = [first + "one", "thing"]
    together, read_anew = captions(both).states, host.encode_text(both, max_token_length=150).states
    assert together.shape[1] == 154 and torch.allclose(together, read_anew, atol=1e-5)


def test_a_dataset_file_says_how_large_batches_and_pictures_are(tmp_path: Path) -> None:
    """What it says is reported, noted in the metadata and computed with, in place of the recipe's defaults."""
    data = pictures(tmp_path / "data", 4)
    for path in (data / "2_thing").glob("*.png"):
        image = Image.open(path).convert("RGBA")
        image.putalpha(Image.new("L", image.size, 0))
        image.save(path)
    (tmp_path / "set.toml").write_text(
        '[[datasets]]\nresolution = [64, 72]\nbatch_size = 4\n[[datasets.subsets]]\nimage_dir = "data/2_thing"\n'
        "num_repeats = 3\nalpha_mask = true\n",
        encoding="utf-8",
    )
    out = tmp_path / "out"
    made = Recipe(dataset_config=str(tmp_path / "set.toml"), output_dir=str(out), max_train_steps=2, seed=1)
    found = TrainingRun(tiny_model(), made, SilentHost())
    outcome = found.run()
    assert (
        found.preflight_report is not None
        and "12 samples in 3 batches of up to 4 = 3 steps an epoch" in found.preflight_report.text()
    )
    metadata = load_lora_file(outcome.file).metadata
    noted = [metadata[name] for name in ("ss_resolution", "modelspec.resolution", "ss_total_batch_size")]
    assert noted == ["(64, 72)", "64x72", "4"]
    assert losses(out) == [0.0, 0.0], "nothing of the pictures is opaque"


def test_images_of_all_accumulated_batches_are_counted(tmp_path: Path, monkeypatch: Any) -> None:
    counted, real = [], PendingNumbers.start_copy
    monkeypatch.setattr(PendingNumbers, "start_copy", lambda *given: counted.append(given[-1]) or real(*given))
    made = recipe(pictures(tmp_path / "data", 4), tmp_path / "out", gradient_accumulation_steps=3, max_train_epochs=1)
    train(made, model=tiny_model())
    assert counted == [6, 2]
    log = TrainingLog(None)
    assert math.isnan(log.seconds_per_step)
    log._times = deque([(1.0, 0), (3.0, 8), (4.0, 1)])
    assert log.seconds_per_step == 1.5


@pytest.mark.long
@pytest.mark.parametrize("name", ["AdamWScheduleFree", "Prodigy", "Adafactor", "Lion"])
def test_any_optimizer_trains_a_dylora_and_continues(name: str, tmp_path: Path) -> None:
    """Ranks without gradients, samples in between, and the very same losses after a resume."""
    if not at_hand(name):
        pytest.skip(f"{OPTIMIZERS[name].package} is not installed")
    data = pictures(tmp_path / "data", 2)
    (tmp_path / "prompts.txt").write_text("a thing --s 1 --w 64 --h 64", encoding="utf-8")
    words = {"optimizer_type": name, "network_module": "dylora", "unit": 2, "lr_scheduler": "linear"}
    words |= {"sample_prompts": str(tmp_path / "prompts.txt"), "sample_every_n_steps": 1, "learning_rate": 0.5}
    more = {"save_every_n_steps": 2, "save_state": True, "max_train_epochs": 2}
    train(recipe(data, tmp_path / "out", **words, **more), model=tiny_model())
    whole = losses(tmp_path / "out")
    train(recipe(data, tmp_path / "out", **words, **more, resume=str(tmp_path / "out" / "last-step00000002-state")),
          model=tiny_model())  # fmt: skip
    assert losses(tmp_path / "out") == whole and len(whole) == 4


def test_the_table_has_the_rates_that_steps_were_made_with(tmp_path: Path) -> None:
    rising = {"lr_scheduler": "linear", "lr_warmup_steps": 2, "max_train_epochs": 1, "learning_rate": 1.0}
    train(recipe(pictures(tmp_path / "data"), tmp_path / "out", **rising), model=tiny_model())
    with (tmp_path / "out" / "last.csv").open(encoding="utf-8") as file:
        assert [float(row["lr_unet"]) for row in csv.DictReader(file)] == [0.0, 0.5, 1.0, 0.5]


def test_a_missing_library_is_reported_before_pictures_are_encoded(tmp_path: Path) -> None:
    made = recipe(
        pictures(tmp_path / "data"),
        tmp_path / "out",
        optimizer_type=UserOptimizerClass("nowhere.Adam"),
        cache_latents=True,
    )
    host = tiny_model()
    host.model.vae.encode = None
    with pytest.raises(TrainError, match="pip install nowhere"):
        train(made, model=host)


def test_samples_that_cannot_be_drawn_are_reported_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a thing --ss eulr", encoding="utf-8")
    words = {"sample_prompts": str(tmp_path / "prompts.txt"), "sample_every_n_epochs": 1}
    with pytest.raises(LoraError, match="unknown sampler 'eulr'; did you mean 'Euler'"):
        train(recipe(pictures(tmp_path / "data"), tmp_path / "out", **words), model=tiny_model())
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_what_a_file_has_and_the_recipe_leaves_out_is_reported(tmp_path: Path) -> None:
    data, words = pictures(tmp_path / "data", 2), {"max_train_epochs": 1}
    first = train(recipe(data, tmp_path / "out", **words), model=tiny_model())
    count = sum(layer_id.part == "te" for layer_id in load_lora_file(first.file).adapters)
    for more, expected in (({"network_train_unet_only": True}, [f"({count} in te)"]), ({}, [])):
        shell = RecordingHost()
        again = recipe(data, tmp_path / "again", network_weights=str(first.file), **words, **more)
        train(again, model=tiny_model(), host=shell)
        said = [text for text in shell.said if "left out" in text]
        assert len(said) == len(expected) and all(part in text for part, text in zip(expected, said, strict=True))


@pytest.mark.long
def test_the_guis_defaults_train(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "img/1_cat").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "img/1_cat/0.png")
    folders = ["--train_data_dir", str(tmp_path / "img"), "--output_dir", str(tmp_path / "out")]
    size = ["--resolution", "64", "--device", "cpu"]
    config = Path(__file__).parent / "data/kohya/gui_defaults.json"
    (tmp_path / "prompt.txt").write_text("\n", encoding="utf-8")
    samples = ["--sample_prompts", str(tmp_path / "prompt.txt"), "--sample_every_n_epochs", "1"]
    assert train_main(["--config_file", str(config), *folders, *size, *samples]) == 0
    assert (tmp_path / "out/last.safetensors").is_file()
    assert "has no prompt: no samples are generated" in capsys.readouterr().err

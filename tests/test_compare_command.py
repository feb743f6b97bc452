"""`python -m lora_ext compare`: a sheet from the command line, batched as one by one, gone on with, with CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_generate
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from lora_ext.adapters import Lora
from lora_ext.cli import main as cli
from lora_ext.compare.scores import Scorer, find_training_images
from lora_ext.errors import FileError
from lora_ext.file.lora_file import LoraFile
from lora_ext.file.saving import save_lora_file
from lora_ext.generate import Settings, compare_command, load_settings_model
from lora_ext.host.standalone.clip_image import ClipImageModel
from lora_ext.inject import find_layer_targets

checkpoint = test_generate.folder
"""The fixture: a small checkpoint with its tokenizer."""


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of a run, each acting on U-Net and text encoder."""
    model = load_settings_model(Settings(ckpt=checkpoint / "SD1.safetensors", device="cpu"))
    made = tmp_path_factory.mktemp("run")
    for number, name in enumerate(("run-000001", "run-000002", "run")):
        torch.manual_seed(number)
        adapters = {}
        for part, root in model.parts().items():
            for layer_id, target in find_layer_targets(part, root).items():
                if len(target.shape) == 2:
                    tensors = {"lora_up.weight": torch.randn(target.shape[0], 2) * 0.3,
                               "lora_down.weight": torch.randn(2, target.shape[1]) * 0.3}  # fmt: skip
                    adapters[layer_id] = Lora(tensors)
        save_lora_file(LoraFile(adapters), made / f"{name}.safetensors")
    return made


def command_output(capsys: pytest.CaptureFixture[str], checkpoint: Path, runs: Path, out: Path, *more: str) -> Any:
    ckpt = [
        "--ckpt",
        str(checkpoint / "SD1.safetensors"),
        "--lora_dir",
        str(runs),
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    size = ["--width", "64", "--height", "64", "--steps", "2", "--sampler", "Euler", "--json"]
    assert cli(["compare", *ckpt, *size, *more]) == 0
    return json.loads(capsys.readouterr().out)


AXES = ("--prompt", "a (b:1.2) c", "--x", "epoch:all", "--y", "weight:0-1(+0.5)", "--z", "seed:1,2")


@pytest.mark.long
def test_batches_are_as_one_by_one(
    checkpoint: Path,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = {
        batch: command_output(capsys, checkpoint, runs, tmp_path / batch, *AXES, "--batch", batch, "--no-scores")
        for batch in "18"
    }
    assert made["1"]["cells"] == 18 and made["1"]["drawn"] == 14  # weight 0 is one picture for each seed
    rows = [json.loads((tmp_path / batch / "sheet.json").read_text(encoding="utf-8")) for batch in "18"]
    for one, eight in zip(*(row["cells"] for row in rows), strict=True):
        pictures = [Image.open(tmp_path / batch / cell["file"]) for batch, cell in (("1", one), ("8", eight))]
        pixels = [np.asarray(picture, int) for picture in pictures]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1
        said = [str(picture.info["parameters"]) for picture in pictures]
        assert said[0] == said[1]
        if "0>" not in one["tag"]:
            assert said[0].startswith(one["prompt"]) and one["tag"] in one["prompt"]
    again = command_output(capsys, checkpoint, runs, tmp_path / "8", *AXES, "--no-scores")
    assert (again["drawn"], again["kept"]) == (0, 14)


@pytest.mark.long
def test_scores_and_mistakes(
    checkpoint: Path,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 64), "red").save(images / "a.png")
    more = ("--images", str(images))
    made = command_output(
        capsys, checkpoint, runs, tmp_path / "out", "--prompt", "a <lora:run:1>", "--x", "weight:0.5,1", *more
    )
    assert made["drawn"] == 3 and made["suggestion"] and Path(made["sheets"][0]).is_file()
    seed = json.loads((tmp_path / "out" / "sheet.json").read_text(encoding="utf-8"))["base"]["seed"]
    again = command_output(
        capsys, checkpoint, runs, tmp_path / "out", "--prompt", "a <lora:run:1>", "--x", "weight:0.5,1"
    )
    assert again["drawn"] == 0 and seed >= 0  # a seed that was drawn is kept
    for argv, text in (
        (["--x", "epoc:all"], "did you mean 'epoch'"),
        (["--prompt", "a", "--x", "weight:1"], "which LoRA"),
        (["--images", str(tmp_path / "nowhere")], "not a folder of training pictures"),
        (["--clip", str(images)], "no config.json"),
    ):
        ckpt = ["--ckpt", str(checkpoint / "SD1.safetensors"), "--lora_dir", str(runs), "--device", "cpu"]
        assert cli(["compare", *ckpt, "--out", str(tmp_path / "no"), *argv]) == 2
        said = capsys.readouterr().err
        assert text in said and said.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_a_tag_without_a_file_is_an_error_before_anything_is_drawn(
    checkpoint: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole sheet was drawn without the file, with one line of warning at its start."""
    argv = ["compare", "--ckpt", str(checkpoint / "SD1.safetensors"), "--lora_dir", str(runs), "--device", "cpu",
            "--out", str(tmp_path / "out"), "--width", "64", "--height", "64", "--steps", "1"]  # fmt: skip
    for prompt, axis in (
        ("a <lora:rum:1>", "weight:0.5,1"),
        ("a <lora:run:1> <lora:rum:1>", "weight run:0.5,1"),
        ("a <lora:rum:1>", "seed:1,2"),
    ):
        assert cli([*argv, "--prompt", prompt, "--x", axis]) == 2
        said = capsys.readouterr().err
        assert "no LoRA is called 'rum'; did you mean 'run'? Correct the tag, or take it out of the prompt" in said
        assert not (tmp_path / "out").exists()


def test_a_random_seed_is_chosen_once(
    checkpoint: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["compare", "--ckpt", str(checkpoint / "SD1.safetensors"), "--lora_dir", str(runs), "--device", "cpu",
            "--out", str(tmp_path / "out"), "--width", "64", "--height", "64", "--steps", "1", "--no_scores", "--json",
            "--prompt", "a <lora:run:1>", "--x", "weight:0.5,1"]  # fmt: skip
    planned = []  # what is checked is what is drawn
    plan_sheet = compare_command.sheet_plan.plan_sheet
    monkeypatch.setattr(compare_command.sheet_plan, "plan_sheet",
                        lambda spec, *more: planned.append(spec.seed) or plan_sheet(spec, *more))  # fmt: skip
    assert cli(argv) == 0
    assert json.loads(capsys.readouterr().out)["drawn"] == 2
    assert planned == [json.loads((tmp_path / "out" / "sheet.json").read_text(encoding="utf-8"))["base"]["seed"]]


def test_a_clip_model_of_the_users_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                              image_size=32, patch_size=8, projection_dim=8)  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "clip")
    model = ClipImageModel(tmp_path / "clip", "cpu")
    red, noise = Image.new("RGB", (40, 60), "red"), Image.effect_noise((64, 64), 90).convert("RGB")
    vectors = model([red, noise])
    assert vectors.shape == (2, 8) and np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    (tmp_path / "images").mkdir()
    red.save(tmp_path / "images" / "red.png")
    scorer = Scorer(find_training_images(tmp_path / "images"), model, model.name)
    assert scorer.likeness_measure == "image model clip"
    assert scorer.likeness(red) == pytest.approx(1, abs=1e-4) and scorer.likeness(noise) < 0.999
    with pytest.raises(FileError, match="cannot be read as a CLIP image model"):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "config.json").write_text("{}")
        ClipImageModel(tmp_path / "bad", "cpu")

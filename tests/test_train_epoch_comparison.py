"""After a run: its epochs over weights, on its sample prompts or first captions, measured by its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_ext import kohya_prompt_line
from lora_ext.cli import main as cli
from lora_ext.embedded import CHECKPOINT
from lora_ext.errors import PromptError, TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.training import epoch_comparison

NAMES = ("mine-000001", "mine-000002", "mine")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures with captions, and one for regularisation beside them."""
    for folder, names in (("pictures/1_star", "abc"), ("reg/1_shape", "r")):
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (64, 64), "red").save(tmp_path / folder / f"{name}.png")
            (tmp_path / folder / f"{name}.txt").write_text(f"a {name} [x|y]", encoding="utf-8")
    return tmp_path


def recipe(data: Path, **more: Any) -> Recipe:
    return Recipe(train_data_dir=str(data / "pictures"), reg_data_dir=str(data / "reg"), **more)


def test_the_run_s_own_prompts_with_their_options(data: Path) -> None:
    (data / "p.txt").write_text("a cat --n dog --d 5 --s 9 --l 3\na [big|small] cat --w 64 --h 64 --ss euler_a\n")
    found = epoch_comparison.epoch_comparison(
        recipe(data, sample_prompts=str(data / "p.txt"), seed=40, clip_skip=2), NAMES
    )
    assert (found.lora, found.x, found.y) == ("mine", "epoch:all", epoch_comparison.WEIGHT_AXIS)
    shown = found.image_fields
    assert (shown.prompt, shown.negative_prompt, shown.seed, shown.steps, shown.cfg) == ("a cat", "dog", 5, 9, 3.0)
    assert (shown.sampler, shown.clip_skip, shown.width) == ("DDIM", 2, 0)
    assert found.z.startswith("prompt:a cat --n dog")
    second = kohya_prompt_line.parse_prompt_line(found.z.rpartition(" | ")[2])
    assert second[0] == "a [big|small] cat" and second[1]["seed"] == 41 and second[1]["sampler"] == "Euler a"


def test_without_prompts_the_first_captions(data: Path) -> None:
    found = epoch_comparison.epoch_comparison(recipe(data), NAMES[-1:])
    assert (found.x, found.y) == (epoch_comparison.WEIGHT_AXIS, "")  # one file: weights alone
    assert found.image_fields.prompt == "a a [x|y]" and "a b [x|y]" in found.z and "a r" not in found.z
    assert [path.name for path in epoch_comparison.training_image_paths(recipe(data))] == ["a.png", "b.png", "c.png"]
    with pytest.raises(TrainError, match="saved no file"):
        epoch_comparison.epoch_comparison(recipe(data), ())


def test_prompt_lines_there_and_back() -> None:
    options = {
        "negative": "ugly, bad",
        "width": 96,
        "height": 128,
        "seed": 7,
        "steps": 12,
        "cfg": 5.5,
        "sampler": "Euler a",
    }
    assert kohya_prompt_line.parse_prompt_line(kohya_prompt_line.format_prompt_line("a well--done cat", options)) == (
        "a well--done cat",
        options,
    )
    with pytest.raises(PromptError, match="unknown option --q"):
        kohya_prompt_line.parse_prompt_line("a --q 3")


@pytest.mark.long
def test_train_compares_at_its_end(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path(CHECKPOINT).is_file():
        pytest.skip("no embedded model in this installation")
    (data / "p.txt").write_text("a red circle --s 1 --d 5 --l 1\n", encoding="utf-8")
    argv = ["train", "--train_data_dir", str(data / "pictures"), "--output_dir", str(data / "out"), "--output_name",
            "mine", "--resolution", "64", "--network_dim", "1", "--max_train_epochs", "2", "--save_every_n_epochs", "1",
            "--sample_prompts", str(data / "p.txt"), "--device", "cpu", "--compare"]  # fmt: skip
    assert cli(argv) == 0
    printed = capsys.readouterr().out.splitlines()
    sheet = data / "out" / "mine-compare" / "sheet.png"
    assert str(sheet.resolve()) in printed and sheet.is_file()
    manifest = json.loads(sheet.with_name("sheet.json").read_text(encoding="utf-8"))
    assert manifest["complete"] and manifest["axes"]["x"]["labels"] == ["epoch 1", "last"]
    assert len(manifest["cells"]) == 10 and manifest["cells"][0]["tag"] == "<lora:mine-000001:0.2>"
    assert all(cell["score"]["likeness"] is not None for cell in manifest["cells"])

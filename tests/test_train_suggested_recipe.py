"""Suggested settings: each kind on each model is a valid recipe; length, memory and reasons follow the facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lora_ext.cli import main
from lora_ext.embedded import CHECKPOINT
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.config.suggested_recipe import KINDS_OF_CONCEPT, suggest_settings
from lora_ext.train.config.suggested_regularisation import offer_regularisation
from lora_ext.train.config.suggested_setting import TrainingSituation
from lora_ext.train.data.buckets import fit_to_bucket
from lora_ext.train.data.dataset_scan import DatasetScan
from lora_ext.train.data.subset import bucket_rules
from lora_ext.training.settings_for_pictures import (
    _buckets_with_cut,
    _situation,
    regularisation_folder_name,
    sample_prompt_lines,
)

TWENTY = TrainingSituation("person", 20, 1, "SD1", 512)


@pytest.mark.parametrize("kind", KINDS_OF_CONCEPT)
@pytest.mark.parametrize(("family", "side"), [("SD1", 64), ("SD1", 512), ("SD2", 768), ("SDXL", 1024)])
def test_every_kind_on_every_model_is_a_valid_recipe(kind: str, family: str, side: int) -> None:
    for count in (1, 20, 700, 5000):
        for gpu in (0, 6, 24, 80):
            situation = TrainingSituation(kind, count, 3, family, side, gpu * 2.0**30, gpu > 0)
            found = suggest_settings(situation)
            recipe = recipe_from_settings({name: row.value for name, row in found.items()})
            assert all(row.reason for row in found.values())
            assert recipe.size() == (side, side)
            assert recipe.train_batch_size <= count
            assert 2 <= (recipe.max_train_epochs or 0) <= 10 and recipe.save_every_n_epochs == 1


def test_twenty_pictures_are_saved_ten_times_and_the_reason_has_the_numbers() -> None:
    found = suggest_settings(TWENTY)
    assert (found["dataset_repeats"].value, found["max_train_epochs"].value) == (8, 10)
    assert found["max_train_epochs"].reason == (
        "20 pictures × 8 repeats × 10 epochs = 1600 samples; 1500 suit a person"
    )


def test_little_memory_gets_gradient_checkpointing_and_buckets_follow_the_pictures() -> None:
    small = suggest_settings(replace(TWENTY, gpu_bytes=6 * 2.0**30, on_gpu=True))
    assert small["gradient_checkpointing"].value and small["mixed_precision"].value == "fp16"
    assert "gradient_checkpointing" not in suggest_settings(replace(TWENTY, gpu_bytes=24 * 2.0**30, on_gpu=True))
    assert "mixed_precision" not in suggest_settings(TWENTY)
    assert "enable_bucket" not in suggest_settings(TWENTY)
    assert suggest_settings(replace(TWENTY, aspect_ratio_count=2))["enable_bucket"].value
    photos = suggest_settings(replace(TWENTY, all_square=False))  # all of one camera, 3:2: a third would be cut off
    assert photos["enable_bucket"].value and "square" in photos["enable_bucket"].reason


def test_pictures_of_one_shape_are_not_cut_to_squares() -> None:
    model = SimpleNamespace(family="SD1", native_size=512, device=torch.device("cpu"))
    for size, square in (((1536, 1024), False), ((768, 1024), False), ((1024, 1024), True), ((1024, 1023), True)):
        scan = SimpleNamespace(images=[SimpleNamespace(size=size)] * 3)
        assert _situation("object", scan, model).all_square is square  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [64, 96, 128, 256, 512, 1024])
def test_the_suggested_buckets_have_the_shapes_of_the_pictures(side: int) -> None:
    """A model of 64 pixels got steps of 64, so that its only bucket was a square."""
    found = suggest_settings(replace(TWENTY, native_size=side, aspect_ratio_count=2))
    recipe = recipe_from_settings({name: row.value for name, row in found.items()})
    rules = bucket_rules(recipe)
    wide, high = (fit_to_bucket(size, rules) for size in ((200, 150), (150, 200)))
    for size, fit in (((200, 150), wide), ((150, 200), high)):
        assert fit.bucket[0] / fit.bucket[1] == pytest.approx(size[0] / size[1], rel=0.1), fit
    assert wide.bucket == high.bucket[::-1]
    assert (rules.min_bucket_reso, found["min_bucket_reso"].reason) == (side // 2, f"half of {side}")
    assert ("bucket_reso_steps" in found) is (side < 512)


@pytest.mark.parametrize(
    ("side", "size", "reason"),
    [
        (64, (200, 150), "in their buckets up to 4 % of one is cut off, in a square up to 25 %"),  # at 72x56
        (512, (1536, 1024), "in their buckets up to 11 % of one is cut off, in a square up to 34 %"),  # at 640x384
        (64, (72, 56), "in their buckets nothing is cut off, in a square up to 22 % of one"),
    ],
)
def test_buckets_say_how_much_they_cut_off(side: int, size: tuple[int, int], reason: str) -> None:
    """The page said that nothing is."""
    found = suggest_settings(replace(TWENTY, native_size=side, all_square=False))
    scan = DatasetScan((), (SimpleNamespace(size=size), SimpleNamespace(size=(64, 64))), ())  # type: ignore[arg-type]
    assert _buckets_with_cut(found, scan)["enable_bucket"].reason == f"not all pictures are square: {reason}"
    assert _buckets_with_cut(suggest_settings(TWENTY), scan) == {}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="mood"):
        suggest_settings(replace(TWENTY, kind="mood"))


@pytest.mark.long
@pytest.mark.skipif(not Path(CHECKPOINT).is_file(), reason="no embedded model in this installation")
def test_teach_prints_reasons_and_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "cat"
    pictures.mkdir()
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "red")):
        Image.new("RGB", (64, 64), colour).save(pictures / f"{name}.png")
    out = tmp_path / "out"
    asked = ["teach", str(pictures), "--name", "mycat", "--output_dir", str(out), "--max_train_epochs", "1"]
    asked += ["--dataset_repeats", "1", "--no_compare"]
    assert main([*asked, "--dry_run"]) == 0
    told = capsys.readouterr().err
    assert "c.png is the same picture as a.png" in told
    assert "max_train_epochs = 1: as given" in told
    assert "no model is given, so the small built-in one is trained" in told
    assert "caption_prefix = mycat: 3 pictures have no caption with the trigger word" in told
    assert "regularisation yes: 100 pictures are drawn first" in told
    assert f"reg_data_dir = {tmp_path / 'regularisation-concept-embedded-sd1'}: later runs" in told
    (pictures / "a.txt").write_text("mycat", encoding="utf-8")
    for name in ("b", "c"):
        (pictures / f"{name}.png").rename(pictures / f"{name}.off")
    assert main([*asked, "--dry_run"]) == 0
    assert "dataset_repeats = 1: as given" in (told := capsys.readouterr().err) and "caption_prefix" not in told
    (pictures / "b.off").rename(pictures / "b.png")
    assert main([*asked, "--dry_run"]) == 0
    assert "caption_prefix = 'mycat,': 1 picture has no caption with the trigger word" in capsys.readouterr().err
    (pictures / "a.txt").unlink()
    (pictures / "c.off").rename(pictures / "c.png")
    assert not out.exists()
    assert main([*asked, "--dry_run", "--regularisation", "no"]) == 0 and "reg_" not in capsys.readouterr().err
    assert main([*asked, "--num_class_images", "2"]) == 0
    assert len(list((tmp_path / "regularisation-concept-embedded-sd1").glob("*.png"))) == 2
    assert (out / "mycat.safetensors").is_file()
    assert (out / "mycat-prompts.txt").read_text(encoding="utf-8") == "mycat --d 1\n"


def test_the_sample_prompts_are_captions_with_the_trigger_word() -> None:
    def lines(*captions: str) -> str:
        return sample_prompt_lines(SimpleNamespace(images=[SimpleNamespace(caption=one) for one in captions]), "mycat")

    assert lines("a dog", "my\n mycat", "my mycat", "MyCat, outside", "a mycat --d 5", "a third mycat") == (
        "my mycat --d 1\nMyCat, outside --d 2"
    )
    assert lines("", "a dog") == lines() == "mycat --d 1"


def test_regularisation_is_offered_where_it_is_worth_its_time() -> None:
    small, large = replace(TWENTY, native_size=64), replace(TWENTY, on_gpu=True)
    for situation, found, on in ((small, 0, True), (large, 0, True), (TWENTY, 0, False), (TWENTY, 100, True)):
        assert offer_regularisation(situation, "reg", found).choice.value is on
    assert not offer_regularisation(replace(large, kind="style"), "reg", 0).choice.value
    offer = offer_regularisation(large, "reg", 40)
    assert offer.choice.reason.startswith("60 pictures are drawn first")
    recipe = recipe_from_settings({"train_data_dir": "x", **{name: row.value for name, row in offer.settings.items()}})
    assert (recipe.reg_data_dir, recipe.reg_generate, recipe.prior_loss_target) == ("reg", True, "model")
    assert offer.settings["class_prompt"].value != offer_regularisation(small, "reg", 0).settings["class_prompt"].value


@pytest.mark.parametrize(
    ("model_name", "folder"),
    [("v1-5.ckpt", "v1-5"), ("a/sd.v1.5", "sd-v1-5"), ("b\\..\\モデル.safetensors", "SD1"), ("", "SD1"), ("..", "SD1")],
)
def test_the_folder_of_regularisation_pictures_is_named_by_the_model(model_name: str, folder: str) -> None:
    model = SimpleNamespace(metadata=lambda: {"ss_sd_model_name": model_name}, family="SD1")
    assert regularisation_folder_name("person", model) == f"regularisation-person-{folder}"  # type: ignore[arg-type]

"""The report before the first step."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_dataset import folder, recipe  # noqa: F401  (a fixture)
from test_train_folders import draw
from torch import nn

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.data.training_data import load_training_data
from lora_ext.train.run import cost_estimate
from lora_ext.train.run.cost_estimate import BYTES_IN_GIB, UNET_COSTS, format_rough_duration
from lora_ext.train.run.preflight import PreflightReport, run_preflight
from lora_ext.web.training_runs import preflight_details


def words(caption: str) -> int:
    return len(caption.split())


class Model:
    """As much of a tiny_model as the report asks for; parameters that take no memory."""

    def __init__(self, family: str = "SD1", dtype: torch.dtype = torch.float16) -> None:
        self.family, self.device = family, torch.device("cpu")
        with torch.device("meta"):
            self.unet = nn.Linear(int(UNET_COSTS[family].parameters), 1, bias=False, dtype=dtype)
            self.te = nn.Linear(123_000_000, 1, bias=False, dtype=dtype)

    def parts(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "te": self.te}

    def token_count(self, caption: str) -> int:
        return words(caption)


def test_98_pictures_100_repeats_10_epochs(tmp_path: Path) -> None:
    for number in range(98):
        draw(tmp_path / "100_dog" / f"{number}.png", (8, 8), (number, 0, 0), "a dog")  # type: ignore[arg-type]
    data = Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), resolution="64", max_train_epochs=10, seed=1))
    found = run_preflight(data, count_tokens=words)
    assert (found.steps_per_epoch, found.epochs, found.steps) == (9800, 10, 98_000)
    assert "98 pictures × 100 repeats × 10 epochs = 98,000 steps" in found.text()
    assert "98 pictures are much smaller than their bucket" in found.text()


def test_a_strip_is_cropped_to_the_area_of_the_resolution(tmp_path: Path) -> None:
    draw(tmp_path / "1_dog" / "0.png", (1200, 8))
    more = {"resolution": "64", "enable_bucket": True, "min_bucket_reso": 64, "bucket_no_upscale": True}
    found = run_preflight(Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), seed=1, **more)), count_tokens=words)
    assert [bucket.size for bucket in found.buckets] == [(64, 64)]
    assert "more than 30% of 1 picture is cut off" in found.text()


def look(folder: Path, **more: object) -> PreflightReport:  # noqa: F811
    return run_preflight(Dataset.from_recipe(recipe(folder, **more)), count_tokens=words)


def test_the_numbers_are_those_of_the_batches(folder: Path) -> None:  # noqa: F811
    found = look(folder, reg_data_dir=str(folder / "reg"), gradient_accumulation_steps=2)
    data = Dataset.from_recipe(recipe(folder, reg_data_dir=str(folder / "reg"), gradient_accumulation_steps=2))
    batches = list(data.epoch_batches(0))
    assert found.batches == len(batches) == sum(b.batches for b in found.buckets)
    for bucket in found.buckets:
        mine = [b for b in batches if b.bucket == bucket.size]
        assert (len(mine), sum(map(len, mine))) == (bucket.batches, bucket.turns)
    one, other = found.concepts
    assert (one.pictures, one.repeats, one.turns, one.without_caption) == (8, 2, 16, 0)
    assert (other.pictures, other.turns, other.regularisation, other.without_caption) == (3, 16, True, 3)
    assert found.steps == 2 * found.steps_per_epoch == 2 * -(-len(batches) // 2)
    text = found.text()
    assert "32 samples in" in text and f"{found.steps:,} steps" in text and "64x64 8 (" in text


def test_captions_missing_and_too_long(folder: Path) -> None:  # noqa: F811
    train = folder / "train" / "2_thing"
    (train / "0.txt").unlink()
    (train / "1.txt").write_text("word " * 80, encoding="utf-8")
    (train / "2.txt").write_text("word " * 300, encoding="utf-8")
    found = look(folder)
    assert found.without_caption == (str(train / "0.png"),) and found.longest == 300
    assert found.too_long == ((str(train / "2.png"), 300), (str(train / "1.png"), 80))
    assert "1 without a caption ('thing' is used)" in found.text() and "shorten it (and 1 more)" in found.text()
    (train / "2.txt").unlink()
    assert "max_token_length 150 takes it whole" in look(folder).text()
    assert not look(folder, max_token_length=150).too_long


def test_duplicates_and_skipped_pictures_are_named(folder: Path) -> None:  # noqa: F811
    train = folder / "train" / "2_thing"
    (train / "copy.png").write_bytes((train / "3.png").read_bytes())
    (train / "broken.png").write_bytes(b"no")
    found = look(folder)
    assert found.duplicates == ((str(train / "3.png"), str(train / "copy.png")),)
    assert len(found.skipped) == 1 and "broken.png" in found.text() and "copy.png" in found.text()


def test_what_is_seldom_meant_is_said(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (200, 64))
    draw(tmp_path / "b.png", (64, 64), "blue")
    base = Recipe(train_data_dir=str(tmp_path), resolution="64", max_train_steps=300_000)
    text = run_preflight(Dataset.from_recipe(base)).text()
    assert "300,000 steps are unusually many" in text and "no picture has a caption" in text
    assert "more than 30% of 1 picture is cut off; enable_bucket" in text
    (tmp_path / "a.txt").write_text("dog", encoding="utf-8")
    text = run_preflight(Dataset.from_recipe(replace(base, shuffle_caption=True, keep_tokens=2))).text()
    assert "1 picture has neither" in text and "nothing is shuffled" in text
    for prefix in ("caption_prefix", "caption_suffix"):  # as Start here sets it: the trigger word is the caption
        assert "has neither" not in run_preflight(Dataset.from_recipe(replace(base, **{prefix: "mycat"}))).text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"masked_loss": True}, "no picture has a mask"),
        ({"lr_warmup_steps": 100.0}, "lr_warmup_steps 100 takes all of the 16 steps"),
    ],
)
def test_contradictions_stop_the_run(folder: Path, more: dict, says: str) -> None:  # noqa: F811
    with pytest.raises(TrainError, match=says):
        look(folder, **more)


def test_it_is_json_too(folder: Path) -> None:  # noqa: F811
    report = run_preflight(Dataset.from_recipe(recipe(folder)), Model(), parameter_count=1000)  # type: ignore[arg-type]
    again = json.loads(json.dumps(asdict(preflight_details(report))))
    assert again["steps"] == 16 and again["buckets"][0]["size"] and again["expected"]["bytes"] > 0


def test_expectations_grow_with_what_is_asked(folder: Path) -> None:  # noqa: F811
    def of(family: str = "SD1", dtype: torch.dtype = torch.float16, trained: int = 1_600_000, **more: object):
        data = Dataset.from_recipe(recipe(folder, **{"mixed_precision": "fp16", **more}))
        found = run_preflight(data, Model(family, dtype), parameter_count=trained).expected  # type: ignore[arg-type]
        assert found is not None
        return found

    base = of()
    assert 1.9 * 0.98e9 < base.weights < 2.2e9 and base.training == 16 * 1_600_000
    assert of("SDXL").weights > 2 * base.weights
    assert of(train_batch_size=8).activations == 4 * base.activations
    assert of(gradient_checkpointing=True).activations < 0.5 * base.activations
    assert of(mixed_precision="no").activations == pytest.approx(1.6 * base.activations)
    assert of(optimizer_type="AdamW8bit").training < base.training


def test_what_was_measured_is_expected(tmp_path: Path) -> None:
    """SD1.5's size, float32, batch 1, latents 32×32, rank 16: 4.36 GiB (BENCHMARKS.md), U-Net alone."""
    draw(tmp_path / "a.png", (256, 256), caption="a dog")
    data = Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), resolution="256"))
    model = Model(dtype=torch.float32)
    model.parts = lambda: {"unet": model.unet}  # type: ignore[method-assign]
    found = run_preflight(data, model, parameter_count=3_200_000).expected  # type: ignore[arg-type]
    assert found is not None
    assert abs((found.bytes - 4 * 84e6) / BYTES_IN_GIB - 4.36) < 0.3


def test_small_models_take_their_time_too(folder: Path) -> None:  # noqa: F811
    """Calling a layer takes a while, however little it computes."""
    model = Model()
    model.unet = model.te = nn.Sequential(*(nn.Linear(1, 1) for _ in range(200)))  # type: ignore[assignment]
    for accumulated in (1, 3):
        data = Dataset.from_recipe(recipe(folder, gradient_accumulation_steps=accumulated))
        found = run_preflight(data, model).expected  # type: ignore[arg-type]
        assert found is not None and found.seconds == pytest.approx(accumulated * 400 * 2.5e-4)


@pytest.mark.parametrize(
    ("parameters", "resolution", "seconds", "bytes_per_latent"),
    [
        (859_520_964, 256, 9.1, 5.6e5),
        (859_520_964, 512, 40, 5.6e5),
        (5_659_044, 256, 0.61, 37e3),
        (5_659_044, 512, 7.4, 37e3),
    ],
)
def test_what_was_measured_on_a_cpu_is_expected(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameters: int,
    resolution: int,
    seconds: float,
    bytes_per_latent: float,
) -> None:
    """SD1.5's U-Net and the embedded one, whose attention and activations go by its channels, not by their square."""
    monkeypatch.setattr(cost_estimate, "measure_matmul_speed", lambda device, half: 7.4e10)
    draw(tmp_path / "a.png", (resolution, resolution), caption="a dog")
    data = Dataset.from_recipe(Recipe(train_data_dir=str(tmp_path), resolution=str(resolution), cache_latents=True))
    model = Model(dtype=torch.float32)
    model.unet = nn.Linear(parameters, 1, bias=False, device="meta")
    report = run_preflight(data, model, parameter_count=1000)  # type: ignore[arg-type]
    found = report.expected
    assert found is not None and 0.75 < found.seconds / seconds < 1.3
    assert 0.75 < found.activations / (resolution / 8) ** 2 / bytes_per_latent < 1.4
    low, high = found.seconds_range
    assert low < found.seconds < high and "until steps were measured" in report.text()


SIDES = {"positive_prompt": "large", "negative_prompt": "small"}


def test_the_time_of_a_step_counts_passes_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_estimate, "measure_matmul_speed", lambda device, half: 1e9)

    def seconds(**settings: Any) -> float:
        made = Recipe(mode="slider", original_prompt="shape", resolution="64", **SIDES, **settings)
        model: Any = Model(dtype=torch.float32)
        found = run_preflight(load_training_data(made), model, count_tokens=words).expected
        assert found is not None
        return found.seconds

    assert seconds(denoise_steps=10) / seconds() == pytest.approx((1 + 13 / 2) / (1 + 3 / 2))


def test_modes_without_pictures_speak_of_prompts() -> None:
    wanted = Recipe(mode="slider", original_prompt="shape", resolution="64", max_train_steps=50, **SIDES)  # type: ignore[arg-type]
    text = run_preflight(load_training_data(wanted), count_tokens=words).text()
    assert "1 prompt × 100 repeats" in text and "prompts by size: 64x64" in text and "pictures" not in text


def test_prompts_that_are_kept_are_named_apart() -> None:
    wanted = Recipe(  # type: ignore[arg-type]
        mode="slider",
        original_prompt="shape",
        keep_prompts="a red circle",
        resolution="64",
        max_train_steps=50,
        **SIDES,
    )
    text = run_preflight(load_training_data(wanted), count_tokens=words).text()
    assert (
        "\nprompts: 1 prompt × 50 repeats" in f"\n{text}"
        and "\nprompts kept as they are: 2 prompts × 25 repeats" in text
    )


def test_an_empty_regularisation_folder_means_none(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "none").mkdir()
    assert any(
        "so there is no regularisation" in note for note in look(folder, reg_data_dir=str(tmp_path / "none")).notes
    )


def test_times_in_words() -> None:
    assert [format_rough_duration(s) for s in (3, 700, 19_200, 300_000)] == ["3 s", "12 min", "5 h 20 min", "3 days"]

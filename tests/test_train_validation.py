"""Validation: pictures that are kept apart, the same numbers each time, and the end of a run by them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_trainable_model import RecordingHost, pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.validation_split import split_subsets
from lora_ext.train.run.validation import validation_timesteps
from lora_ext.training.standalone_run import train


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_pictures_are_shared_out(tmp_path: Path) -> None:
    made = recipe(pictures(tmp_path / "data"), tmp_path / "out", validation_split=0.4, flip_aug=True)
    subsets = find_subsets(made)
    trained, kept = (split_subsets(subsets, made, 5, validation=which) for which in (False, True))
    files = [{file for subset in part for file in subset.files} for part in (trained, kept)]
    assert files[0] | files[1] == {file for subset in subsets for file in subset.files}
    assert files[0] and files[1] and not files[0] & files[1]
    assert all(subset.repeats == 1 and not subset.augmentation.flip_aug for subset in kept)
    assert split_subsets(subsets, made, 5, validation=True) == kept
    assert validation_timesteps(recipe_from_settings({"min_timestep": 500}), 1000) == [600, 700, 800, 900]


@pytest.mark.long
def test_the_same_network_has_the_same_loss_and_training_is_not_disturbed(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    outs = [tmp_path / name for name in ("often", "again", "seldom")]
    for out in outs:
        more = {"validate_every_n_steps": 1, "save_every_n_steps": 1}
        if out.name == "seldom":
            more = {"validate_every_n_epochs": 2}
        train(recipe(data, out, validation_split=0.4, rank_dropout=0.3, max_train_epochs=2, **more), model=tiny_model())
    often, again, seldom = (rows(out / "last.validation.csv") for out in outs)
    assert often == again and often[0][:3] == ["step", "epoch", "loss"] and len(often) > 3
    assert seldom[1:] == often[-1:]
    for out, found in zip(outs, (often, again, seldom), strict=True):  # the best is kept unless it is the last one
        step = min(found[1:], key=lambda row: float(row[2]))[0]
        best = out / "last-best.safetensors"
        assert best.exists() == (step != found[-1][0])
        if best.exists():
            mine, same = load_file(best), load_file(out / f"last-step{int(step):08}.safetensors")
            assert all(torch.equal(mine[key], same[key]) for key in same)
    first, _, last = ([row[:3] for row in rows(out / "last.csv")] for out in outs)
    assert first == last


@pytest.mark.long
def test_a_run_that_does_not_get_better_ends(tmp_path: Path) -> None:
    data, out = pictures(tmp_path / "data"), tmp_path / "out"
    more = {"validation_split": 0.4, "early_stopping_patience": 2, "max_train_epochs": 9, "learning_rate": 1e-30}
    host = RecordingHost()
    result = train(recipe(data, out, **more), model=tiny_model(), host=host)
    assert [row[1] for row in rows(out / "last.validation.csv")[1:]] == ["1", "2", "3"]
    assert result.file is not None and result.file.exists() and not result.stopped
    (told,) = [text for text in host.said if "has the lowest validation loss" in text]
    assert told.startswith("last-best.safetensors") and told.endswith("last.safetensors has all steps")
    with pytest.raises(TrainError, match="set validation_split"):
        recipe_from_settings({"early_stopping_patience": 2})

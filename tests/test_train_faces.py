"""Faces: given by names, or found by OpenCV where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.data.faces import opencv_face_finder, parse_face_box


def test_faces_given_by_names() -> None:
    assert parse_face_box(Path("ann_320_200_90_110.png")) == (275, 145, 90, 110)
    assert parse_face_box(Path("ann_320_200.png")) is None and parse_face_box(Path("a_1_2_0_0.png")) is None


def test_a_missing_opencv_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(TrainError, match=r"pip install 'opencv-python-headless<4\.12'"):
        opencv_face_finder()
    image = Image.new("RGB", (300, 200))
    image.paste("white", (240, 20, 260, 40))
    image.save(tmp_path / "a_250_30_20_20.png")
    recipe = Recipe(train_data_dir=str(tmp_path), resolution="64", face_crop_aug_range="1.0,2.0", dataset_repeats=4)
    for batch in Dataset.from_recipe(recipe).epoch_batches(0):  # the name tells, nothing else is needed
        assert batch.pixels is not None and float((batch.pixels > 0).float().mean()) > 0.2
    image.save(tmp_path / "b.png")
    with pytest.raises(TrainError, match="face_crop_aug_range finds faces"):
        Dataset.from_recipe(recipe)


def test_opencv_finds_nothing_in_nothing() -> None:
    pytest.importorskip("cv2")
    assert opencv_face_finder()(Image.new("RGB", (200, 200))) is None

"""Crop and mask of a picture: data beside it, what training makes of them, and how they are undone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.dataset_scan import scan_dataset
from lora_ext.train.data.picture_edit import PictureEdit, load_cropped_image, load_picture_edit, picture_edit_path
from lora_ext.train.data.resize_images import resize_folder


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, format="PNG")
    return out.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (height, width, 3), np.uint8)


def half(height: int, width: int) -> np.ndarray:
    """White on the left, black on the right."""
    values = np.zeros((height, width), np.uint8)
    values[:, : width // 2] = 255
    return values


def batch_of(folder: Path, **more: Any) -> Any:
    recipe = Recipe(train_data_dir=str(folder), resolution="64", train_batch_size=1, **more)
    return next(iter(Dataset.from_recipe(recipe).epoch_batches(0)))


def test_what_is_trained_is_the_crop_with_its_mask(tmp_path: Path) -> None:
    """The same batch as from a file that was cropped in another program, with the mask's part over it."""
    edited, cropped = tmp_path / "edited", tmp_path / "cropped"
    for folder in (edited, cropped):
        folder.mkdir()
    whole = noise(96, 128)
    (edited / "a.png").write_bytes(png(whole))
    picture_edit_path(edited / "a.png").write_bytes(PictureEdit((32, 16, 64, 64), png(half(96, 128))).to_json())
    (cropped / "a.png").write_bytes(png(whole[16:80, 32:96]))
    mine, theirs = batch_of(edited), batch_of(cropped)
    assert torch.equal(mine.pixels, theirs.pixels) and theirs.mask is None
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :4] = 1  # the picture's left half ends in the middle of the crop
    assert torch.equal(mine.mask, expected)
    assert mine.original_sizes == ((64, 64),)
    assert np.array_equal(np.asarray(load_cropped_image(edited / "a.png").rgb), whole[16:80, 32:96])


def test_another_crop_or_mask_is_another_picture_to_the_cache(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(64, 64)))

    def digest() -> str:
        return scan_dataset(find_subsets(Recipe(train_data_dir=str(tmp_path)))).images[0].digest

    found = {digest()}
    for edit in (PictureEdit((0, 0, 32, 32)), PictureEdit((1, 0, 32, 32)), PictureEdit(None, png(half(64, 64)))):
        picture_edit_path(tmp_path / "a.png").write_bytes(edit.to_json())
        found.add(digest())
    assert len(found) == 4


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"crop": [0, 0, 99, 99]}', b'{"crop": [0, 0, 1.5, 2]}', b'{"mask": "?"}', b'{"mask": "aaaa"}'],
)
def test_a_damaged_edit_leaves_the_picture_out_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(64, 64)))
    picture_edit_path(tmp_path / "a.png").write_bytes(content)
    with pytest.raises(TrainError, match=r"a\.png"):
        scan_dataset(find_subsets(Recipe(train_data_dir=str(tmp_path))))


def test_smaller_copies_have_the_crop_and_name_the_mask(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "a.png").write_bytes(png(noise(96, 128)))
    picture_edit_path(source / "a.png").write_bytes(PictureEdit((0, 0, 64, 32), png(half(96, 128))).to_json())
    report = resize_folder(source, target, divisible_by=1, save_as_png=True)
    assert "its painted mask is left out" in report.skipped[0]
    assert {Image.open(path).size for path in target.iterdir()} == {(64, 32)}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from test_web import Client

    client = Client(tmp_path)
    folder = tmp_path / "datasets" / "cats"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png(noise(96, 128)))
    yield client
    client.app_state.jobs.close()


def test_crop_and_mask_by_the_page_and_their_undo(api: Any, tmp_path: Path) -> None:
    picture = tmp_path / "datasets" / "cats" / "a.png"
    before, where = picture.read_bytes(), {"dataset": "cats", "picture": "a.png"}

    def files() -> list[str]:
        return sorted(path.name for path in picture.parent.iterdir())

    mask = base64.b64encode(png(half(48, 64))).decode()
    saved = api("PUT", "/dataset/edit", json={**where, "crop": [0, 0, 64, 96], "mask": mask})
    assert files() == ["a.png", "a.png.edit.json"] and picture.read_bytes() == before
    first = picture_edit_path(picture).read_bytes()
    shown = api("GET", "/dataset/edit", params=where)
    assert shown["size"] == [128, 96] and shown["crop"] == [0, 0, 64, 96] and shown["mask"]
    (row,) = api("GET", "/dataset", params={"name": "cats"})["pictures"]
    assert (row["size"], row["cropped"], row["masked"]) == ([64, 96], True, True)
    for route, size in (("thumbnail", (64, 96)), ("whole", (128, 96))):
        image = api("GET", f"/dataset/{route}", params=where)
        assert Image.open(io.BytesIO(image.content)).size == size
    second = api("PUT", "/dataset/edit", json=where)  # as it was: nothing is beside it
    assert files() == ["a.png"]
    api("POST", "/dataset/undo", json={"change": second["undo"]})
    assert picture_edit_path(picture).read_bytes() == first
    assert api("PUT", "/dataset/edit", json={**where, "crop": [0, 0, 64, 96], "mask": shown["mask"]})["undo"] is None
    picture_edit_path(picture).write_bytes(first + b" ")
    assert "changed since" in api("POST", "/dataset/undo", json={"change": saved["undo"]})["skipped"][0]
    picture_edit_path(picture).write_bytes(first)
    api("DELETE", "/dataset/picture", params=where)
    assert files() == [] and load_picture_edit(tmp_path / "removed" / "cats" / "a.png")[1] == first


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"crop": [0, 0, 200, 10]}, "does not lie in the picture"),
        ({"mask": base64.b64encode(png(np.zeros((96, 128), np.uint8))).decode()}, "leaves everything out"),
        ({"mask": base64.b64encode(png(half(96, 96))).decode()}, "another shape"),
        ({"mask": "aaaa"}, "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(api: Any, edit: dict[str, Any], said: str) -> None:
    assert said in api("PUT", "/dataset/edit", 400, json={"dataset": "cats", "picture": "a.png", **edit})["error"]

"""Missing regularisation pictures are drawn, once, by the names of their folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from test_train_folders import draw

from lora_ext.errors import TrainError
from lora_ext.protocols import SampleSpec
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.dataset_scan import scan_dataset
from lora_ext.train.run.regularisation_images import generate_missing_images, missing_regularisation_images


class Model:
    """Draws its seed's colour; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[SampleSpec] = []

    def __call__(self, spec: SampleSpec) -> Image.Image:
        self.asked.append(spec)
        return Image.new("RGB", (spec.width, spec.height), (spec.seed or 0) % 2**24)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """3 pictures × 4 repeats, two classes, one of which has a picture."""
    for number in range(3):
        draw(tmp_path / "train" / "4_sks dog" / f"{number}.png")
    draw(tmp_path / "reg" / "1_dog" / "mine.jpg")
    (tmp_path / "reg" / "1_cat").mkdir()
    (tmp_path / "reg" / "notes").mkdir()
    folders = {"train_data_dir": str(tmp_path / "train"), "reg_data_dir": str(tmp_path / "reg")}
    return Recipe(**folders, reg_generate=True, resolution="64,32")  # type: ignore[arg-type]


def test_each_class_is_filled_up_to_its_share(recipe: Recipe, tmp_path: Path) -> None:
    model = Model()
    assert generate_missing_images(missing_regularisation_images(recipe, 1), model, recipe.size()) == 6 + 5
    assert [spec.prompt for spec in model.asked] == ["cat"] * 6 + ["dog"] * 5
    assert len({spec.seed for spec in model.asked}) == 11
    assert {(spec.width, spec.height) for spec in model.asked} == {(64, 32)}
    assert len(list((tmp_path / "reg" / "1_cat").glob("*.png"))) == 6
    assert not missing_regularisation_images(recipe, 1)
    (tmp_path / "reg" / "1_cat" / "drawn-0003.png").unlink()
    again = missing_regularisation_images(recipe, 1)
    assert [item.path.name for item in again] == ["drawn-0003.png"] and again[0].seed == model.asked[2].seed


def test_it_can_be_stopped(recipe: Recipe) -> None:
    model = Model()
    assert (
        generate_missing_images(
            missing_regularisation_images(recipe, 1), model, (64, 32), cancelled=lambda: len(model.asked) == 2
        )
        == 2
    )
    assert len(missing_regularisation_images(recipe, 1)) == 9


def test_not_asked_or_not_possible(recipe: Recipe, tmp_path: Path) -> None:
    assert not missing_regularisation_images(replace(recipe, reg_generate=False), 1)
    with pytest.raises(TrainError, match="set that folder"):
        missing_regularisation_images(replace(recipe, reg_data_dir=None), 1)
    (tmp_path / "none" / "notes").mkdir(parents=True)
    with pytest.raises(TrainError, match="that names a class, such as '1_dog'"):
        missing_regularisation_images(replace(recipe, reg_data_dir=str(tmp_path / "none")), 1)


def test_words_of_a_class_are_chosen_for_each_image_and_are_its_caption(tmp_path: Path) -> None:
    """The folder is made; a fourth of the images has no caption, and the prefix of the trained ones is not theirs."""
    draw(tmp_path / "train" / "2_mug" / "a.png")
    root = tmp_path / "data" / "reg"
    recipe = Recipe(
        train_data_dir=str(tmp_path / "train"), reg_data_dir=str(root), reg_generate=True, num_class_images=40,
        class_prompt="a {red|blue} {cup|plate}", prior_loss_target="model", caption_prefix="sks", resolution="64,32",
    )  # fmt: skip
    assert [subset.name for subset in find_subsets(recipe)] == ["2_mug"]  # nothing is drawn yet
    model = Model()
    assert generate_missing_images(missing_regularisation_images(recipe, 1), model, recipe.size()) == 40
    prompts = {spec.prompt for spec in model.asked}
    assert prompts == {f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("cup", "plate")}
    subset = find_subsets(recipe)[1]
    assert (subset.regularisation, subset.caption_rules.caption_prefix) == (True, None)
    captions = [image.caption for image in scan_dataset(find_subsets(recipe)).images if image.subset == 1]
    assert set(captions) == prompts | {""} and 4 <= captions.count("") <= 16
    assert [text or spec.prompt for text, spec in zip(captions, model.asked, strict=True)] == [
        spec.prompt for spec in model.asked
    ]

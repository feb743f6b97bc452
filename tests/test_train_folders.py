"""Where pictures and captions are found, and what is said about what is not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lora_ext.errors import TrainError
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.caption_lists import load_caption_list
from lora_ext.train.data.dataset import Dataset
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.dataset_scan import scan_dataset
from lora_ext.train.data.subset import check_folder
from lora_ext.training.settings_for_pictures import scan_picture_folder


def draw(path: Path, size: tuple[int, int] = (64, 64), colour: str = "red", caption: str | None = None) -> Path:
    """A picture file, with a caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def test_concepts_with_repeats(tmp_path: Path) -> None:
    draw(tmp_path / "10_a red dog" / "b.png", caption="dog, sitting")
    draw(tmp_path / "10_a red dog" / "a.PNG")
    (tmp_path / "10_a red dog" / "._a.png").write_bytes(b"macOS")
    draw(tmp_path / "3_style_two" / "x.jpg")
    draw(tmp_path / "0_off" / "x.jpg")
    draw(tmp_path / "notes" / "x.jpg")
    draw(tmp_path / "stray.jpg")
    (tmp_path / "5_empty").mkdir()
    said: list[str] = []
    found = find_subsets(Recipe(train_data_dir=str(tmp_path)), said.append)
    assert [(s.name, s.repeats, s.concept, len(s.files)) for s in found] == [
        ("10_a red dog", 10, "a red dog", 2),
        ("3_style_two", 3, "style_two", 1),
    ]
    text = "\n".join(said)
    assert "1 picture directly in" in text and "'notes'" in text and "5_empty" in text
    assert "0_off has 0 repeats, so none of its pictures is used" in text and "'0_off'" not in text
    pictures = scan_dataset(found).images
    assert [(p.path.name, p.caption, p.has_caption) for p in pictures] == [
        ("a.PNG", "a red dog", False),
        ("b.png", "dog, sitting", True),
        ("x.jpg", "style_two", False),
    ]


def test_a_picked_folder_keeps_its_repeats(tmp_path: Path) -> None:
    folder = draw(tmp_path / "3_my dog" / "a.png").parent
    (found,) = find_subsets(Recipe(train_data_dir=str(folder)))
    assert (found.repeats, found.concept) == (3, "my dog")
    (found,) = find_subsets(Recipe(train_data_dir=str(folder), dataset_repeats=7, instance_prompt="sks"))
    assert (found.repeats, found.concept) == (7, "sks")


def test_regularisation_is_balanced_in_each_dataset(tmp_path: Path) -> None:
    """As in kohya's scripts; one without training pictures has none, which is said."""
    for name, count in (("a", 5), ("reg_a", 2), ("b", 1), ("reg_b", 3), ("reg_c", 2)):
        for number in range(count):
            draw(tmp_path / name / f"{number}.png", colour=f"#{count}{number}0000"[:7])
    table = "[[datasets]]\n{}".format
    subset = "[[datasets.subsets]]\nimage_dir = '{}'\nis_reg = {}\n".format
    text = table(subset("a", "false") + subset("reg_a", "true")) + table(subset("b", "false") + subset("reg_b", "true"))
    (tmp_path / "x.toml").write_text(text + table(subset("reg_c", "true")))
    said: list[str] = []
    data = Dataset.from_recipe(Recipe(dataset_config=str(tmp_path / "x.toml"), resolution="64"), notify=said.append)
    for epoch in range(3):
        names = [data.images[item.image].path.parent.name for item in data.sample_order.epoch_items(epoch)]
        assert Counter(names) == {"a": 5, "reg_a": 5, "b": 1, "reg_b": 1}
    used = {item.image for epoch in range(3) for item in data.sample_order.epoch_items(epoch)}
    assert len(used) == 5 + 2 + 1 + 3  # the next epoch goes on where the last one ended
    assert any("dataset 3: its regularisation pictures are not used" in sentence for sentence in said)


def test_a_dataset_file_whose_regularisation_is_empty_is_told(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png")
    (tmp_path / "reg").mkdir()
    subset = "[[datasets.subsets]]\nimage_dir = '{}'\nis_reg = {}\n".format
    (tmp_path / "x.toml").write_text(f"[[datasets]]\n{subset('a', 'false')}{subset('reg', 'true')}")
    said: list[str] = []
    find_subsets(Recipe(dataset_config=str(tmp_path / "x.toml")), said.append)
    assert any("so there is no regularisation" in sentence for sentence in said)


def test_a_plain_folder_and_regularisation(tmp_path: Path) -> None:
    draw(tmp_path / "pics" / "1.png", caption="one")
    draw(tmp_path / "reg" / "2_dog" / "1.png")
    recipe = Recipe(
        train_data_dir=str(tmp_path / "pics"),
        reg_data_dir=str(tmp_path / "reg"),
        dataset_repeats=7,
        prior_loss_weight=0.5,
    )
    plain, regular = find_subsets(recipe)
    assert (plain.repeats, plain.loss_weight, plain.regularisation) == (7, 1.0, False)
    assert (regular.repeats, regular.loss_weight, regular.regularisation, regular.concept) == (2, 0.5, True, "dog")


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "kohya.json"])
def test_lists_of_captions(tmp_path: Path, name: str) -> None:
    draw(tmp_path / "a.png", caption="not this one")
    draw(tmp_path / "deep" / "b.png", colour="blue")
    draw(tmp_path / "unlisted.png")
    rows = [{"file_name": "a.png", "text": "first"}, {"file_name": "deep/b.png", "text": "sécond, two"}]
    recipe = Recipe(train_data_dir=str(tmp_path))
    if name.endswith("jsonl"):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    elif name.endswith("csv"):
        text = 'file_name,text\na.png,first\ndeep/b.png,"sécond, two"\n'
    else:
        text = json.dumps({"a": {"caption": "first"}, "deep/b.png": {"caption": "sécond", "tags": "two"}})
        recipe = Recipe(train_data_dir=str(tmp_path), in_json=str(tmp_path / name))
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = scan_dataset(find_subsets(recipe))
    assert [(p.path.name, p.caption) for p in found.images] == [("a.png", "first"), ("b.png", "sécond, two")]


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("{}/deep/b", "deep/b.png"),  # full paths as kohya's scripts write them
        ("{}/deep/b.png", "deep/b.png"),
        ("C:\\\\data\\\\deep\\\\b.png", "deep/b.png"),  # of another machine: the longest end that is here
        ("C:\\\\old\\\\b.png", "b.png"),
        ("/home/me/data/deep/b", "deep/b.png"),
        ("deep\\\\b", "deep/b.png"),
        ("C:\\\\data\\\\..\\\\b.png", None),
        ("old/b.png", None),
    ],
)
def test_full_paths_in_kohyas_metadata(tmp_path: Path, key: str, image: str | None) -> None:
    for name in ("b.png", "deep/b.png"):
        draw(tmp_path / name)
    listed = tmp_path / "meta.json"
    listed.write_text(f'{{"{key.format(tmp_path.as_posix())}": {{"caption": "dog"}}}}', encoding="utf-8")
    if image is None:
        with pytest.raises(TrainError, match="has no picture"):
            load_caption_list(listed, tmp_path)
    else:
        assert load_caption_list(listed, tmp_path) == {tmp_path / image: "dog"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "cannot be read"),
        ('{"x": 1}', "row 1 has no file_name"),
        ('{"file_name": "z.png"}', "no picture z.png"),
    ],
)
def test_broken_lists_say_where(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(TrainError, match=says):
        find_subsets(Recipe(train_data_dir=str(tmp_path)))


TOML = """
[general]
shuffle_caption = true
keep_tokens = 1

[[datasets]]
resolution = [256, 192]
batch_size = 2
enable_bucket = true
min_bucket_reso = 64

  [[datasets.subsets]]
  image_dir = "one"
  class_tokens = "thing"
  num_repeats = 3
  keep_tokens = 2

  [[datasets.subsets]]
  is_reg = true
  image_dir = "reg"
  shuffle_caption = false

[[datasets]]
resolution = 128
  [[datasets.subsets]]
  image_dir = "one"
  flip_aug = true
"""


def test_kohya_s_dataset_file(tmp_path: Path) -> None:
    draw(tmp_path / "one" / "a.png")
    draw(tmp_path / "reg" / "b.png")
    (tmp_path / "set.toml").write_text(TOML, encoding="utf-8")
    recipe = Recipe(dataset_config=str(tmp_path / "set.toml"), prior_loss_weight=0.3, train_batch_size=5)
    one, regular, two = find_subsets(recipe)
    assert (one.repeats, one.concept, one.batch_size, one.caption_rules.keep_tokens) == (3, "thing", 2, 2)
    assert (
        one.bucket_rules.resolution == (256, 192)
        and one.bucket_rules.enable_bucket
        and one.caption_rules.shuffle_caption
    )
    assert regular.regularisation and regular.loss_weight == 0.3 and not regular.caption_rules.shuffle_caption
    assert (two.bucket_rules.resolution, two.batch_size, two.augmentation.flip_aug) == ((128, 128), 5, True)
    assert two.caption_rules.shuffle_caption and two.caption_rules.keep_tokens == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[general", "is not TOML"),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir="C:\\Users\\me\\train"', "is not TOML: .*; write paths with /"),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir="D:\\data"',
            "not TOML: .*; write paths with /",
        ),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir="D:\\train\\new"',
            r"read as 'D:\\train\\new'; write",
        ),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='D:\\train\\new'", "does not exist"),
        (
            "[general]\nkeep_token = 1\n" + TOML.partition("[general]")[2].partition("[[")[1] + "datasets]]\n",
            "no pictures",
        ),
        ("[generel]", "did you mean 'general'"),
        ("[[datasets]]\nkeep_token=1\n[[datasets.subsets]]\nimage_dir='one'", "did you mean 'keep_tokens'"),
        (
            "[[datasets]]\n[[datasets.subsets]]\nimage_dir='one'\nkeep_tokens='two'",
            "keep_tokens must be a whole",
        ),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='one'\nnum_repeats=0", "num_repeats must be 1 or more"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='ones'", "did you mean '.*one'"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats=2", "no image_dir"),
        ("[datasets]", "two brackets"),
        ("[[datasets]]\nkeep_token=1\nflip_au=1\n[[datasets.subsets]]\nimage_dir='one'", "'keep_tokens'.*'flip_aug'"),
        ("[general]\ndebug_dataset=true\n[[datasets]]", "debug_dataset is not supported here"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir='one'\nis_reg=1", "is_reg is 1"),
    ],
)
def test_dataset_files_that_cannot_be_say_what_to_change(tmp_path: Path, text: str, says: str) -> None:
    draw(tmp_path / "one" / "a.png")
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    with pytest.raises(TrainError, match=says):
        find_subsets(Recipe(dataset_config=str(tmp_path / "set.toml")))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="set train_data_dir"):
        find_subsets(Recipe())
    (tmp_path / "training").mkdir()
    with pytest.raises(TrainError, match=r"trainin does not exist; did you mean '.*training'"):
        find_subsets(Recipe(train_data_dir=str(tmp_path / "trainin")))
    with pytest.raises(TrainError, match="10_my concept"):
        find_subsets(Recipe(train_data_dir=str(tmp_path / "training")))
    with pytest.raises(TrainError, match="is a file, not a folder; give the folder that it is in, "):
        find_subsets(Recipe(train_data_dir=str(draw(tmp_path / "a.png"))))
    with pytest.raises(TrainError, match="face_crop_aug_range"):
        find_subsets(Recipe(train_data_dir=str(tmp_path), face_crop_aug_range="4,2"))


def test_pictures_that_cannot_be_read_are_skipped_or_stop(tmp_path: Path) -> None:
    draw(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    found = find_subsets(Recipe(train_data_dir=str(tmp_path)))
    looked = scan_dataset(found)
    assert len(looked.images) == 1 and "bad.png" in looked.skipped[0]
    with pytest.raises(TrainError, match=r"bad\.png"):
        scan_dataset(found, strict=True)
    (tmp_path / "good.png").unlink()
    with pytest.raises(TrainError, match="the only picture cannot be read"):
        scan_dataset(find_subsets(Recipe(train_data_dir=str(tmp_path))))


def test_a_folder_with_a_name_of_thousands_of_letters(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"image_dir .*p (cannot be read|does not exist)"):
        check_folder(tmp_path / ("p" * 5000), "image_dir")


@pytest.mark.parametrize("find", [lambda folder: find_subsets(Recipe(train_data_dir=str(folder))), scan_picture_folder])
def test_pictures_that_are_elsewhere_are_found(find: Callable[[Path], object], tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        with pytest.raises(TrainError) as error:
            find(folder)
        return str(error.value)

    (tmp_path / "__MACOSX").mkdir()
    assert said(tmp_path).endswith(".tif")  # nothing to say
    draw(tmp_path / ".cache" / "more" / "a.png")
    draw(tmp_path / "2024" / "summer" / "a.png")
    summer = tmp_path / "2024" / "summer"
    assert said(tmp_path).endswith(f"; there are some in {summer}: give that folder")
    archive = tmp_path / "Photos.ZIP"
    archive.touch()
    assert said(tmp_path).endswith(f"; unpack {archive} first")
    assert said(archive).endswith(f"{archive} is a file, not a folder; unpack it and give the folder")

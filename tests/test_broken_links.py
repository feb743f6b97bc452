"""Links whose files do not exist are named in one line wherever a folder is scanned."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_tools_laws import file_of
from test_train_folders import draw

from lora_ext import cli
from lora_ext.compare.scores import find_training_images
from lora_ext.errors import FileError, TrainError
from lora_ext.file.saving import save_lora_file
from lora_ext.host.standalone.embeddings import EmbeddingTable, embeddings_in_folders
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.captioning import caption_folder
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.dataset_scan import scan_dataset
from lora_ext.train.data.pair_dataset import PairDataset
from lora_ext.train.data.resize_images import resize_folder


def link(path: Path, target: str = "/gone/away") -> Path:
    """A link that leads nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


TWO = r"there are 2 links that lead nowhere, the first is .*b\.png \(to /gone/away\)"


def test_pictures_to_train_on(tmp_path: Path) -> None:
    folder = draw(tmp_path / "a.png").parent
    for name in ("b.png", "c.png", ".hidden.png", "notes.txt"):
        link(folder / name)
    (skipped,) = scan_dataset(find_subsets(Recipe(train_data_dir=str(folder)))).skipped
    assert re.fullmatch(TWO, skipped) and f"first is {folder}/b.png" in skipped
    with pytest.raises(TrainError, match=TWO):
        scan_dataset(find_subsets(Recipe(train_data_dir=str(folder))), strict=True)
    (folder / "a.png").unlink()
    with pytest.raises(TrainError, match=f"has no pictures to train on; .*; {TWO}"):
        find_subsets(Recipe(train_data_dir=str(folder)))


def test_folders_to_train_on(tmp_path: Path) -> None:
    draw(tmp_path / "10_dog" / "a.png")
    link(tmp_path / "5_cat")
    link(tmp_path / "3_cow" / "a.png")
    said: list[str] = []
    find_subsets(Recipe(train_data_dir=str(tmp_path)), said.append)
    assert said == [
        f"{tmp_path}/3_cow has no pictures; the link {tmp_path}/3_cow/a.png leads nowhere (to /gone/away)",
        f"the link {tmp_path}/5_cat leads nowhere (to /gone/away)",
    ]


@pytest.mark.parametrize("which", ["a.png", "a_target.png"])
def test_pairs(tmp_path: Path, which: str) -> None:
    for name in {"a.png", "a_target.png", "b.png", "b_target.png"} - {which}:
        draw(tmp_path / name)
    link(tmp_path / which)
    recipe = Recipe(mode="multi-addift", train_data_dir=str(tmp_path), diff_target_name="_target")
    with pytest.raises(TrainError, match=f"{which} cannot be read: it is a link that leads nowhere"):
        PairDataset.from_recipe(recipe)


def test_pictures_to_caption_and_to_resize(tmp_path: Path) -> None:
    folder = draw(tmp_path / "in" / "a.png").parent
    link(folder / "b.png")
    link(folder / "c.png")
    assert caption_folder(folder, lambda images: ["x"] * len(images)).skipped[0].startswith("there are 2 links")
    assert re.fullmatch(TWO, resize_folder(folder, tmp_path / "out").skipped[0])
    (folder / "a.png").unlink()
    for call in (
        lambda: caption_folder(folder, lambda images: ["x"] * len(images)),
        lambda: resize_folder(folder, tmp_path / "out"),
    ):
        with pytest.raises(TrainError, match=f"has no pictures; --recursive .*; {TWO}"):
            call()


def test_pictures_that_a_sheet_is_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = draw(tmp_path / "a.png").parent
    link(folder / "b.png")
    assert find_training_images(folder) == [folder / "a.png"]
    assert f"left out: the link {folder}/b.png leads nowhere" in capsys.readouterr().err
    (folder / "a.png").unlink()
    with pytest.raises(FileError, match=r"no pictures \(.*\) in .*; the link .*b\.png leads nowhere"):
        find_training_images(folder)


@pytest.mark.parametrize("given", [lambda folder: str(folder), lambda folder: f"{folder}/*"], ids=["folder", "pattern"])
def test_files_of_a_command(given: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_lora_file(file_of("lora", 1), tmp_path / "a.safetensors")
    link(tmp_path / "b.safetensors")
    link(tmp_path / "c.pt")
    assert cli.main(["inspect", given(tmp_path)]) == 0
    assert f"left out: there are 2 links that lead nowhere, the first is {tmp_path}/b.safetensors (to /gone/away)" in (
        capsys.readouterr().err
    )


def test_embeddings(tmp_path: Path) -> None:
    link(tmp_path / "word.pt")
    link(tmp_path / "more")
    known = EmbeddingTable(lambda text: [7], [768], embeddings_in_folders([tmp_path]))
    assert known.find_at([7], 0) is None
    assert known.skipped.keys() == {"word"} and "is a link that leads nowhere (to /gone/away)" in known.skipped["word"]

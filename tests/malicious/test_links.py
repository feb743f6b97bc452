"""Links are followed for reading, and never written through: one rule for every folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lora_ext.errors import FileError, LoraError, TrainError
from lora_ext.file.saving import check_not_linked, replacing_file
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.data.captioning import caption_folder
from lora_ext.train.data.content_cache import CACHE_FOLDER_NAME, TensorCache
from lora_ext.train.data.dataset_folders import find_subsets
from lora_ext.train.data.dataset_scan import scan_dataset
from lora_ext.train.run.output_files import remove_saved
from lora_ext.train.run.regularisation_images import missing_regularisation_images

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
sys.path.insert(0, str(Path(__file__).parent.parent))
from test_web import Client, lora

SECRET = "export TOKEN=hunter2"


def link(path: Path, target: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("no links on this system")
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "teal").save(path)
    return path


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    """A dataset as an archive may bring it: links to files of the user, and to a folder."""
    root, home = tmp_path / "root", tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text(SECRET, encoding="utf-8")
    (home / "notes.txt").write_text("mine", encoding="utf-8")
    picture(home / "album" / "deep.png")
    client = Client(root)
    data = root / "datasets" / "cats"
    for name in "abcd":
        picture(data / f"{name}.png")
    link(data / "passwd.png", home / ".bashrc")
    link(data / "a.txt", home / ".bashrc")
    link(data / "b.txt", home / "notes.txt")
    (data / "c.txt").write_text("a cat", encoding="utf-8")
    link(data / "e.png", home / "album" / "deep.png")
    link(root / "datasets" / "album", home / "album")
    yield client
    client.app_state.jobs.close()


def test_a_linked_dataset_and_a_linked_picture_are_shown(api: Client) -> None:
    found = api("GET", "/dataset?name=cats")
    names = {row["name"] for row in found["pictures"]}
    assert names == {"b.png", "c.png", "d.png", "e.png"}
    for name in names:
        api("GET", "/dataset/thumbnail", params={"dataset": "cats", "picture": name})
    assert [row["name"] for row in api("GET", "/dataset?name=album")["pictures"]] == ["deep.png"]
    assert "album" in api("GET", "/train/form")["datasets"]


def test_what_is_no_picture_and_no_caption_is_not_read(api: Client) -> None:
    """A link to a private file: its text is neither shown nor trained on, and one sentence says so."""
    answer = api("GET", "/dataset?name=cats")
    assert SECRET not in str(answer) and len(answer["skipped"]) == 2
    assert any("a.txt" in line and "link to .bashrc" in line for line in answer["skipped"])
    assert "passwd.png" in "".join(answer["skipped"])
    assert api("GET", "/dataset/thumbnail", 400, params={"dataset": "cats", "picture": "passwd.png"})
    found = scan_dataset(find_subsets(Recipe(train_data_dir=str(api.root / "datasets" / "cats"))))
    assert SECRET not in str([picture.caption for picture in found.images])


def test_captions_are_not_written_through_links(api: Client, tmp_path: Path) -> None:
    home = tmp_path / "home"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for dataset, name in (("cats", "a.png"), ("cats", "b.png"), ("album", "deep.png")):
        body = {"dataset": dataset, "picture": name, "caption": "mine now"}
        said = api("PUT", "/dataset/caption", 400, json=body)["error"]
        assert "is a link, and nothing is written through links" in said and str(api.root) not in said
    api("PUT", "/dataset/caption", json={"dataset": "cats", "picture": "e.png", "caption": "beside the link"})
    assert (api.root / "datasets" / "cats" / "e.txt").read_text(encoding="utf-8") == "beside the link\n"
    done = api("POST", "/dataset/replace", json={"dataset": "cats", "find": "mine", "put": "x", "dry": False})
    assert done["changed"] == 0 and any("b.txt" in line for line in done["skipped"])
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert (api.root / "datasets" / "cats" / "a.txt").is_symlink()


def test_the_caption_command_writes_through_no_link(api: Client, tmp_path: Path) -> None:
    data = api.root / "datasets" / "cats"
    done = caption_folder(data, lambda images: ["said"] * len(images), overwrite=True)
    assert {Path(path).name for path, _ in done.written} == {"c.png", "d.png", "e.png"}
    assert any("a.txt" in line for line in done.skipped) and any("b.txt" in line for line in done.skipped)
    assert (tmp_path / "home" / ".bashrc").read_text(encoding="utf-8") == SECRET
    assert (tmp_path / "home" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "home" / "album" / "deep.txt").exists()


def test_a_linked_checkpoint_is_listed_and_taken(api: Client, tmp_path: Path) -> None:
    from lora_ext import embedded

    folder, home = api.root / "checkpoints", tmp_path / "home"
    (home / "models").mkdir()
    stored = home / "models" / "mine.safetensors"
    save_file({"x": torch.zeros(1)}, stored)
    link(folder / "one.safetensors", stored)
    link(folder / "more", home / "models")
    link(folder / "gone.safetensors", home / "nowhere.safetensors")
    link(folder / "itself.safetensors", folder / "itself.safetensors")
    names = [name for name in api("GET", "/choices")["checkpoints"] if name]
    assert names == ["more/mine.safetensors", "one.safetensors"]
    for name in names:
        assert api.app_state.backend.checkpoint_path(name).samefile(stored)
    said = api("POST", "/train", 400, json={"settings": {"pretrained_model_name_or_path": "gone.safetensors"}})
    assert "there is no 'gone.safetensors'" in said["error"] and "did you mean 'gone" not in said["error"]
    with api.app_state.backend.open_trainable_model(
        str(embedded.CHECKPOINT)
    ) as tiny_model:  # a bad one beside it does not matter
        assert tiny_model.family == "SD1"


def test_linked_loras_are_read_and_not_changed(api: Client, tmp_path: Path) -> None:
    store = tmp_path / "home" / "loras"
    store.mkdir()
    lora(store / "far.safetensors", 3, note="a")
    link(api.root / "loras" / "sub", store)
    link(api.root / "loras" / "single.safetensors", store / "far.safetensors")
    api.app_state.refresh_library()
    assert {row["name"] for row in api("GET", "/library?limit=50")["rows"]} >= {"sub/far", "single"}
    assert api("GET", "/inspect?name=sub/far")["metadata"] == {"note": "a"}
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    data = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYPgPAAEDAQAIicLsAAAAAElFTkSuQmCC"
    for route, method, body in (
        ("/metadata", "POST", {"name": "sub/far", "put": {"note": "b"}}),
        ("/metadata", "POST", {"name": "single", "put": {"note": "b"}}),
        ("/rename", "POST", {"name": "sub/far", "to": "sub/near"}),
        ("/rename", "POST", {"name": "single", "to": "sub/near"}),
        ("/thumbnail", "PUT", {"name": "sub/far", "data": data}),
    ):
        said = api(method, route, 400, json=body)["error"]
        assert "nothing is written through links" in said, (route, said)
    job = api.done("/convert", {"name": "single", "save_to": "sub/made"})
    assert "nothing is written through links" in job["error"]
    job = api.done("/convert", {"name": "sub/far", "save_to": "single", "overwrite": True})
    assert "nothing is written through links" in job["error"]
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before
    # a preview beside a linked file lies in the user's own folder
    api("PUT", "/thumbnail", json={"name": "single", "data": data})
    assert (api.root / "loras" / "single.png").is_file() and not (store / "far.png").exists()


def test_presets_and_outputs_are_not_written_through_links(api: Client, tmp_path: Path) -> None:
    mine = tmp_path / "home" / "mine.txt"
    mine.write_text("OWN:" + ",".join(["1"] * 17) + "\n", encoding="utf-8")
    link(api.root / "presets.txt", mine)
    assert any(row["name"] == "OWN" for row in api("GET", "/presets")["presets"])
    weights = ",".join(["0"] * 17)
    said = api("PUT", "/presets", 400, json={"name": "NEW", "values": weights})["error"]
    assert "nothing is written through links" in said and "NEW" not in mine.read_text(encoding="utf-8")
    outside = tmp_path / "home" / "outside"
    outside.mkdir()
    for name in ("pictures", "train", "compare"):
        link(api.root / "outputs" / name, outside)
        with pytest.raises(FileError, match="nothing is written through links"):
            api.app_state.output_folder(name, "new")
    job = api.done("/train", {"settings": {"train_data_dir": "album"}})
    assert "nothing is written through links" in job["error"] and not list(outside.iterdir())


def test_caches_and_drawn_pictures_stay_inside(api: Client, tmp_path: Path) -> None:
    data, outside = api.root / "datasets" / "cats", tmp_path / "home" / "album"
    link(data / CACHE_FOLDER_NAME, outside)
    with pytest.raises(TrainError, match="is a link"):
        TensorCache(data / CACHE_FOLDER_NAME)
    regularisation = tmp_path / "reg"
    link(regularisation / "1_dog", outside)
    recipe = Recipe(train_data_dir=str(data), reg_data_dir=str(regularisation), reg_generate=True)
    with pytest.raises(LoraError, match="nothing is written through links"):
        missing_regularisation_images(recipe, 0)


def test_letting_go_of_old_files_removes_the_link_alone(tmp_path: Path) -> None:
    """A run's folder from elsewhere: a state in it that is a link to the user's own folder."""
    mine = picture(tmp_path / "mine" / "a.png")
    old = link(tmp_path / "run" / "last-000001-state", mine.parent)
    remove_saved(old)
    assert mine.is_file() and not old.is_symlink()


def test_the_rule_itself(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (real / "in" / "side").mkdir(parents=True)
    root = link(tmp_path / "root", real)  # the folder that the user named may be a link
    check_not_linked(root, root)
    check_not_linked(root / "in" / "side", root)
    check_not_linked(root / "in" / "not there yet", root)
    (real / "up").symlink_to(real / "in", target_is_directory=True)
    for bad in (root / "up", root / "up" / "side", root / "up" / "new", tmp_path):
        with pytest.raises(FileError):
            check_not_linked(bad, root)
    (real / "file").write_text("old", encoding="utf-8")
    link(real / "to file", real / "file")
    with pytest.raises(FileError, match="is a link"), replacing_file(real / "to file", overwrite=True) as part:
        part.write_text("new", encoding="utf-8")
    assert (real / "file").read_text(encoding="utf-8") == "old" and (real / "to file").is_symlink()

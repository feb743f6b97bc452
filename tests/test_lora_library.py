"""The folder index: names as the built-in resolves them, content that follows the disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from lora_ext.adapter_spec import Presets
from lora_ext.compare.generate_cells import tags_identity
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.errors import FileError
from lora_ext.file import hashes
from lora_ext.file.folder_listing import load_metadata_quickly
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.file.safetensors_file import load_safetensors_header
from lora_ext.file.saving import save_safetensors
from lora_ext.tools.input_files import find_input_files
from lora_ext.train.run.training_state import STATE_FOLDER_SUFFIX, STATE_NUMBERS_NAME, STATE_TENSORS_NAME

DATA = Path(__file__).parent / "data" / "kohya"


def put(folder: Path, place: str, alias: str | None = None, value: float = 1.0, **metadata: str) -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{head}.lora_up.weight": torch.full((8, 2), value), f"{head}.lora_down.weight": torch.ones(2, 8)}
    if alias is not None:
        metadata["ss_output_name"] = alias
    return save_safetensors(tensors, path, metadata=metadata, overwrite=True)


def test_the_name_that_a_trainer_gave_all_epochs_leads_to_them(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        put(tmp_path, f"cat-00000{epoch}.safetensors", "cat")
    library = LoraLibrary([tmp_path])
    says = "no LoRA is called 'Cat'; 4 files were given that name by their trainer; write 'cat-000001', 'cat-000002', "
    with pytest.raises(FileError, match=says + "'cat-000003' or 1 more"):
        library.find("Cat")
    with pytest.raises(FileError, match="known: cat-000001, "):
        library.find("catt")


def test_names_and_places(tmp_path: Path) -> None:
    put(tmp_path, "a.safetensors", "Anna")
    put(tmp_path, "sub/b.safetensors")
    put(tmp_path, "sub/deep/c.v2.safetensors", "Anna B")
    torch.save({"x": torch.ones(1)}, tmp_path / "d.pt")
    (tmp_path / "readme.txt").write_text("no")
    library = LoraLibrary([tmp_path])
    assert [entry.relative_name for entry in library.entries] == ["a", "d", "sub/b", "sub/deep/c.v2"]
    for name, place in {
        "a": "a",
        "Anna": "a",
        "anna": "a",
        "a.safetensors": "a",
        "b": "sub/b",
        "sub/b": "sub/b",
        "sub\\b": "sub/b",
        "Anna B": "sub/deep/c.v2",
        "c.v2": "sub/deep/c.v2",
        "sub/deep/C.V2.safetensors": "sub/deep/c.v2",
        "d": "d",
        "d.pt": "d",
    }.items():
        assert library.find(name).relative_name == place, name
    with pytest.raises(FileError, match="no LoRA is called ' a'; did you mean 'a'"):  # as in the web UI
        library.find(" a")
    with pytest.raises(FileError, match="no LoRA is called 'Ana'; did you mean 'Anna'"):
        library.find("Ana")
    with pytest.raises(FileError, match="known: Anna, Anna B, a"):
        library.find("something else entirely")
    assert "Anna" in library.names()
    for number in range(12):
        put(tmp_path, f"{number}.safetensors")
    with pytest.raises(FileError, match="16 files are indexed below"):
        library.find("something else entirely")


def test_colliding_names(tmp_path: Path) -> None:
    put(tmp_path, "one.safetensors", "same")
    put(tmp_path, "two.safetensors", "same")
    put(tmp_path, "x/file.safetensors")
    put(tmp_path, "y/file.safetensors")
    put(tmp_path, "n.safetensors", "none")
    library = LoraLibrary([tmp_path])
    with pytest.raises(FileError):  # the built-in takes an alias of two files for neither
        library.find("same")
    with pytest.raises(FileError):
        library.find("none")
    assert library.find("file").relative_name == "y/file"
    assert library.find("x/file").relative_name == "x/file"
    assert [library.shortest_name(entry) for entry in library.entries] == ["n", "one", "two", "x/file", "file"]
    put(tmp_path, "same.safetensors")
    assert library.find("same").relative_name == "same"


def test_natural_order_decides_which_is_last(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        put(tmp_path, f"v{number}/file.safetensors")
    library = LoraLibrary([tmp_path])
    assert [entry.relative_name for entry in library.entries] == ["v2/file", "v9/file", "v10/file"]
    assert library.find("file").relative_name == "v10/file"


def test_content_follows_the_disk(tmp_path: Path) -> None:
    path = put(tmp_path, "a.safetensors", value=1)
    library = LoraLibrary([tmp_path])
    first = library.load("a")
    assert library.load("a") is first
    put(tmp_path, "a.safetensors", value=2)
    os.utime(path, ns=(0, 10**9))
    second = library.load("a")
    assert second is not first
    assert float(next(iter(second.adapters.values())).tensors["lora_up.weight"][0, 0]) == 2
    put(tmp_path, "new.safetensors")
    assert library.find("new").relative_name == "new"
    path.unlink()
    with pytest.raises(FileError, match=r"a\.safetensors cannot be read"):
        library.entries[0].load()
    library.refresh()
    assert [entry.name for entry in library.entries] == ["new"]


def test_few_files_stay_loaded(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, f"{number}.safetensors")
    library = LoraLibrary([tmp_path], max_loaded=2)
    first = library.load("0")
    library.load("1")
    assert library.load("0") is first
    library.load("2")
    assert library.load("0") is first
    library.load("3")
    library.load("2")
    assert library.load("0") is not first


def test_siblings_belong_to_their_file(tmp_path: Path) -> None:
    for name in ("a.pt", "a.text_encoder.pt", "a.ti.pt", "b.ti.pt"):
        torch.save({"<x>": torch.ones(4)}, tmp_path / name)
    assert [entry.name for entry in LoraLibrary([tmp_path]).entries] == ["a", "b.ti"]


def test_damage_is_reported_and_never_raised(tmp_path: Path) -> None:
    good = put(tmp_path, "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[:-1])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>")
    (tmp_path / "broken.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / "old v1.5").symlink_to(tmp_path / "gone")
    (tmp_path / "older").symlink_to(tmp_path / "gone")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "itself.safetensors").symlink_to(tmp_path / "itself.safetensors")
    library = LoraLibrary([tmp_path, tmp_path / "missing"])
    errors = {entry.name: entry.error for entry in library.entries}
    assert errors.pop("good") is None
    assert errors.keys() == {"cut", "empty", "page", "broken", "itself"}
    for name, error in errors.items():
        assert error is not None
        assert f"{name}.safetensors" in error
    assert library.find("cut").hash == ""
    assert library.find("page").metadata == {}
    assert errors["broken"].endswith(f"it is a link that leads nowhere (to {tmp_path}/nowhere)")  # type: ignore[union-attr]
    assert len(library.errors) == 2 and "missing" in library.errors[0]
    assert library.errors[1].startswith("there are 2 links that lead nowhere, ") and "old" in library.errors[1]


def test_cache(tmp_path: Path) -> None:
    folder, cache = tmp_path / "loras", tmp_path / "index.json"
    put(folder, "a.safetensors", "Anna", long="x" * 5000)
    put(folder, "b.safetensors")
    library = LoraLibrary([folder], cache_path=cache)
    digest = library.find("a").hash
    assert digest == hashes.model_hash(folder / "a.safetensors")[:12]
    library.save_cache()
    before = cache.read_bytes()
    assert b"x" * 5000 not in before
    again = LoraLibrary([folder], cache_path=cache)
    assert again.find("Anna").digest == digest
    assert again.find("Anna").metadata["long"] == "x" * 5000
    assert cache.read_bytes() == before
    put(folder, "a.safetensors", "Berta", long="x" * 50)
    assert LoraLibrary([folder], cache_path=cache).find("Berta").digest is None
    for junk in (
        "",
        "{}",
        "[1]",
        '{"version": 1, "files": {"' + str(folder / "a.safetensors") + '": [1]}}',
        "[" * 5000,
    ):
        cache.write_text(junk)
        assert LoraLibrary([folder], cache_path=cache).find("Berta").relative_name == "a"


def test_hash_is_the_metadata_one_where_it_is_one(tmp_path: Path) -> None:
    put(tmp_path, "a.safetensors", sshs_model_hash="AB" * 32)
    put(tmp_path, "b.safetensors", sshs_model_hash="<script>")
    library = LoraLibrary([tmp_path])
    assert library.find("a").hash == "ab" * 6
    assert library.find("b").hash == hashes.model_hash(tmp_path / "b.safetensors")[:12]


NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""sha256 of no bytes, which some trainers store as every file's hash."""


def test_hashes_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    for number, stored in enumerate((NOTHING, NOTHING[:12], "0" * 64, "ab" * 5, "AB" * 40, "zz" * 32, "17", "")):
        path = put(tmp_path, f"{number}.safetensors", value=number, sshs_model_hash=stored)
        assert LoraLibrary([tmp_path]).find(str(number)).hash == hashes.model_hash(path)[:12], stored


def test_a_stored_hash_of_two_files_is_neither_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools copy the metadata and change the numbers; the content tells such files apart, and is read once."""
    read: list[Path] = []
    whole = hashes.model_hash
    monkeypatch.setattr(hashes, "model_hash", lambda path: read.append(path) or whole(path))
    one, two = (put(tmp_path, f"{n}.safetensors", value=n, sshs_model_hash="ab" * 32) for n in (1, 2))
    put(tmp_path, "3.safetensors", value=3, sshs_model_hash="cd" * 32)
    cache = tmp_path / "index.json"
    library = LoraLibrary([tmp_path], cache_path=cache)
    assert library.find("1").known_hash == "" and library.find("3").known_hash == "cd" * 6
    assert [library.find(n).hash for n in "123"] == [whole(one)[:12], whole(two)[:12], "cd" * 6]
    assert library.find("1").hash != library.find("2").hash and read == [one, two]
    library.save_cache()
    again = LoraLibrary([tmp_path], cache_path=cache)
    assert [again.find(n).hash for n in "12"] == [whole(one)[:12], whole(two)[:12]] and read == [one, two]


def test_a_sheet_s_picture_depends_on_the_numbers(tmp_path: Path) -> None:
    """A file with other numbers and the hash of before is another file."""
    image_spec, keys = ImageSpec(prompt="<lora:a:1>"), []
    for value in (1, 2):
        path = put(tmp_path, "a.safetensors", value=value, sshs_model_hash="ab" * 32)
        os.utime(path, ns=(value * 10**9, value * 10**9))
        keys.append(tags_identity(image_spec, LoraLibrary([tmp_path]), Presets()))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.safetensors")), ids=lambda path: path.stem)
def test_quick_metadata_is_the_metadata(path: Path) -> None:
    assert load_metadata_quickly(path) == load_safetensors_header(path).metadata


def test_many_files_are_quick(tmp_path: Path) -> None:
    first = put(tmp_path, "0.safetensors", "name").read_bytes()
    for number in range(1, 1000):
        (tmp_path / f"{number}.safetensors").write_bytes(first)
    cache = tmp_path / "index.json"
    LoraLibrary([tmp_path], cache_path=cache)
    start = time.perf_counter()
    library = LoraLibrary([tmp_path], cache_path=cache)
    assert time.perf_counter() - start < 2
    assert len(library.entries) == 1000


def test_names_can_be_read_while_they_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page asks meanwhile neither waits nor finds half a table."""
    for number in range(3):
        put(tmp_path, f"sub/Name{number}.safetensors")
    library = LoraLibrary([tmp_path])
    entries, called = library.entries, []

    class Peeking(str):
        def lower(self) -> str:  # of an alias, when the tables are being filled
            called.append([library.shortest_name(entry) for entry in entries])
            return str.lower(self)

    monkeypatch.setattr(type(entries[0]), "alias", property(lambda entry: Peeking("one for all")))
    library.refresh()
    assert called and called[0] == ["Name0", "Name1", "Name2"]


def test_a_folder_that_nobody_named_need_not_exist(tmp_path: Path) -> None:
    default, asked = tmp_path / "LyCORIS", tmp_path / "typed wrong"
    library = LoraLibrary([default, asked], optional=[default])
    assert len(library.errors) == 1 and "typed wrong" in library.errors[0]
    put(default, "late.safetensors")
    library.refresh()
    assert [entry.name for entry in library.entries] == ["late"]


def test_the_saved_state_of_a_training_run_is_no_lora_file(tmp_path: Path) -> None:
    put(tmp_path, "age.safetensors")
    put(tmp_path, "mood-state/happy.safetensors")
    state = tmp_path / f"age-step00000003{STATE_FOLDER_SUFFIX}"
    state.mkdir()
    for name in (STATE_NUMBERS_NAME, STATE_TENSORS_NAME):
        (state / name).touch()
    assert [entry.name for entry in LoraLibrary([tmp_path]).entries] == ["age", "happy"]
    assert [file.name for file in find_input_files([tmp_path])] == ["age", "mood-state/happy"]
    assert [file.name for file in find_input_files([tmp_path / "**" / "*"])] == ["age", "mood-state/happy"]

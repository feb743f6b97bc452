"""The library of the tab: what others write beside files, marks, search, moves, the bin."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from test_web import Client, lora

from lora_ext.errors import FileError
from lora_ext.file import sidecar_files
from lora_ext.file.loading import load_lora_file
from lora_ext.file.sidecar_files import load_sidecar_info, save_user_metadata
from lora_ext.protocols import TagInsertion
from lora_ext.web.lora_sets import LoraSet, export_set

CIVITAI = {
    "trainedWords": ["catto", "fluffy fur", 7],
    "baseModel": "SD 1.5",
    "description": "<p>Version <b>two</b></p><script>alert(1)</script>",
    "model": {"name": "Cat Deluxe", "tags": ["animal"], "description": None},
}
MANAGER = {"model_name": "Cat", "tags": ["pet", "pet", ""], "favorite": True, "notes": "from the manager"}


def beside(path: Path, suffix: str, content: object) -> Path:
    found = path.with_name(path.stem + suffix)
    found.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return found


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    cat = lora(tmp_path / "loras" / "cat.safetensors", 4)
    beside(cat, ".civitai.info", CIVITAI)
    beside(cat, ".metadata.json", {**MANAGER, "usage_tips": '{"strength": 0.7}'})
    (tmp_path / "loras" / "sub").mkdir()
    lora(tmp_path / "loras" / "sub" / "dog.safetensors", 8)
    client.app_state.refresh_library()
    yield client
    client.app_state.jobs.close()


def names(api: Client, **query: Any) -> list[str]:
    found = api("GET", "/library/names", params=query)["names"]
    return [name for name in found if name in ("cat", "sub/dog") or name.startswith("made/")]


def test_what_others_wrote_is_shown_and_the_web_uis_comes_first(api: Client) -> None:
    about = api("GET", "/inspect", params={"name": "cat"})["about"]
    assert (about["title"], about["base_model"], about["preferred_weight"]) == ("Cat", "SD 1.5", 0.7)
    assert about["trained_words"] == ["catto", "fluffy fur"] and about["tags"] == ["pet"]
    assert about["description"] == "Version two" and about["notes"] == "from the manager"
    beside(api.root / "loras" / "cat.safetensors", ".json", {"notes": "mine", "preferred weight": 0.9})
    about = api("GET", "/inspect", params={"name": "cat"})["about"]
    assert (about["notes"], about["preferred_weight"]) == ("mine", 0.9)
    assert about["sources"] == ["cat.json", "cat.metadata.json", "cat.civitai.info"]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '{"notes": ' + "[" * 5000, json.dumps({"preferred weight": "1e400", "notes": ["x"]}),
     '{"preferred weight": NaN, "activation text": {"a": 1}}', json.dumps({"notes": "\ud800\x00"})],
)  # fmt: skip
def test_hostile_files_beside_a_lora_become_no_values(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.safetensors"
    for suffix in (".json", ".civitai.info", ".metadata.json"):
        beside(path, suffix, content)
    info = load_sidecar_info(path)
    assert info.preferred_weight is None and info.activation_text == "" and info.notes.strip("� ") == ""
    json.dumps(vars(info), allow_nan=False).encode("utf-8")


def test_a_file_beside_that_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar_files, "LARGEST_FILE", 10)
    beside(tmp_path / "a.safetensors", ".json", {"notes": "long enough"})
    assert load_sidecar_info(tmp_path / "a.safetensors").problems == ("a.json is not read: it is larger than 0 MiB",)


def test_notes_go_into_the_web_uis_file_and_keep_what_it_holds(api: Client) -> None:
    path = api.root / "loras" / "cat.safetensors"
    beside(path, ".json", {"sd version": "SD1", "mine": [1], "notes": "old", "description": "<b>stays</b>"})
    shown = api("PUT", "/library/notes", json={"name": "cat", "notes": "new", "preferred_weight": 0.6})
    assert shown["about"]["notes"] == "new"
    written = json.loads((path.parent / "cat.json").read_text(encoding="utf-8"))
    expected = {"sd version": "SD1", "mine": [1], "notes": "new", "description": "<b>stays</b>"}
    assert written == {**expected, "preferred weight": 0.6}
    beside(path, ".json", "{ damaged")
    with pytest.raises(FileError, match=r"cat\.json cannot be read: .*left as it is"):
        save_user_metadata(path, {"notes": "x"}, api.root / "lock")
    assert (path.parent / "cat.json").read_text(encoding="utf-8") == "{ damaged"
    (path.parent / "cat.json").unlink()
    (path.parent / "cat.json").symlink_to(api.root / "elsewhere.json")
    assert "links" in api("PUT", "/library/notes", 400, json={"name": "cat", "notes": "x"})["error"]
    assert not (api.root / "elsewhere.json").exists()


def test_search_finds_words_of_all_texts_and_says_where(api: Client) -> None:
    assert names(api, search="fluffy cat") == ["cat"] and names(api, search="animal") == []  # the manager's tags count
    row = api("GET", "/library", params={"search": "MANAGER"})["rows"][0]
    assert row["found"] == {"field": "notes", "text": "from the manager"}
    api("PUT", "/library/marks", json={"names": ["sub/dog"], "add_tags": ["outdoors"], "rating": 4})
    found = api("GET", "/library", params={"search": "outdoors", "sort": "name"})
    assert found["rows"][0]["found"]["field"] == "tags" and found["letters"] == {"D": 0}
    beside(api.root / "loras" / "cat.safetensors", ".json", {"notes": "a rare word"})
    api.app_state.refresh_library()
    assert names(api, search="rare") == ["cat"]


def test_marks_filter_sort_and_count(api: Client) -> None:
    assert names(api, favourite=True) == ["cat"] and names(api, tag="pet") == ["cat"]  # from Lora-Manager
    api("PUT", "/library/marks", json={"names": ["cat", "sub/dog"], "add_tags": ["best"], "remove_tags": ["pet"]})
    api("PUT", "/library/marks", json={"names": ["cat"], "favourite": False})
    api("PUT", "/library/marks", json={"names": ["sub/dog"], "favourite": True, "rating": 5})
    assert names(api, favourite=True) == ["sub/dog"] and names(api, tag="pet") == []
    assert names(api, rating=5) == ["sub/dog"] and names(api, sort="rating")[0] == "sub/dog"
    facets = api("GET", "/library")["facets"]
    assert facets["tag"] == {"best": 2} and facets["folder"]["sub"] == 1
    assert names(api, folder="sub") == ["sub/dog"] and names(api, folder="su") == []
    assert "tag" in api("PUT", "/library/marks", 400, json={"names": ["cat"], "add_tags": ["a,b"]})["error"]
    api("PUT", "/library/marks", 422, json={"names": ["cat"], "rating": 6})
    api("PUT", "/library/marks", 400, json={"names": ["nobody"], "rating": 1})
    (api.root / "file_marks.json").write_text("[", encoding="utf-8")
    assert "file_marks.json" in api("GET", "/library")["errors"][0]
    api("PUT", "/library/marks", 400, json={"names": ["cat"], "rating": 1})
    assert (api.root / "file_marks.json").read_text(encoding="utf-8") == "["


def test_insert_writes_tag_words_and_negative_text_once(api: Client) -> None:
    beside(api.root / "loras" / "cat.safetensors", ".json", {"activation text": "mycat", "negative text": "dog"})
    api.app_state.refresh_library()
    made = api("POST", "/library/insert", json={"name": "cat", "prompt": "a park", "negative": "blurry"})
    assert (made["prompt"], made["negative"]) == ("a park <lora:cat:0.7> mycat", "blurry (dog:1)")
    again = api("POST", "/library/insert", json={"name": "cat", **{key: made[key] for key in ("prompt", "negative")}})
    assert again == made
    assert api("GET", "/library", params={"sort": "used"})["rows"][0]["name"] == "cat"
    own = {"name": "cat", "prompt": "<lora:cat:0.2:lbw=FACE> mycat"}
    assert api("POST", "/library/insert", json=own)["prompt"] == own["prompt"]


def test_insertion_follows_the_settings_of_the_web_uis_cards(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lora(api.root / "loras" / "file.safetensors", 2, ss_output_name="trained")
    beside(api.root / "loras" / "file.safetensors", ".json", {"activation text": "word", "negative text": "bad"})
    api.app_state.refresh_library()
    by = TagInsertion(separator=", ", weight=0.8, prefers_alias=True)
    monkeypatch.setattr(api.app_state.backend, "tag_insertion", lambda: by)
    made = api("POST", "/library/insert", json={"name": "file", "prompt": "a park", "negative": "blurry"})
    assert (made["prompt"], made["negative"]) == ("a park, <lora:trained:0.8> word", "blurry, (bad:1)")
    for name in ("file", "trained"):  # the tag is there already, by either name
        said = {"name": "file", "prompt": f"<lora:{name}:0.3> word"}
        assert api("POST", "/library/insert", json=said)["prompt"] == said["prompt"]
    assert api("POST", "/library/insert", json={"name": "file", "prompt": ""})["prompt"] == "<lora:trained:0.8> word"
    assert api("POST", "/tag", json={"name": "x", "prompt": "a park"})["prompt"] == "a park, <lora:x:1>"
    monkeypatch.setattr(api.app_state.backend, "tag_insertion", lambda: replace(by, prefers_alias=False))
    assert api("POST", "/library/insert", json={"name": "file"})["prompt"] == "<lora:file:0.8> word"


def test_many_files_are_moved_with_what_lies_beside_them_and_back(api: Client) -> None:
    loras = api.root / "loras"
    many = [f"f{i}" for i in range(500)]
    data = (loras / "cat.safetensors").read_bytes()
    for name in many:
        (loras / f"{name}.safetensors").write_bytes(data)
        (loras / f"{name}.preview.png").write_bytes(b"picture")
        (loras / f"{name}.json").write_text('{"notes": "n"}', encoding="utf-8")
    api.app_state.refresh_library()
    api("PUT", "/library/marks", json={"names": many, "add_tags": ["batch"]})
    moves = [{"name": name, "to": f"made/{name}"} for name in many]
    done = api("POST", "/library/move", json={"moves": moves})
    assert done["failed"] == [] and len(done["moved"]) == 500
    assert len(list((loras / "made").iterdir())) == 1500 and not list(loras.glob("f*"))
    assert len(names(api, tag="batch", folder="made")) == 500
    back = [{"name": move["to"], "to": move["name"]} for move in done["moved"]]
    assert len(api("POST", "/library/move", json={"moves": back})["moved"]) == 500
    assert len(list(loras.glob("f*"))) == 1500 and api("GET", "/library", params={"tag": "batch"})["total"] == 500
    assert not (loras / "made").exists()


def test_undoing_a_move_removes_the_folders_that_it_made_and_no_others(api: Client) -> None:
    loras = api.root / "loras"
    (loras / "own").mkdir()

    def move(name: str, to: str) -> None:
        assert api("POST", "/library/move", json={"moves": [{"name": name, "to": to}]})["failed"] == []

    for to in ("new/deep/cat", "own/deep/cat"):
        move("cat", to)
        move(to, "cat")
    assert not (loras / "new").exists() and list((loras / "own").iterdir()) == []
    move("cat", "new/deep/cat")
    (loras / "new" / "note.txt").write_text("mine", encoding="utf-8")
    move("new/deep/cat", "cat")
    assert [path.name for path in (loras / "new").iterdir()] == ["note.txt"]
    (loras / "own" / "dog.safetensors").write_bytes((loras / "cat.safetensors").read_bytes())
    api.app_state.refresh_library()
    move("own/dog", "dog")
    assert (loras / "own").is_dir()


def test_a_move_overwrites_nothing_and_stays_in_the_folder(api: Client) -> None:
    loras = api.root / "loras"
    (loras / "made").mkdir()
    (loras / "made" / "cat.json").write_text("another file's", encoding="utf-8")
    beside(loras / "cat.safetensors", ".json", {"notes": "n"})
    for to in ("made/cat", "sub/dog", "../out", "/etc/x", "con"):
        answer = api("POST", "/library/move", json={"moves": [{"name": "cat", "to": to}]})
        assert answer["moved"] == [] and answer["failed"][0]["name"] == "cat", to
    assert (loras / "cat.safetensors").exists() and (loras / "cat.json").exists()
    assert (loras / "made" / "cat.json").read_text(encoding="utf-8") == "another file's"
    answer = api("POST", "/library/move", json={"moves": [{"name": "framed", "to": "x"}]})
    assert "part of this installation" in answer["failed"][0]["error"]


def test_a_link_is_not_renamed_onto_its_file_nor_to_where_it_leads_elsewhere(api: Client) -> None:
    loras = api.root / "loras"
    (loras / "link.safetensors").symlink_to("cat.safetensors")
    os.link(loras / "cat.safetensors", loras / "second.safetensors")
    kept = (loras / "cat.safetensors").read_bytes()
    api.app_state.refresh_library()
    for name, to, reason in (
        ("link", "cat", "exists"), ("second", "cat", "exists"), ("link", "sub/link", "lead elsewhere"),
    ):  # fmt: skip
        answer = api("POST", "/library/move", json={"moves": [{"name": name, "to": to}]})
        assert answer["moved"] == [] and reason in answer["failed"][0]["error"], (name, to)
    assert api("POST", "/library/move", json={"moves": [{"name": "link", "to": "Link"}]})["moved"]
    assert (loras / "cat.safetensors").read_bytes() == kept == (loras / "Link.safetensors").read_bytes()


def test_deleting_goes_to_the_bin_or_not_at_all(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    loras = api.root / "loras"
    monkeypatch.setitem(sys.modules, "send2trash", None)
    said = api("POST", "/library/delete", 400, json={"names": ["cat"]})
    assert "pip install send2trash" in said["error"] and (loras / "cat.safetensors").exists()
    bin_folder = api.root / "bin"
    bin_folder.mkdir()

    def send2trash(path: str) -> None:
        if "dog" in path:
            raise PermissionError(13, "no bin on this disk")
        Path(path).rename(bin_folder / Path(path).name)

    monkeypatch.setitem(sys.modules, "send2trash", types.SimpleNamespace(send2trash=send2trash))
    result = api.done("/library/delete", {"names": ["cat", "sub/dog", "framed"]})["result"]
    assert result["done"] == ["cat"] and [row["name"] for row in result["failed"]] == ["sub/dog", "framed"]
    assert {path.name for path in bin_folder.iterdir()} == {"cat.safetensors", "cat.civitai.info", "cat.metadata.json"}
    assert (loras / "sub" / "dog.safetensors").exists()


def test_metadata_of_several_files_is_removed(api: Client) -> None:
    path = lora(api.root / "loras" / "noted.safetensors", 2, ss_output_name="noted", ss_tag_frequency="{}")
    api.app_state.refresh_library()
    before = load_lora_file(path)
    result = api.done("/library/strip", {"names": ["noted", "gone"]})["result"]
    assert result["done"] == ["noted"] and "gone" in result["failed"][0]["error"]
    after = load_lora_file(path)
    assert not after.metadata and after.adapters.keys() == before.adapters.keys()


def picture(infotext: str, kind: str) -> str:
    """A picture with an infotext, as the web UI writes it, in base64."""
    image, out = Image.new("RGB", (8, 8)), io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", infotext)
        image.save(out, kind, pnginfo=info)
    else:
        exif = Image.Exif()
        exif[0x8769] = {0x9286: b"UNICODE\0" + infotext.encode("utf-16-be")}
        image.save(out, kind, exif=exif)
    return base64.b64encode(out.getvalue()).decode()


def test_a_set_is_saved_inserted_exported_and_imported(api: Client) -> None:
    face = ",".join(["0.5"] * 17)
    api("PUT", "/presets", json={"name": "MINE", "values": face})
    text = "a cat <lora:cat:0.8:lbw=MINE:step=0.25-1.0> <lora:nobody:0@0,1@1>"
    api("PUT", "/sets", json={"name": "pets", "text": text, "words": "fluffy", "negative": "bad"})
    (row,) = api("GET", "/sets")["sets"]
    assert row["missing"] == ["nobody"] and row["tags"][0] == "<lora:cat:0.8:lbw=MINE:start=0.25:stop=1.0>"
    made = api("POST", "/sets/insert", json={"name": "pets", "prompt": "a park <lora:cat:0.1>", "negative": ""})
    assert made["prompt"] == f"a park {row['tags'][0]} {row['tags'][1]} fluffy" and made["negative"] == "bad"
    exported = api("GET", "/sets/export", params={"name": "pets"})["text"]
    assert face in exported and "MINE" not in exported
    others = LoraSet("x", ["<lora:cat:1:lbw=mine>", "<lora:cat:1:lbw=MINE@0,ALL@0.5 cosine>"])
    assert f"lbw={face}>" in export_set(others, {"MINE": face})
    assert f"lbw={face}@0;ALL@0.5 cosine>" in export_set(others, {"MINE": face})
    assert "already exists" in api("POST", "/sets/import", 400, json={"text": exported})["error"]
    again = {"name": "pets", "text": text, "may_replace": False}  # what the page's Undo sends
    assert "'pets' was saved again since it was deleted" in api("PUT", "/sets", 400, json=again)["error"]
    assert api("DELETE", "/sets", params={"name": "pets"}) == {"sets": []}
    (taken,) = api("POST", "/sets/import", json={"text": exported})["sets"]
    assert taken["name"] == "pets" and f"lbw={face}" in taken["tags"][0]
    for text in ("{", "[]", '{"lora_ext_sets": 1, "sets": {"a": {"tags": ["no tag"]}}}'):
        api("POST", "/sets/import", 400, json={"text": text})
    assert "did you mean 'pets'" in api("DELETE", "/sets", 400, params={"name": "pet"})["error"]
    api("PUT", "/sets", 400, json={"name": "empty", "text": "no tag"})


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_set_from_a_picture_finds_renamed_files_by_their_hash(api: Client, kind: str) -> None:
    digest = api("GET", "/inspect", params={"name": "cat"})["hash"]
    infotext = (
        f"a cat <lora:old-name:0.6> <lora:sub/dog:1>\nNegative prompt: <lora:not-this:1>\n"
        f'Steps: 4, Lora hashes: "old-name: {digest}, other: 0123456789ab"'
    )
    assert api.app_state.entry("cat").content_hash == digest
    found = api("POST", "/sets/read", json={"data": picture(infotext, kind)})["text"]
    assert found == "<lora:cat:0.6>\n<lora:sub/dog:1>"
    assert "infotext" in api("POST", "/sets/read", 400, json={"data": picture("", kind)})["error"]
    api("POST", "/sets/read", 400, json={"data": base64.b64encode(b"no picture").decode()})


def _made_for(api: Client, name: str, dim: int, age: int, **metadata: str) -> Path:
    """A file whose cross-attention takes in `dim`, changed `age` seconds before now."""
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": torch.zeros(2, dim), f"{key}.lora_up.weight": torch.zeros(32, 2)}
    path = api.root / "loras" / f"{name}.safetensors"
    save_file(tensors, path, metadata=metadata or None)
    now = time.time()
    os.utime(path, (now - age, now - age))
    return path


def test_panels_begin_with_the_newest_file_that_fits_the_model(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """They began with the newest file of any family, and the first sheet ended with "does not fit this model"."""
    sd1 = {"ss_base_model_version": "sd_v1"}
    for age, (name, dim) in enumerate({"xl": 2048, "two": 1024, "small": 128, "one": 768, "older": 768}.items()):
        _made_for(api, name, dim, -100 + age, **(sd1 if dim in (128, 768) else {}))
    (api.root / "loras" / "hurt.safetensors").write_bytes(b"none")
    api.app_state.refresh_library()

    def first(dim: int, checkpoint: str = "a model") -> str:
        with monkeypatch.context() as patch:
            patch.setattr(api.app_state.backend, "cross_attention_dim", lambda name: dim if name == checkpoint else 0)
            return str(api("GET", f"/library/first?checkpoint={checkpoint}")["row"]["name"])

    assert [first(dim) for dim in (2048, 1024, 768, 128)] == ["xl", "two", "one", "small"]
    assert first(0) == first(4096) == "xl", "the newest one where the model is not known, or none fits"
    assert api("GET", "/library/first?checkpoint=gone.safetensors")["row"]["name"] == "xl"


def test_a_row_has_the_words_that_belong_into_the_prompt(api: Client) -> None:
    _made_for(api, "stripes", 128, 0, **{"modelspec.trigger_phrase": "stripes"})
    api.app_state.refresh_library()
    api.app_state.catalogue.refresh(now=True)
    rows = {row["name"]: row["prompt_words"] for row in api("GET", "/library")["rows"]}
    assert (rows["stripes"], rows["cat"], rows["sub/dog"]) == ("stripes", "catto, fluffy fur", "")

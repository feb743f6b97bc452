"""Start here by the API: pictures that the page sends, what is refused of them, and the settings that suit them."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
import torch
from PIL import Image
from safetensors.torch import load_file
from test_web import Client

from lora_ext.embedded import CHECKPOINT
from lora_ext.errors import FileError
from lora_ext.train.config.recipe import Recipe, recipe_options
from lora_ext.train.config.suggested_recipe import KINDS_OF_CONCEPT
from lora_ext.train.data.buckets import BucketRules
from lora_ext.train.data.subset import bucket_rules
from lora_ext.train.run.training_run import TrainingRun
from lora_ext.web import upload_files
from lora_ext.web.training_runs import TrainingRuns

UPLOAD = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One for all tests that leave nothing behind."""
    client = Client(tmp_path_factory.mktemp("empty"))
    yield client
    client.app_state.jobs.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    client.app_state.jobs.close()


def picture(colour: str = "red", kind: str = "PNG", side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, format=kind)
    return out.getvalue()


def zipped(files: Mapping[str, bytes], *, packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, packed)
    return out.getvalue()


def send(api: Client, name: str, data: bytes, status: int = 200, *, offset: int = 0, upload: str = UPLOAD) -> Any:
    body = {"upload": upload, "file": name, "offset": offset, "data": base64.b64encode(data).decode()}
    return api("POST", "/teach/upload", status, json=body)


def add(api: Client, files: Mapping[str, bytes], name: str = "cat", dataset: str = "") -> dict[str, Any]:
    """Sends files and adds them."""
    for file, data in files.items():
        send(api, file, data)
    body = {"upload": UPLOAD, "files": list(files), "name": name, "dataset": dataset}
    found: dict[str, Any] = api("POST", "/teach/pictures", json=body)
    assert not any((api.root / "uploads").iterdir())
    return found


def names(api: Client, dataset: str = "cat") -> list[str]:
    return sorted(path.name for path in (api.root / "datasets" / dataset).iterdir())


def refused(found: Mapping[str, Any]) -> dict[str, str]:
    return {row["file"]: row["reason"] for row in found["refused"]}


def test_pictures_come_in_pieces_with_their_captions(api: Client) -> None:
    data = picture()
    assert send(api, "photos/a.png", data[:20]) == {"bytes": 20}
    assert "does not follow" in send(api, "photos/a.png", data, 400, offset=21)["error"]
    assert send(api, "photos/a.png", data[20:], offset=20) == {"bytes": len(data)}
    send(api, "photos/a.txt", b"a cat")
    files = ["photos/a.png", "photos/a.txt", "photos/b.png"]
    found = api("POST", "/teach/pictures", json={"upload": UPLOAD, "files": files, "name": "cat"})
    assert (found["dataset"], found["added"], found["captions"]) == ("cat", ["a.png"], 1)
    assert refused(found) == {"photos/b.png": "it was not sent"}
    assert (api.root / "datasets" / "cat" / "a.png").read_bytes() == data and names(api) == ["a.png", "a.txt"]
    rows = api("GET", "/dataset", params={"name": "cat"})["pictures"]
    assert [(row["name"], row["caption"]) for row in rows] == [("a.png", "a cat")]


def test_the_pictures_of_a_folder_have_the_sizes_and_repeats_of_the_training_form(api: Client) -> None:
    """At 64 pixels the buckets' default minimum, 256, was an error; the form's repeats were left out."""
    (api.root / "datasets" / "cat").mkdir(parents=True)
    Image.new("RGB", (200, 150)).save(api.root / "datasets" / "cat" / "a.png")
    form = {"resolution": "64", "min_bucket_reso": 32, "bucket_reso_steps": 8, "dataset_repeats": 5}
    (row,) = api("GET", "/dataset", params={"name": "cat", **form})["pictures"]
    assert (row["bucket"], row["repeats"]) == ("72×56", 5)


def test_the_sizes_of_a_query_have_the_defaults_and_limits_of_the_training_options(api: Client) -> None:
    """They stood in the route, in the recipe and in the buckets' rules."""
    routes = api("GET", "/openapi.json")["paths"]
    route = next(of_path["get"] for path, of_path in routes.items() if path.endswith("/v1/dataset"))
    schemas = {row["name"]: row["schema"] for row in route["parameters"]}
    for name, (item, option) in recipe_options().items():
        if name in schemas:
            found = schemas[name]
            limits = found.get("minimum"), found.get("maximum")
            assert (found["default"], *limits) == (item.default, option.low, option.high), name
    assert bucket_rules(Recipe()) == BucketRules() and len(schemas.keys() & recipe_options().keys()) == 6


def test_a_second_upload_adds_to_the_first_and_names_what_is_there_already(api: Client) -> None:
    add(api, {"1.png": picture("red")})
    found = add(api, {"x/1.png": picture("blue"), "x/1.txt": b"blue", "x/2.png": picture("red")}, dataset="cat")
    assert (found["dataset"], found["added"], found["captions"]) == ("cat", ["1-2.png"], 1)
    assert found["duplicates"] == [{"file": "x/2.png", "same_as": "1.png"}]
    assert names(api) == ["1-2.png", "1-2.txt", "1.png"]
    assert add(api, {"1.png": picture("green")})["dataset"] == "cat-2"  # the name is taken


def test_a_zip_is_unpacked_by_names_alone(api: Client) -> None:
    found = add(
        api,
        {
            "all.zip": zipped(
                {
                    "set/one/a.png": picture("red"),
                    "set/two/a.png": picture("blue", "JPEG"),
                    "set/two/a.txt": b"two",
                    "__MACOSX/set/._a.png": b"x",
                    "set/notes.pdf": b"x",
                    "set/b.png": b"no picture",
                    "../../escaped.png": picture("green"),
                    "/abs.png": picture("lime"),
                    "..\\win.png": picture("navy"),
                    "set/con.png": picture("teal"),
                }
            )
        },
    )
    assert sorted(found["added"]) == ["one-a.png", "two-a.png"] and found["captions"] == 1
    assert names(api) == ["one-a.png", "two-a.png", "two-a.txt"]
    why = refused(found)
    assert set(why) == {"set/notes.pdf", "set/b.png", "../../escaped.png", "/abs.png", "..\\win.png", "set/con.png"}
    assert "is no picture" in why["set/notes.pdf"] and "cannot be read here" in why["set/b.png"]
    assert "without .." in why["../../escaped.png"] and "reserved" in why["set/con.png"]
    inside = [path for path in api.root.rglob("*") if path.suffix in (".png", ".pdf")]
    assert {path.parent.name for path in inside} == {"cat"} and not list(api.root.parent.glob("*.png"))


def test_a_zip_that_unfolds_without_end_is_refused(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_files, "MOST_PICTURE_BYTES", 4_000_000)
    monkeypatch.setattr(upload_files, "MOST_BYTES", 6_000_000)
    bomb = zipped({f"{n}.png": bytes(3_500_000) for n in range(4)} | {"large.png": bytes(5_000_000)})
    assert len(bomb) < 100_000
    found = add(api, {"bomb.zip": bomb})
    assert found["dataset"] == "" and found["added"] == [] and not list((api.root / "datasets").iterdir())
    assert "unfold to more than" in " ".join(refused(found).values())
    large = add(api, {"large.zip": zipped({"large.png": bytes(5_000_000)})})
    assert refused(large)["large.png"] == "the file is too large; give at most 3 MiB"


def test_zips_that_are_none_damaged_or_encrypted_are_named(api: Client) -> None:
    good = zipped({"a.png": picture()}, packed=zipfile.ZIP_STORED)
    encrypted = bytearray(good)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[good.index(mark) + place] |= 1
    damaged = good.replace(picture()[40:50], b"0123456789")
    found = add(api, {"no.zip": b"no zip", "key.zip": bytes(encrypted), "bad.zip": damaged})
    assert {row["reason"] for row in found["refused"]} == {
        "it is no zip, or a damaged one",
        "it is encrypted",
        "it is damaged in the zip",
    }


def test_a_picture_is_taken_out_and_kept(api: Client) -> None:
    add(api, {"a.png": picture("red"), "a.txt": b"red", "b.png": picture("blue")})
    query = {"dataset": "cat", "picture": "a.png"}
    assert api("DELETE", "/dataset/picture", params=query) == {"kept": "removed/cat/a.png"}
    assert names(api) == ["b.png"] and (api.root / "removed" / "cat" / "a.txt").read_bytes() == b"red"
    add(api, {"a.png": picture("green")}, dataset="cat")
    assert api("DELETE", "/dataset/picture", params=query) == {"kept": "removed/cat/a-2.png"}
    for wrong in ("a.png", "../b.png", "b.txt", "", "../../presets.txt"):
        api("DELETE", "/dataset/picture", 400, params={"dataset": "cat", "picture": wrong})
    assert names(api) == ["b.png"]


@pytest.mark.parametrize(
    "name", ["../a.png", "a/../b.png", "/a.png", "C:/../a.png", "a\\..\\b.png", "", "a.exe", "a", "x/con.png"]
)
def test_hostile_names_are_refused(empty: Client, name: str) -> None:
    assert send(empty, name, picture(), 400)["error"]
    assert not list(empty.root.rglob("*.png")) and not (empty.root / "uploads" / UPLOAD).exists()


@pytest.mark.parametrize("upload", ["../x", "a" * 31, "A" * 32, "g" * 32, ""])
def test_an_upload_is_named_by_digits_alone(empty: Client, upload: str) -> None:
    assert "hexadecimal" in send(empty, "a.png", picture(), 400, upload=upload)["error"]
    body = {"upload": upload, "files": ["a.png"], "name": "cat"}
    assert "hexadecimal" in empty("POST", "/teach/pictures", 400, json=body)["error"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "con", "a:b", "../cat"])
def test_names_of_data_sets_that_are_none_are_refused(empty: Client, name: str) -> None:
    send(empty, "a.png", picture())
    empty("POST", "/teach/pictures", 400, json={"upload": UPLOAD, "files": ["a.png"], "name": name})
    shutil.rmtree(empty.root / "uploads" / UPLOAD)
    assert not list((empty.root / "datasets").iterdir())


def test_unusual_names_are_written_as_plain_ones(api: Client) -> None:
    found = add(api, {"wh?t: <a> c|t.png": picture(), "ねこ.png": picture("blue"), "x" * 170 + ".png": picture("lime")})
    assert sorted(names(api)) == sorted(found["added"]) == ["wh_t_ _a_ c_t.png", "x" * 150 + ".png", "ねこ.png"]


def test_a_file_that_is_too_large_or_of_another_type_is_refused(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_files, "MOST_PICTURE_BYTES", 10)
    assert "too large" in send(api, "a.png", picture(), 400)["error"]
    monkeypatch.setattr(upload_files, "MOST_FILES", 2)
    for number in range(2):
        send(api, f"{number}.png", b"1234")
    assert "send it in parts" in send(api, "2.png", b"1234", 400)["error"]
    api("POST", "/teach/upload", 400, json={"upload": UPLOAD, "file": "a.png", "data": "%%%"})
    large = {"upload": UPLOAD, "file": "a.png", "data": "A" * (upload_files.PIECE_BYTES * 4 // 3 + 8)}
    api("POST", "/teach/upload", 422, json=large)
    form = api.http.post("/lora-ext/v1/teach/upload", data={"file": "a.png"})
    assert form.status_code == 415
    api.http.headers.pop("X-Lora-Ext")
    assert (
        api("POST", "/teach/upload", 403, json={"upload": UPLOAD, "file": "a.png", "data": ""})["kind"] == "Forbidden"
    )


def test_only_pictures_are_decoded_whatever_they_are_called(api: Client) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    found = add(api, {"eps.png": eps, "cut.jpg": picture("red", "JPEG", 64)[:300], "gif.png": picture("red", "GIF")})
    assert found["added"] == ["gif.png"] and set(refused(found)) == {"eps.png", "cut.jpg"}


def test_a_full_disk_is_said(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "nearly full" in send(api, "a.png", picture(), 400)["error"]


def test_uploads_of_yesterday_are_removed(api: Client) -> None:
    send(api, "a.png", picture())
    old = api.root / "uploads" / UPLOAD
    os.utime(old, (time.time() - 90_000,) * 2)
    send(api, "a.png", picture(), upload="f" * 32)
    assert [path.name for path in old.parent.iterdir()] == ["f" * 32]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_nothing_is_written_through_links(api: Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (api.root / "datasets" / "linked").symlink_to(outside, target_is_directory=True)
    send(api, "a.png", picture())
    body = {"upload": UPLOAD, "files": ["a.png"], "dataset": "linked"}
    assert "link" in api("POST", "/teach/pictures", 400, json=body)["error"]
    (api.root / "uploads" / UPLOAD / "a.png").unlink(missing_ok=True)
    shutil.rmtree(api.root / "uploads")
    (api.root / "uploads").symlink_to(outside, target_is_directory=True)
    assert "link" in send(api, "a.png", picture(), 400)["error"]
    assert not list(outside.iterdir())


@pytest.mark.long  # it loads the model
@pytest.mark.skipif(not Path(CHECKPOINT).is_file(), reason="no embedded model in this installation")
def test_settings_are_suggested_with_reasons_and_make_a_recipe(api: Client) -> None:
    add(api, {"a.png": picture("red"), "b.png": picture("blue"), "b.txt": b"my mycat"})
    found = api.done("/teach/suggest", {"kind": "object", "dataset": "cat", "trigger": "mycat"})["result"]
    values = {row["name"]: row["value"] for row in found["settings"]}
    assert all(row["reason"] for row in found["settings"])
    assert (values["resolution"], values["network_dim"], values["caption_prefix"]) == ("64", 8, "mycat,")
    assert (found["prompts"], found["pictures"]) == ("my mycat --d 1", 2)  # a caption with the trigger word
    settings = {**values, "output_name": "mycat", "train_data_dir": "cat", "metadata_trigger_phrase": "mycat"}
    assert TrainingRuns(api.app_state).recipe_from_form(settings).max_train_epochs == 10
    assert str(api.root) not in json.dumps(found)
    offer = found["regularisation"]
    plain, regularised = found["expected"], offer["expected"]  # before Train is pressed
    assert (plain["steps"], regularised["steps"]) == (500, 1000)
    assert 0 < plain["least_seconds"] < plain["most_seconds"] < regularised["most_seconds"]
    assert offer["on"] and offer["reason"].startswith("100 pictures are drawn first")
    settings |= {row["name"]: row["value"] for row in offer["settings"]}
    runs = TrainingRuns(api.app_state)
    folder = api.root / "datasets" / "regularisation-object-embedded-sd1"
    assert runs.recipe_from_form(settings).reg_data_dir == str(folder) and not folder.exists()
    for wrong in ("../x", "x/../../y", str(api.root), "con"):
        with pytest.raises(FileError):
            runs.recipe_from_form({**settings, "reg_data_dir": wrong})
    if os.name != "nt":  # links need rights there
        folder.symlink_to(api.root, target_is_directory=True)
        with pytest.raises(FileError, match="link"):
            runs.recipe_from_form(settings)


def test_a_kind_or_data_set_that_is_none_is_refused(api: Client) -> None:
    body = {"kind": "persn", "dataset": "cat", "trigger": "x"}
    said = api("POST", "/teach/suggest", 400, json=body)["error"]
    assert "did you mean 'person'" in said and all(kind in said for kind in KINDS_OF_CONCEPT)
    api("POST", "/teach/suggest", 400, json={**body, "kind": "person"})
    api("POST", "/teach/suggest", 400, json={**body, "kind": "person", "dataset": "../cat"})
    (api.root / "datasets" / "cat" / "3_cat").mkdir(parents=True)
    (api.root / "datasets" / "cat" / "3_cat" / "a.png").write_bytes(picture())
    job = api.done("/teach/suggest", {**body, "kind": "person"})
    assert job["state"] == "failed" and "has folders such as 3_cat" in job["error"]


def test_presets_of_training_settings(api: Client) -> None:
    settings = {"network_dim": 32, "optimizer_args": "weight_decay=0.1", "output_name": "cat", "train_data_dir": "cat"}
    kept = {"network_dim": 32, "optimizer_args": "weight_decay=0.1"}
    api("PUT", "/train/presets", json={"name": " ねこ ", "settings": settings})
    api("PUT", "/train/presets", json={"name": "faces", "settings": {}})
    again = {"name": "faces", "settings": {"network_dim": 2}, "may_replace": False}  # what the page's Undo sends
    assert "'faces' was saved again since it was deleted" in api("PUT", "/train/presets", 400, json=again)["error"]
    expected = {"presets": [{"name": "faces", "settings": {}}, {"name": "ねこ", "settings": kept}]}
    assert api("GET", "/train/presets") == expected
    for name, wrong in (
        ("", {}),
        ("a\nb", {}),
        ("x" * 70, {}),
        ("a", {"network_dimm": 1}),
        ("a", {"seed": "x" * 60_000}),
    ):
        api("PUT", "/train/presets", 400, json={"name": name, "settings": wrong})
    assert "did you mean 'faces'" in api("DELETE", "/train/presets", 400, params={"name": "face"})["error"]
    assert api("DELETE", "/train/presets", params={"name": "faces"})["presets"] == expected["presets"][1:]
    (api.root / "training_presets.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in api("GET", "/train/presets", 400)["error"]


@pytest.mark.long  # it trains
@pytest.mark.skipif(not Path(CHECKPOINT).is_file(), reason="no embedded model in this installation")
def test_samples_are_generated_now_on_request_and_change_nothing(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    add(api, {"a.png": picture("red", side=64)})
    assert "not at work" in api("POST", "/train/sample", 400, json={"job": "none"})["error"]
    settings = {"train_data_dir": "cat", "resolution": "64", "network_dim": 1, "seed": 1, "max_train_steps": 3}
    after_step = TrainingRun._after_step

    def request_at_the_first_step(run: TrainingRun, *args: int) -> None:
        if run.state.step == 0 and run.recipe.output_name == "asked":
            job = api.app_state.jobs.list_jobs()[-1].id
            api("POST", "/train/sample", json={"job": job})
            api("POST", "/train/control", json={"job": job, "save": True})
        after_step(run, *args)

    monkeypatch.setattr(TrainingRun, "_after_step", request_at_the_first_step)
    made = {}
    for name in ("asked", "left"):
        body = {"settings": {**settings, "output_name": name}, "prompts": "a cat --s 1 --l 1 --d 1"}
        made[name] = api.done("/train", body)["result"]
    assert (
        len(made["asked"]["samples"]) == 1 and "000001" in made["asked"]["samples"][0] and not made["left"]["samples"]
    )
    assert len(made["asked"]["files"]) == 2 and made["asked"]["state"] and len(made["left"]["files"]) == 1
    asked, left = (load_file(api.root / "loras" / f"{name}.safetensors") for name in ("asked", "left"))
    assert asked.keys() == left.keys() and all(torch.equal(asked[key], left[key]) for key in asked)

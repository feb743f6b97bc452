"""Changes of all captions of a data set by the API, and how they are undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from PIL import Image
from test_web import Client

from lora_ext.train.data.captions import load_caption


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    folder = tmp_path / "datasets" / "cats"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c", "d"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    (folder / "a.txt").write_bytes("\ufeffa cat,  red\r\n".encode())
    (folder / "b.caption").write_bytes(b"a cat, Blue")
    (folder / "b.txt").write_bytes(b"what is read from b.caption")
    (folder / "c.png.txt").write_bytes(b"a dog")
    yield client
    client.app_state.jobs.close()


def files(api: Client) -> dict[str, bytes]:
    folder = api.root / "datasets" / "cats"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".png"}


def replaced(api: Client, find: str, put: str = "", **options: Any) -> dict[str, Any]:
    body = {"dataset": "cats", "find": find, "put": put, "dry": False, **options}
    return api("POST", "/dataset/replace", json=body)


def test_a_change_is_undone_byte_for_byte_and_done_again(api: Client) -> None:
    before = files(api)
    done = api("POST", "/dataset/tag", json={"dataset": "cats", "tag": "indoors"})
    after = files(api)
    assert (done["changed"], done["skipped"]) == (4, []) and after.keys() - before.keys() == {"d.txt"}
    undone = api("POST", "/dataset/undo", json={"change": done["undo"]})
    assert undone["changed"] == 4 and files(api) == before
    again = api("POST", "/dataset/undo", json={"change": undone["undo"]})
    assert again["changed"] == 4 and files(api) == after
    assert "no change" in api("POST", "/dataset/undo", 400, json={"change": done["undo"]})["error"]


def test_the_caption_that_is_read_is_the_one_that_is_written(api: Client) -> None:
    assert replaced(api, "blue", "green", whole_tags=True)["examples"] == [["a cat, Blue", "a cat, green"]]
    assert replaced(api, "dog", "wolf")["changed"] == 1
    folder = api.root / "datasets" / "cats"
    assert [load_caption(folder / f"{name}.png") for name in "bc"] == ["a cat, green", "a wolf"]
    assert files(api)["b.txt"] == b"what is read from b.caption" and "c.txt" not in files(api)


def test_what_was_changed_since_stays(api: Client) -> None:
    done = replaced(api, "cat", "lion")
    api("PUT", "/dataset/caption", json={"dataset": "cats", "picture": "a.png", "caption": "mine"})
    (api.root / "datasets" / "cats" / "b.caption").unlink()
    undone = api("POST", "/dataset/undo", json={"change": done["undo"]})
    assert undone["changed"] == 0 and undone["undo"] is None
    assert sorted(line.partition(":")[0] for line in undone["skipped"]) == ["cats/a.txt", "cats/b.caption"]
    assert files(api)["a.txt"] == b"mine\n" and "b.caption" not in files(api)


def test_a_change_that_is_only_counted_leaves_nothing_to_undo(api: Client) -> None:
    before = files(api)
    counted = replaced(api, "cat", "lion", dry=True)
    assert (counted["changed"], counted["undo"]) == (2, None) and files(api) == before
    assert "no change 1" in api("POST", "/dataset/undo", 400, json={"change": 1})["error"]


def test_whole_words_are_taken_out_of_sentences_and_tags(api: Client) -> None:
    folder = api.root / "datasets" / "cats"
    (folder / "c.png.txt").write_text("a big Red cat in the catalogue, red, on a bed", encoding="utf-8")
    assert replaced(api, "red", whole_words=True)["changed"] == 2
    assert load_caption(folder / "c.png") == "a big cat in the catalogue, on a bed"
    assert replaced(api, "cat", "dog", whole_words=True)["changed"] == 3
    assert load_caption(folder / "c.png") == "a big dog in the catalogue, on a bed"


def test_a_caption_of_two_pictures_is_changed_once_and_stays_for_the_other(api: Client) -> None:
    folder = api.root / "datasets" / "cats"
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    assert replaced(api, "red", "red red")["changed"] == 1
    assert load_caption(folder / "a.jpg") == load_caption(folder / "a.png") == "a cat,  red red"
    for name in ("a.png", "a.jpg", "c.png"):
        api("DELETE", "/dataset/picture", params={"dataset": "cats", "picture": name})
        assert (folder / "a.txt").exists() == (name == "a.png")
    kept = api.root / "removed" / "cats"
    assert load_caption(kept / "a.png") == "a cat,  red red" and load_caption(kept / "c.png") == "a dog"
    assert not (folder / "c.png.txt").exists() and len(list(kept.glob("a*.txt"))) == 2

"""Masks of regions by the API: what is saved, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from PIL import Image
from test_web import Client

from lora_ext.region_masks import MASKS_FOLDER, MaskFolders
from lora_ext.regions import parse_region


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    client.app_state.jobs.close()


def encoded(shade: int = 255) -> str:
    """A picture as the page sends it."""
    out = io.BytesIO()
    Image.new("L", (8, 4), shade).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_masks_are_saved_where_at_finds_them(api: Client) -> None:
    assert api("PUT", "/masks", json={"name": "face", "data": encoded()}) == {"names": ["face"]}
    folder = api.app_state.folders.data / MASKS_FOLDER
    assert MaskFolders([folder]).load(parse_region("face")).mask(2, 2).tolist() == [[1, 1], [1, 1]]
    assert api("GET", "/masks/picture", params={"name": "face"}).headers["content-type"] == "image/png"
    assert "another name" in api("PUT", "/masks", 400, json={"name": "face", "data": encoded(0)})["error"]
    api("PUT", "/masks", json={"name": "face", "data": encoded(51), "overwrite": True})
    assert MaskFolders([folder]).load(parse_region("face")).mask(2, 2).tolist() == [[pytest.approx(0.2)] * 2] * 2
    assert api("DELETE", "/masks", params={"name": "face"}) == {"names": []} and not list(folder.iterdir())
    for method, path in (("GET", "/masks/picture"), ("DELETE", "/masks")):
        assert "no mask" in api(method, path, 400, params={"name": "../presets"})["error"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["left", "0-1;0-1", "../face", "a/b", "con", "", "a:b", "col 9/2"])
def test_names_that_are_none_are_refused(api: Client, name: str) -> None:
    assert api("PUT", "/masks", 400, json={"name": name, "data": encoded()})["error"]
    assert not list(api.root.rglob("*.png"))


@pytest.mark.parametrize("data", ["%%%", base64.b64encode(b"no picture").decode()])
def test_what_is_no_picture_is_refused(api: Client, data: str) -> None:
    assert api("PUT", "/masks", 400, json={"name": "face", "data": data})["error"]
    assert not list(api.root.rglob("*.png"))

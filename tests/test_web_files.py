"""The API of the library's pictures, of block analysis and of the queue, and that new files are noticed."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from PIL import Image, PngImagePlugin
from test_web import Client, lora

from lora_ext.compare.block_analysis import analyse_by_norms, parse_layout
from lora_ext.jobs import MODEL_LANE, Job


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    lora(tmp_path / "loras" / "one.safetensors", 4)
    client.app_state.refresh_library()
    yield client
    client.app_state.jobs.close()


def png(size: tuple[int, int] = (64, 48), colour: str = "red", text: str = "") -> bytes:
    out, info = io.BytesIO(), PngImagePlugin.PngInfo()
    if text:
        info.add_text("parameters", text)
    Image.new("RGB", size, colour).save(out, format="PNG", pnginfo=info)
    return out.getvalue()


def upload(data: bytes) -> dict[str, Any]:
    return {"name": "one", "data": base64.b64encode(data).decode()}


def row(api: Client) -> dict[str, Any]:
    return next(row for row in api("GET", "/library")["rows"] if row["name"] == "one")


def test_an_uploaded_picture_lies_where_the_web_ui_looks(api: Client) -> None:
    assert row(api)["thumb"] is None
    (api.root / "loras" / "one.preview.png").write_bytes(png(colour="blue"))
    api("PUT", "/thumbnail", json=upload(png((2000, 1000), text="a cat\nSeed: 1")))
    with Image.open(api.root / "loras" / "one.png") as image:
        assert image.size == (768, 384) and image.info["parameters"] == "a cat\nSeed: 1"
    assert row(api)["thumb"] == (api.root / "loras" / "one.png").stat().st_mtime
    shown = api("GET", "/thumbnail", params={"name": "one"})
    assert shown.content == (api.root / "loras" / "one.png").read_bytes()


def test_a_moving_preview_is_shown_where_there_is_no_picture(api: Client) -> None:
    (api.root / "loras" / "one.preview.mp4").write_bytes(b"0123456789")
    assert row(api)["moving"] and row(api)["thumb"] is not None
    shown = api("GET", "/thumbnail", params={"name": "one"})
    assert shown.headers["content-type"] == "video/mp4" and shown.content == b"0123456789"
    (api.root / "loras" / "one.png").write_bytes(png(colour="blue"))
    assert not row(api)["moving"]


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*"])
def test_damaged_exif_of_a_thumbnail_is_left_out(exif: bytes, api: Client) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", exif=exif)
    api("PUT", "/thumbnail", json=upload(out.getvalue()))


def test_a_picture_that_was_drawn_becomes_the_thumbnail(api: Client) -> None:
    for name in (
        "pictures/00000-1.png",
        "compare/s/cells/0001-a.png",
        "compare/s/sheet.png",
        "blocks/one/norms-17.png",
    ):
        path = api.root / "outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(colour="green"))
    names = {one["name"] for one in api("GET", "/pictures/newest")["pictures"]}
    assert names == {"pictures/00000-1.png", "compare/s/cells/0001-a.png"}
    api("PUT", "/thumbnail", json={"name": "one", "picture": "pictures/00000-1.png"})
    with Image.open(api.root / "loras" / "one.png") as image:
        assert image.getpixel((0, 0)) == (0, 128, 0)


@pytest.mark.parametrize("data", [b"", b"no picture", png()[:40], b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"])
def test_what_is_no_picture_is_refused(api: Client, data: bytes) -> None:
    reason = "is not a PNG, JPEG or WebP" if data else "the file is empty"
    assert reason in api("PUT", "/thumbnail", 400, json=upload(data))["error"]
    api("PUT", "/thumbnail", 400, json={"name": "one", "data": "not base64!"})
    api("PUT", "/thumbnail", 400, json={"name": "one", "picture": "../presets.txt"})
    assert not (api.root / "loras" / "one.png").exists()


def test_a_picture_that_unfolds_to_too_much_is_refused(api: Client) -> None:
    out = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(out, format="PNG")
    assert "too large" in api("PUT", "/thumbnail", 400, json=upload(out.getvalue()))["error"]


@pytest.mark.parametrize("size", [17, 25, 26])
def test_blocks_by_their_norms(api: Client, size: int) -> None:
    job = api.done("/compare/blocks", {"lora": "one", "layout": size})
    assert job["state"] == "done", job["error"]
    found, wanted = job["result"], analyse_by_norms(api.app_state.entry("one").load(), parse_layout(size)).shares
    assert found["shares"] == pytest.approx(wanted, abs=1e-4) and sum(wanted.values()) == pytest.approx(1)
    assert {label for label, share in found["shares"].items() if share} == {"IN01", "IN04", "IN07"}
    with Image.open(api.root / "outputs" / found["map"]) as image:
        assert image.width > 500
    assert found["pictures"] == {}


def test_blocks_ask_for_what_there_is(api: Client) -> None:
    assert "did you mean 'one'" in api("POST", "/compare/blocks", 400, json={"lora": "onee"})["error"]
    assert "no layout has the size 18" in api.done("/compare/blocks", {"lora": "one", "layout": 18})["error"]
    assert "unknown way" in api("POST", "/compare/blocks", 400, json={"lora": "one", "way": "up"})["error"]


def test_a_file_that_is_dropped_in_is_noticed(api: Client) -> None:
    before = api("GET", "/jobs")["library"]
    lora(api.root / "loras" / "dropped.safetensors", 2)
    end = time.monotonic() + 30
    while "dropped" not in {row["name"] for row in api("GET", "/library")["rows"]} and time.monotonic() < end:
        time.sleep(0.2)
    now = api("GET", "/jobs")["library"]
    assert now != before
    time.sleep(0.5)
    assert api("GET", "/jobs")["library"][0] == now[0]  # nothing came: the page has nothing to do


def test_waiting_jobs_change_places(api: Client) -> None:
    gate, order = threading.Event(), []

    def work(job: Job) -> str:
        gate.wait(30)
        order.append(job.title)
        return job.title

    made = [api.app_state.jobs.start("a", title, work, lane=MODEL_LANE) for title in "abcd"]
    while made[0].state == "waiting":
        time.sleep(0.01)
    for title, to in ((3, "first"), (1, "down")):
        api("POST", f"/jobs/{made[title].id}/move", json={"to": to})
    assert [row["title"] for row in api("GET", "/jobs")["jobs"]] == ["a", "d", "c", "b"]
    api("POST", f"/jobs/{made[2].id}/move", 422, json={"to": "away"})
    assert "has already started" in api("POST", f"/jobs/{made[0].id}/move", 404, json={"to": "up"})["error"]
    api("POST", f"/jobs/{made[2].id}/cancel")
    gate.set()
    assert all(job.ended_event.wait(30) for job in made)
    assert order == ["a", "d", "b"]


def test_a_tag_of_an_unknown_file_is_skipped_with_a_note(api: Client) -> None:
    done = api.done("/generate", {"prompt": "a circle <lora:onne:1>", "steps": 1, "width": 64, "height": 64, "seed": 1})
    assert not (api.app_state.folders.data / "masks").exists()
    assert done["state"] == "done" and len(done["result"]["pictures"]) == 1
    assert done["result"]["notes"] == ["tag skipped: no LoRA is called 'onne'; did you mean 'one'?"]
    assert done["result"]["notes"][0] in "\n".join(done["log"])

"""Train → Pictures → Describe pictures: progress, stop, failure, and what is shown where nothing describes pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh
from conftest import PATIENCE
from program import Server, dataset
from steps import go

CAPTIONING_PAGE = Path(__file__).parent / "captioning_page.py"


@pytest.fixture
def captioning(browser: Any, tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    """The pictures' page of a program with captioners, and the folder of its six pictures, two without a caption."""
    folder = tmp_path / "datasets" / "circles" / "2_circle"
    dataset(folder)
    server = Server(tmp_path, None, program=[str(CAPTIONING_PAGE)])
    try:
        with fresh(browser, PATIENCE) as (page, errors):
            page.goto(server.url)
            page.wait_for_selector("#lora-ext .lx-tabs")
            yield open_pictures(page), folder
            assert not errors
    finally:
        server.stop()


def open_pictures(page: Any) -> Any:
    """The Train panel with its pictures, and what describes them opened."""
    panel = go(page, "train")
    panel.locator(".lx-segments [data-value=data]").click()
    panel.get_by_text("Describe pictures").click()
    return panel


def write_captions(panel: Any, captioner: str) -> None:
    """Starts a job."""
    details = panel.locator("details", has_text="Describe pictures")
    details.locator("select").select_option(captioner)
    details.get_by_role("button", name="Write captions").click()


def texts(folder: Path) -> list[str]:
    """The captions that the page wrote."""
    return sorted(path.read_text(encoding="utf-8").strip() for path in folder.glob("p[01].txt"))


def test_a_failed_a_stopped_and_a_finished_job(captioning: tuple[Any, Path]) -> None:
    panel, folder = captioning
    write_captions(panel, "blip")
    job = panel.locator(".lx-job:visible")
    message = "p1.png could not be described: RuntimeError: the model is broken; the 1 caption written before stays"
    job.get_by_text(message).wait_for()
    assert texts(folder) == ["a first circle"]
    details = panel.locator("details", has_text="Describe pictures")
    panel.get_by_label("Caption of 2_circle/p0.png").wait_for()  # the pictures were shown again
    assert details.locator("select").input_value() == "blip" and details.get_attribute("open") is not None

    details.get_by_text("replace captions").click()
    write_captions(panel, "clip")
    job.get_by_text("1 / 6").wait_for()
    job.get_by_role("button", name="Stop").click()
    job.get_by_text("Stopped: ").wait_for()
    assert "a slow circle" in texts(folder)

    details.get_by_text("replace captions").click()
    write_captions(panel, "clip")
    job.get_by_text("6 pictures have a caption already").wait_for()


@pytest.mark.one_page
def test_the_page_names_the_command_where_nothing_describes_pictures(page: Any) -> None:
    panel = open_pictures(page)
    panel.get_by_text("with the command python -m lora_ext caption --recursive DIR").wait_for()


@pytest.mark.one_page
def test_a_caption_half_typed_survives_a_reload(page: Any, server: Server) -> None:
    caption = server.data / "datasets" / "circles" / "2_circle" / "p1.txt"
    before = caption.read_bytes() if caption.exists() else None
    box = open_pictures(page).get_by_label(re.compile("Caption of .*p1.png"))
    was = box.input_value()
    box.press("End")
    box.press_sequentially(" half")
    page.reload()
    box = page.get_by_label(re.compile("Caption of .*p1.png"))  # the address names the page of the panel
    box.wait_for()
    assert page.url.endswith("#lora/train/data") and box.input_value() == f"{was} half"
    page.get_by_text("not saved yet").wait_for()
    assert (caption.read_bytes() if caption.exists() else None) == before
    try:
        box.focus()
        page.keyboard.press("Tab")
        page.locator("small", has_text=re.compile("^saved$")).wait_for()
        assert caption.read_text(encoding="utf-8").strip() == f"{was} half".strip()
        page.reload()
        box = open_pictures(page).get_by_label(re.compile("Caption of .*p1.png"))
        assert box.input_value().strip() == f"{was} half".strip()
        assert page.get_by_text("not saved yet").count() == 0
    finally:
        caption.unlink() if before is None else caption.write_bytes(before)

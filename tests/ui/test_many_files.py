"""The lists of files with thousands of them: dragged to their ends, few nodes in the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import CHROMIUM, FLAGS, fresh
from program import Server
from steps import go, small, until

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]

MANY = int(os.environ.get("LORA_EXT_MANY_FILES", "5000"))


@pytest.fixture
def page_with_scrollbars(server: Server, browser: Any) -> Iterator[Any]:
    """The tab in a browser that shows scrollbars, which playwright hides otherwise."""
    launch = browser.browser_type.launch
    with_scrollbars = launch(executable_path=CHROMIUM, args=FLAGS, ignore_default_args=["--hide-scrollbars"])
    server.clean()
    with fresh(with_scrollbars, 60_000) as (page, errors):
        page.goto(server.url)
        yield page
    with_scrollbars.close()
    server.clean()
    assert not errors


def drag_to_end(page: Any, box: Any) -> None:
    """Drags the scrollbar of a list below its end."""
    frame = box.bounding_box()
    x = frame["x"] + frame["width"] - 5  # the scrollbar
    page.mouse.move(x, frame["y"] + 24)  # on its thumb, below the arrow
    page.mouse.down()
    for part in (0.3, 0.7, 1.2):
        page.mouse.move(x, frame["y"] + frame["height"] * part)
    page.mouse.up()


def node_count(page: Any) -> int:
    """How many elements the tab has."""
    return int(page.evaluate("() => document.querySelectorAll('#lora-ext *').length"))


def test_the_list_of_files_dragged_to_its_end(page_with_scrollbars: Any, server: Server) -> None:
    page = page_with_scrollbars
    loras = server.data / "loras" / "many"
    loras.mkdir()
    small(loras / "file 0000.safetensors", 1)
    data = (loras / "file 0000.safetensors").read_bytes()
    for i in range(1, MANY):
        (loras / f"file {i:04}.safetensors").write_bytes(data)
    panel = go(page, "files")
    panel.get_by_label("Order").select_option("name")
    panel.get_by_label("Search", exact=True).fill("many/")
    panel.get_by_text(f"{MANY} files").wait_for()
    card = panel.locator(".lx-file")
    panel.locator(".lx-file[data-name='many/file 0000']").wait_for()

    box = panel.locator(".lx-file-list")
    drag_to_end(page, box)
    last = panel.locator(f".lx-file[data-name='many/file {MANY - 1:04}']")
    last.wait_for()
    at, frame = last.bounding_box(), box.bounding_box()
    assert frame["y"] <= at["y"] and at["y"] + at["height"] <= frame["y"] + frame["height"] + 1
    assert card.count() < 150
    assert node_count(page) < 2000

    last.click()
    panel.locator(".lx-detail", has_text=f"file {MANY - 1:04}").wait_for()
    assert last.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Home")
    panel.locator(".lx-file[data-name='many/file 0000']").wait_for()
    until(page, "() => document.activeElement.matches('.lx-file-list')")
    assert last.count() == 0

    picker = go(page, "weights").locator(".lx-picker:visible").first
    picker.locator(".lx-pick").click()
    picker.get_by_role("combobox").fill("many/")
    picker.get_by_role("status").get_by_text(f"{MANY} files").wait_for()
    drag_to_end(page, picker.locator(".lx-list"))
    end = picker.locator(f"[aria-posinset='{MANY}']")
    end.wait_for()
    assert picker.locator(".lx-item").count() < 60 and node_count(page) < 2000
    page.keyboard.press("ArrowUp")

"""The tab in a real browser: on the standalone page, and on a page of each gradio (`gradio_page.py`).

Skipped by name without Chromium or playwright. The browser is `chromium.CHROMIUM`.
LORA_EXT_GRADIO4: a folder of `pip install --target` with gradio 4.40; the tests then run on that too.
Tests marked `one_page` are about what the program does, not about how a page shows it: they run on the standalone page.
Those marked `one_gradio` are about fields and texts that no gradio touches: they run there and on gradio 3.41.2's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh, started
from program import Server, dataset

GRADIO_PAGE = Path(__file__).parent / "gradio_page.py"
PAGES = ("alone", "gradio", "gradio 4")
GRADIO4 = os.environ.get("LORA_EXT_GRADIO4")
PATIENCE = 60_000
"""Milliseconds: the machine may be busy."""


def pytest_configure(config: pytest.Config) -> None:
    """Makes the mark known."""
    config.addinivalue_line("markers", "one_page: runs on the standalone page only")
    config.addinivalue_line("markers", "one_gradio: does not run on gradio 4's page")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` each page's tests run in one process, beside another's."""
    left_out = []
    for item in list(items):
        call = getattr(item, "callspec", None)
        shown_on = str(call.params.get("server")) if call else "none"
        item.add_marker(pytest.mark.xdist_group(shown_on))
        left = ("one_page",) if shown_on == PAGES[1] else ("one_page", "one_gradio") if shown_on == PAGES[2] else ()
        if any(map(item.get_closest_marker, left)):
            items.remove(item)
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    with started() as chromium:
        yield chromium


@pytest.fixture(scope="session", params=PAGES)
def server(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The program, with a data set and without anything else."""
    if request.param == "gradio 4" and not GRADIO4:
        pytest.skip("LORA_EXT_GRADIO4 names no folder with gradio 4.40")
    if request.param == "gradio":
        pytest.importorskip("gradio")
    data = tmp_path_factory.mktemp("tab")
    dataset(data / "datasets" / "circles" / "2_circle")
    if request.param == "alone":
        running = Server(data, None)
    else:
        running = Server(data, GRADIO4 if request.param == "gradio 4" else None, program=[str(GRADIO_PAGE)])
    running.warm()
    yield running
    running.stop()


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """A fresh page on the tab; errors of its scripts fail the test."""
    server.clean()
    with fresh(browser, PATIENCE) as (made, errors):
        made.on("console", lambda message: errors.append(message.text) if _ours(message) else None)
        made.goto(server.url)
        made.wait_for_selector("#lora-ext .lx-tabs")
        yield made
    server.idle()  # what a test left behind is not the next one's
    assert not errors


def _ours(message: Any) -> bool:
    """An error that gradio's bare page does not give: it asks the net for a script, and 4xx answers are told anyway."""
    return message.type == "error" and "Failed to load resource" not in message.text

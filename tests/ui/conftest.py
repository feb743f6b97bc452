"""The tab in a real browser. Skipped by name without Chromium or playwright.

LORA_EXT_CHROMIUM: the browser (default: the first of chromium, chromium-browser, google-chrome on the PATH).
LORA_EXT_GRADIO4: a folder of `pip install --target` with gradio 4.40; the tests then run on that too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from program import Server, dataset

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("LORA_EXT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
GRADIO = {"gradio": None, "gradio 4": os.environ.get("LORA_EXT_GRADIO4")}
PATIENCE = 60_000
"""Milliseconds: the machine may be busy."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` each gradio's tests run in a process of their own, beside the other's."""
    for item in items:
        which = getattr(item, "callspec", None)
        item.add_marker(pytest.mark.xdist_group(str(which.params.get("server")) if which else "none"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    pytest.importorskip("gradio")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session", params=GRADIO)
def server(request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The program, with a data set and without anything else."""
    if request.param == "gradio 4" and not GRADIO[request.param]:
        pytest.skip("LORA_EXT_GRADIO4 names no folder with gradio 4.40")
    data = tmp_path_factory.mktemp("tab")
    dataset(data / "datasets" / "circles" / "2_circle")
    running = Server(data, GRADIO[request.param])
    running.warm()
    yield running
    running.stop()


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """A fresh page on the tab; errors of its scripts fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    made = context.new_page()
    made.set_default_timeout(PATIENCE)
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda message: errors.append(message.text) if _ours(message) else None)
    made.goto(server.url)
    made.wait_for_selector("#lora-ext .lx-tabs")
    yield made
    context.close()
    server.idle()  # what a test left behind is not the next one's
    assert not errors


def _ours(message: Any) -> bool:
    """An error that gradio's bare page does not give: it asks the net for a script, and 4xx answers are told anyway."""
    return message.type == "error" and "Failed to load resource" not in message.text

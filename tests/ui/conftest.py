"""The tab in a real browser. Skipped by name without Chromium or playwright.

The browser is `chromium.CHROMIUM`.
LORA_EXT_GRADIO4: a folder of `pip install --target` with gradio 4.40; the tests then run on that too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import fresh, started
from program import Server, dataset

GRADIO = {"gradio": None, "gradio 4": os.environ.get("LORA_EXT_GRADIO4")}
PATIENCE = 60_000
"""Milliseconds: the machine may be busy."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup` each gradio's tests run in a process of their own, beside the other's."""
    for item in items:
        which = getattr(item, "callspec", None)
        item.add_marker(pytest.mark.xdist_group(str(which.params.get("server")) if which else "none"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    pytest.importorskip("gradio")
    with started() as chromium:
        yield chromium


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

"""How the page gets its modules: from the API, in a web UI's page as soon as that is there."""

from __future__ import annotations

from typing import Any

import pytest
from chromium import fresh
from program import Server

from lora_ext.web.page_files import MODULES, page_folder, page_modules

pytestmark = pytest.mark.flaky(reruns=2)
MAIN = "**/lora-ext/v1/modules/main.mjs"
PATIENCE = 120_000


def test_the_web_uis_page_waits_for_the_api(server: Server, browser: Any, request: pytest.FixtureRequest) -> None:
    """A browser may open the web UI's page before extensions have added their routes."""
    if request.node.callspec.params["server"] == "alone":
        pytest.skip("the standalone page comes from the program that has the API")
    answers = iter(["no route", "no route", "no route yet"])

    def not_yet(route: Any) -> None:
        reason = next(answers, None)
        if reason is None:
            route.continue_()
        else:
            route.fulfill(status=404, json={"error": reason})

    with fresh(browser, PATIENCE) as (page, errors):
        page.route(MAIN, not_yet)
        page.goto(server.url)
        page.get_by_text("could not be loaded (no route yet)").wait_for()
        page.wait_for_selector("#lora-ext .lx-tabs")
        assert not errors


def test_every_module_comes_from_the_api_by_one_address(server: Server, browser: Any) -> None:
    """A browser runs a module once for each address, and would keep one with `file=` for days."""
    with fresh(browser, PATIENCE) as (page, errors):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(server.url)))
        page.goto(server.url)
        page.wait_for_selector("#lora-ext .lx-tabs")
        modules = {url.partition("/lora-ext/v1/modules/")[2] for url in asked if url.partition("?")[0].endswith(".mjs")}
        own = modules - {""}  # "" is lora_ext.mjs, which the web UI loads
        assert own == {path.relative_to(page_folder() / MODULES).as_posix() for path in page_modules()}
        assert not errors

"""A web UI started with names and passwords: ours are the same, on the page and in the HTTP API."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh
from forge_server import SUITE_FILES, start
from server import IN_FORGE, TOKEN, WebUI, apart, basic, launch, prepare
from tab_page import PATIENCE, open_tab
from test_the_tab import insert, weights

PAGE_LOGIN, API_LOGIN = "anna:of the page", "bert:of the API"
FLAGS = ("--gradio-auth", PAGE_LOGIN, "--api-auth", API_LOGIN)


@pytest.fixture(scope="module")
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI of its own, started with both options."""
    data = tmp_path_factory.mktemp("guarded")
    if IN_FORGE:
        forge = os.environ["LORA_EXT_FORGE"]
        if forge.startswith("http"):
            pytest.skip("LORA_EXT_FORGE gives no folder of a Forge")
        webui = start(Path(forge), data, *FLAGS, files=SUITE_FILES)
    else:
        folder = request.getfixturevalue("folder")
        prepare(data)
        webui = launch(folder, data, *FLAGS)
    yield webui
    webui.stop()


def status(webui: WebUI, path: str, **headers: str) -> int:
    """The status of the answer to a request for a path."""
    request = urllib.request.Request(webui.url + path, headers={n.replace("_", "-"): v for n, v in headers.items()})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_api_takes_either_login_and_its_token(guarded: WebUI) -> None:
    ours = "/lora-ext/v1/library"
    assert status(guarded, "/sdapi/v1/options") == status(guarded, ours) == 401
    for login in ("anna:wrong", "anna:of the API", "nobody:of the page"):
        assert status(guarded, ours, Authorization=basic(login)) == 401
    for login in (PAGE_LOGIN, API_LOGIN):
        assert status(guarded, ours, Authorization=basic(login)) == 200
    assert status(guarded, ours, X_Lora_Ext=TOKEN) == 200
    assert apart(guarded.make("<lora:lierla:1>"), guarded.make("")) > 2


def test_the_tab_works_for_who_has_logged_in_on_the_page(guarded: WebUI, browser: Any) -> None:
    name, _, password = PAGE_LOGIN.partition(":")
    with fresh(browser, PATIENCE) as (page, _):
        page.request.post(f"{guarded.url}/login", form={"username": name, "password": password})
        page.goto(guarded.url, wait_until="domcontentloaded")
        open_tab(page)
        insert(page, weights(page, "lierla"), "txt2img", "<lora:lierla:")
    with fresh(browser, PATIENCE) as (page, _):
        page.goto(guarded.url, wait_until="domcontentloaded")
        page.get_by_role("button", name="Login").wait_for()
        assert page.locator("#lora-ext").count() == 0

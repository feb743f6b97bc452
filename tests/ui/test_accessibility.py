"""axe-core finds nothing in any panel, dialog and state of the page.

Skipped by name without axe-core (`npm install`). LORA_EXT_ALL_LOOKS=1: all of both themes, four languages and two
widths; else each of them is looked at once.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from chromium import fresh
from page_states import page_states
from program import ROOT, Server

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
FEW = [("light", "en-GB", 1280), ("dark", "zh-CN", 1280), ("dark", "ja-JP", 400), ("light", "zh-TW", 400)]
ALL = list(itertools.product(("light", "dark"), ("en-GB", "zh-CN", "zh-TW", "ja-JP"), (1280, 400)))
LOOKS = ALL if os.environ.get("LORA_EXT_ALL_LOOKS") else FEW
SHOWN = ["#lora-ext .lx-top", "#lora-ext .lx-panel:not([hidden])", "#lora-ext .lx-job-menu"]
VIOLATIONS = """async shown => (await axe.run(
    { include: shown.filter(one => document.querySelector(one)).map(one => [one]) }, { resultTypes: ['violations'] }
)).violations.map(found => [found.id, found.nodes.slice(0, 3).map(node => node.html.slice(0, 160))])"""

pytestmark = [pytest.mark.long, pytest.mark.one_page, pytest.mark.flaky(reruns=1)]


@pytest.mark.parametrize(("theme", "locale", "width"), LOOKS)
def test_axe_finds_nothing(server: Server, browser: Any, theme: str, locale: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (npm install)")
    with fresh(browser, 60_000, locale=locale, width=width) as (page, errors):
        page.goto(f"{server.url}/?__theme={theme}")
        page.wait_for_selector("#lora-ext .lx-tabs")
        page.evaluate(AXE.read_text(encoding="utf-8"))
        found = {state: wrong for state in page_states(page) if (wrong := page.evaluate(VIOLATIONS, SHOWN))}
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert not errors
    assert found == {}
    assert wide <= 0

"""The web UI's fields on a page of each gradio: what the tab writes into them is what gradio's server gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import fresh
from conftest import GRADIO4, GRADIO_PAGE, PATIENCE
from program import Server
from steps import insert_regions, until

pytestmark = pytest.mark.flaky(reruns=2)
KINDS = ("number", "range")


@pytest.fixture(params=["gradio", "gradio 4"])
def prompts_page(request: pytest.FixtureRequest, browser: Any, tmp_path: Any) -> Iterator[Any]:
    """A page with the tab beside txt2img."""
    if request.param == "gradio 4" and not GRADIO4:
        pytest.skip("LORA_EXT_GRADIO4 names no folder with gradio 4.40")
    pytest.importorskip("gradio")
    packages = GRADIO4 if request.param == "gradio 4" else None
    server = Server(tmp_path, packages, program=[str(GRADIO_PAGE), "--prompts"])
    with fresh(browser, PATIENCE) as (page, errors):
        page.goto(server.url)
        page.locator("#tabs > .tab-nav > button", has_text="LoRA").click()
        page.wait_for_selector("#lora-ext .lx-tabs")
        yield page
    server.stop()
    assert not errors


@pytest.mark.long
def test_regions_are_inserted_with_their_size_and_the_tab_is_shown(prompts_page: Any) -> None:
    page = prompts_page
    panel = insert_regions(page, "txt2img", 768, 384)
    panel.get_by_role("button", name="Go to txt2img").click()
    prompt = page.locator("#txt2img_prompt textarea")
    page.locator("#txt2img_prompt textarea:focus").wait_for()
    assert prompt.is_visible() and prompt.input_value() == "two shapes"
    shown = [page.locator(f"#txt2img_{side} input[type={kind}]") for side in ("width", "height") for kind in KINDS]
    until(page, "text => document.querySelector('#got textarea').value === text", "two shapes | 768 | 384")
    assert [field.input_value() for field in shown] == ["768", "768", "384", "384"]

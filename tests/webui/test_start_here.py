"""Start here on the web UI's own page: from dropped pictures to a tag in the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from dropped_pictures import photo, send
from server import WebUI
from tab_page import LONG, prompt_of
from test_training import file_of

pytestmark = pytest.mark.usefixtures("same_settings")


def test_from_dropped_pictures_to_a_tag_in_the_prompt(embedded_model: WebUI, page: Any) -> None:
    """What a person does who has never trained; the tag that it ends with changes the picture."""
    webui = embedded_model
    plain, weights = webui.make(""), webui.weights()
    page.click("#lx-tab-start")
    panel = page.locator("#lx-panel-start")
    panel.get_by_text("The model that is loaded in the web UI is trained.").wait_for()
    panel.get_by_role("radio", name="Object").click()
    panel.get_by_label("Name", exact=True).fill("mycat")
    send(page, [(f"p{number}.png", photo(number)) for number in range(4)])
    panel.get_by_text("4 pictures added").wait_for()
    panel.get_by_text("4 pictures × 25 repeats × 10 epochs = 1000 samples; 1000 suit an object").first.wait_for()
    panel.get_by_text("All settings, and why").click()
    panel.get_by_label("epochs", exact=True).fill("2")  # the test has no time for more
    panel.get_by_label("dataset repeats").fill("2")
    panel.get_by_role("button", name="Train", exact=True).click()
    panel.get_by_text("sheet.png").wait_for(timeout=LONG)
    panel.locator(".lx-sheet td button").last.click()  # so few steps teach nothing, so that none is suggested
    panel.get_by_role("button", name="Insert into txt2img").last.click()
    page.get_by_text("Written into the prompt, with the seed").wait_for()
    prompt = prompt_of(page, "txt2img")
    assert "<lora:mycat" in prompt and page.locator("#txt2img_seed input").first.input_value() not in ("", "-1")
    assert (webui.make(prompt).pixels != plain.pixels).any()
    assert (webui.make("").pixels == plain.pixels).all() and webui.weights() == weights
    assert file_of(webui, "mycat").is_file()

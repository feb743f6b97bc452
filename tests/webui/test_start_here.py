"""Start here on the web UI's own page: from dropped pictures to a tag in the prompt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from dropped_pictures import fill_in_an_object
from PIL import Image
from server import WebUI, picture
from signs import KEPT, LEARNT, judge_the_sign, teach_the_sign
from tab_page import LONG, prompt_of
from test_training import file_of

LEARN = os.environ.get("LORA_EXT_LEARN")
"""Seconds that the training and its sheet may take."""
pytestmark = pytest.mark.usefixtures("same_settings")


def test_from_dropped_pictures_to_a_tag_in_the_prompt(embedded_model: WebUI, page: Any) -> None:
    """What a person does who has never trained; the tag that it ends with changes the picture."""
    webui = embedded_model
    plain, weights = webui.make(""), webui.weights()
    page.click("#lx-tab-start")
    panel = page.locator("#lx-panel-start")
    panel.get_by_text("The model that is loaded in the web UI is trained.").wait_for()
    fill_in_an_object(page, panel, repeats=2)
    panel.get_by_role("button", name="Train", exact=True).click()
    panel.get_by_text("sheet.png").wait_for(timeout=LONG)
    panel.locator(".lx-sheet td button").last.click()  # so few steps teach nothing, so that none is suggested
    panel.get_by_role("button", name="Insert into txt2img").last.click()
    page.get_by_text("with the seed: ").wait_for()
    prompt = prompt_of(page, "txt2img")
    assert "<lora:mycat" in prompt and page.locator("#txt2img_seed input").first.input_value() not in ("", "-1")
    assert (webui.make(prompt).pixels != plain.pixels).any()
    assert (webui.make("").pixels == plain.pixels).all() and webui.weights() == weights
    assert file_of(webui, "mycat").is_file()


@pytest.mark.skipif(not LEARN, reason="LORA_EXT_LEARN is not set: it trains for minutes")
def test_untouched_settings_teach_in_few_clicks(embedded_model: WebUI, page: Any) -> None:
    """The web UI draws the sign by the tag that the page inserts, and other prompts stay what they were."""
    webui = embedded_model
    page.click("#lx-tab-start")
    clicks = teach_the_sign(page, page.locator("#lx-panel-start"), "Insert into txt2img", 1000 * float(LEARN or 0))
    body = {"width": 64, "height": 64, "cfg_scale": 3, "sampler_name": "DPM++ 2M", "steps": 20, "batch_size": 1}

    def draw(prompts: Sequence[str], seed: int) -> list[Image.Image]:
        numbered = enumerate(prompts, seed)
        made = [webui.call("/sdapi/v1/txt2img", {**body, "prompt": text, "seed": n}) for n, text in numbered]
        return [Image.fromarray(picture(answer["images"][0]).astype("uint8")) for answer in made]

    learnt, kept = judge_the_sign(prompt_of(page, "txt2img"), draw)
    assert clicks <= 8 and learnt >= LEARNT and kept >= KEPT, (clicks, learnt, kept)

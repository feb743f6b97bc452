"""Kinds and modes of training, by the Train form on the web UI's page; afterwards the model is what it was."""

from __future__ import annotations

from typing import Any

import pytest
from server import WebUI
from tab_page import LONG
from test_training import file_of

pytestmark = pytest.mark.usefixtures("same_settings")


@pytest.mark.parametrize(
    ("name", "wanted"),
    {
        "loha": {"algo": "loha", "train_data_dir": "shapes"},
        "lokr": {"algo": "lokr", "train_data_dir": "shapes"},
        "dora": {"dora_wd": True, "train_data_dir": "shapes"},
        "ileco": {"mode": "ileco", "train_data_dir": "", "original_prompt": "red", "target_prompt": "blue"},
        "addift": {
            "mode": "addift",
            "train_data_dir": "",
            "original_image": "shapes/2_shape/0.png",
            "target_image": "shapes/2_shape/1.png",
        },
    }.items(),
)
def test_kinds_and_modes_of_the_form(embedded_model: WebUI, page: Any, name: str, wanted: dict[str, Any]) -> None:
    webui = embedded_model
    plain, weights, applied = webui.make(""), webui.weights(), webui.make("<lora:framed:0.8>")
    page.click("#lx-tab-train")
    panel = page.locator("#lx-panel-train")
    panel.get_by_role("radio", name="all", exact=True).click()
    common = {"output_name": f"form-{name}", "resolution": "64", "max_train_steps": "4", "learning_rate": "0.01"}
    for option, value in {**common, **wanted}.items():
        control = panel.locator(f'.lx-option:has([title*="({option}"]) :is(input, select)').first
        if isinstance(value, bool):
            control.check()
        elif control.evaluate("control => control.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)
    panel.get_by_role("button", name="Train", exact=True).click()
    job = panel.locator(".lx-job[data-state=done]:visible").last
    wrong = panel.locator(".lx-job:visible .lx-note.bad").last
    job.or_(wrong).last.wait_for(timeout=LONG)
    assert not wrong.is_visible(), wrong.inner_text()
    assert (webui.make("").pixels == plain.pixels).all() and webui.weights() == weights
    assert (webui.make("<lora:framed:0.8>").pixels == applied.pixels).all()
    assert file_of(webui, f"form-{name}").is_file()
    made = webui.make(f"<lora:form-{name}:1>")
    assert not made.comments and (made.pixels != plain.pixels).any()

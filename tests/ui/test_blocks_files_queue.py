"""The Blocks panel, block weights into a file, pictures of files, the queue, and files that come by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from program import Server
from steps import LONG, choose, ended, go, small, until

from lora_ext.blocks import BLOCK_LAYOUTS
from lora_ext.file.loading import load_lora_file

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]


@pytest.mark.long
def test_blocks_to_a_preset_and_to_the_sliders(page: Any, server: Server) -> None:
    panel = go(page, "blocks")
    choose(panel, "framed")
    panel.get_by_role("button", name="Measure").click()
    panel.locator(".lx-heat.kept").first.wait_for()
    most = panel.locator(".lx-heat.kept").count()
    panel.locator("input[type=number][aria-label=Keep]").fill("0.5")
    assert 0 < panel.locator(".lx-heat.kept").count() < most

    panel.get_by_role("radio", name="off alone").click()
    panel.get_by_label("Which blocks").select_option("17")
    panel.get_by_text("Settings", exact=True).click()
    panel.locator("input[type=number][aria-label=Steps]").fill("1")
    panel.get_by_role("button", name="Measure").click()
    panel.locator("button.lx-heat img").first.wait_for(timeout=LONG)
    panel.locator("button.lx-heat[data-label=OUT11]").click()
    panel.locator("figcaption", has_text="OUT11 off").wait_for()
    panel.get_by_label("Name of a new preset").fill("MAIN")
    panel.get_by_role("button", name="Save as preset").click()
    page.get_by_text("Saved as MAIN").wait_for()
    line = next(row for row in server.api("/presets")["presets"] if row["name"] == "MAIN")["values"]
    assert set(line.split(",")) == {"0", "1"}
    server.api("/presets?name=MAIN", "DELETE")

    panel.get_by_role("button", name="Set block weights").click()
    text = page.locator("#lx-panel-weights .lx-text")
    until(page, "line => document.querySelector('#lx-panel-weights .lx-text').value === line", arg=line)
    page.locator("#lx-panel-weights").get_by_role("button", name="Write into a file").click()
    tool = page.locator("#lx-panel-tools")
    assert tool.locator(".lx-text:visible").input_value() == text.input_value()
    tool.locator(".lx-tool:visible").get_by_label("Save as").fill("weighted")
    tool.locator(".lx-tool:visible").get_by_role("button", name="Write", exact=True).click()
    ended(tool)
    values = dict(zip(BLOCK_LAYOUTS[17].labels, line.split(","), strict=True))
    framed, made = server.api("/inspect?name=framed"), load_lora_file(server.data / "loras" / "weighted.safetensors")
    kept = {row["block"] for row in framed["blocks"] if values.get(row["block"]) == "1"}
    assert {site.block for site in made.adapters} == kept


def test_a_file_that_comes_by_itself_and_its_picture(page: Any, server: Server, tmp_path: Path) -> None:
    loras = server.data / "loras"
    panel = go(page, "files")
    panel.locator(".lx-file").first.wait_for()
    small(loras / "arrived.safetensors", 3)
    card = panel.locator(".lx-file", has_text="arrived")
    card.wait_for()  # nobody searched, nobody reloaded
    card.click()
    panel.get_by_role("button", name="Choose a picture").click()
    panel.locator(".lx-samples button").first.click()
    card.locator("img.lx-thumb").wait_for()
    with Image.open(loras / "arrived.png") as image:
        assert "Steps: " in image.info["parameters"]  # how it was made stays in it
    Image.new("RGB", (80, 60), (0, 0, 255)).save(tmp_path / "blue.png")
    before = card.locator("img").get_attribute("src")
    panel.locator("input[type=file]").set_input_files(tmp_path / "blue.png")
    until(page, "before => !document.querySelector(`.lx-file img[src='${before}']`)", arg=before)
    with Image.open(loras / "arrived.png") as image:
        assert image.getpixel((5, 5)) == (0, 0, 255)
    (loras / "arrived.safetensors").unlink()
    card.wait_for(state="detached")


def test_the_queue_in_another_order(page: Any, server: Server) -> None:
    for title in ("first", "second", "third"):
        server.api("/generate", "POST", {"prompt": title, "steps": 150 if title == "first" else 1, "width": 256})
    page.locator(".lx-job-menu-face").click()
    third = page.locator(".lx-jobline", has_text="third")
    third.get_by_role("button", name="Move to the front of the queue").click()
    page.locator(".lx-jobline[data-state=waiting]", has_text=re.compile("third.*1 / 2")).wait_for()
    waiting = [row["title"] for row in server.api("/jobs")["jobs"] if row["state"] == "waiting"]
    assert waiting == ["third", "second"]
    page.locator(".lx-jobline", has_text="first").get_by_role("button", name="Stop").click()
    page.locator(".lx-jobline[data-state=done]", has_text="second").wait_for(timeout=LONG)


@pytest.mark.long
def test_a_second_training_does_not_hide_the_first(page: Any, server: Server) -> None:
    panel = go(page, "train")

    def start(name: str) -> None:
        for option, value in (("max_train_steps", "400"), ("output_name", name)):
            panel.locator(f'.lx-option:has(label[title*="({option}"]) input').first.fill(value)
        panel.get_by_role("button", name="Train", exact=True).click()

    start("one-run")
    view = panel.locator(".lx-stick .lx-job").nth(1)
    view.get_by_text(re.compile(r"running [1-9]\d* / 400")).wait_for(timeout=LONG)
    start("other-run")
    page.get_by_text("other-run is in the queue").wait_for()
    view.locator(".lx-also", has_text="Also started: other-run").wait_for()
    view.get_by_text(re.compile(r"running [1-9]\d* / 400")).wait_for()  # still the first
    assert view.locator(".lx-chart").first.is_visible()
    page.locator(".lx-job-menu-face").click()
    page.locator(".lx-jobline[data-state=running]", has_text="one-run").wait_for()
    page.locator(".lx-jobline[data-state=waiting]", has_text="other-run").wait_for()
    page.locator(".lx-job-menu-face").click()
    view.locator(".lx-also").get_by_role("button", name="Show").click()
    view.locator(".lx-job-words b", has_text="waiting").wait_for()
    view.locator(".lx-also", has_text="Also started: one-run").wait_for()
    view.locator(".lx-also").get_by_role("button", name="Show").click()
    view.get_by_role("button", name="Stop", exact=True).click()
    view.locator(".lx-job-words b", has_text="cancelled").wait_for(timeout=LONG)
    server.idle()  # the other one, which has begun


def test_nothing_is_asked_once_a_web_ui_has_emptied_its_page(page: Any) -> None:
    """While it starts again ("Reloading..."), when a request can end it."""
    go(page, "start")
    asked: list[str] = []
    with page.expect_request("**/jobs", timeout=LONG):
        pass  # it does ask again and again
    page.evaluate("document.body.replaceChildren('Reloading...')")
    page.wait_for_timeout(500)
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(7000)
    assert not asked

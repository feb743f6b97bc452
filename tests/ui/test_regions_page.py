"""The Regions panel: rectangles by the pointer and by keys, a painted mask, and the prompt that comes of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from program import Server
from steps import choose, go, insert_regions, until

from lora_ext.region_masks import MASKS_FOLDER

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]
TEXT_HAS = "part => document.querySelector('#lx-panel-regions code').textContent.includes(part)"


def _drag(page: Any, box: Any, *points: tuple[float, float]) -> None:
    """Presses at the first point, in shares of a box, and releases at the last one."""
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4 if number else 1)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def _orange_share(canvas: Any) -> float:
    """The share of the picture with the hue of the second region, whose fill lies half over the ground."""
    pixels = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)
    return float(((pixels[..., 0] - pixels[..., 2]) > 60).mean())


def test_regions_become_a_prompt(page: Any, server: Server) -> None:
    panel = go(page, "regions")
    text, canvas = panel.locator("code.lx-tag"), panel.locator(".lx-region-canvas")
    panel.get_by_label("Prompt of the whole picture").fill("two shapes")
    panel.get_by_role("button", name="Add a LoRA").click()
    choose(panel, "framed")
    until(page, TEXT_HAS, "<lora:framed:1:at=left>")

    # the second region is chosen, resized by its left edge, and moved by keys
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
    before = _orange_share(canvas)
    _drag(page, box, (0.5, 0.5), (0.75, 0.5))
    panel.get_by_role("button", name="Add a LoRA").click()
    choose(panel, "striped")
    assert text.inner_text() == "two shapes <lora:framed:1:at=left> <lora:striped:1:at=0.75-1;0-1>"
    assert 0.4 < before < 0.65 and 0.15 < _orange_share(canvas) < 0.4
    shape = panel.locator(".lx-region[data-index='1']")
    shape.focus()
    shape.press("ArrowLeft")
    assert "at=0.7-0.95;0-1" in text.inner_text()

    # with words of their own, regions that fill the picture in columns are Regional Prompter's
    panel.get_by_role("button", name="2 columns").click()
    panel.get_by_label("Prompt of the region").fill("a square")
    assert text.inner_text() == "two shapes ADDCOMM <lora:framed:1> ADDCOL a square <lora:striped:1>"
    panel.get_by_role("button", name="Insert into prompt").click()
    prompt = page.locator("#lx-panel-generate textarea").first
    assert prompt.input_value() == text.inner_text()

    # the line below says what was written where, leads there, and the prompt of before can be put back
    panel.get_by_text("This text has replaced the prompt of Generate.").wait_for()
    panel.get_by_role("button", name="Undo").click()
    assert prompt.input_value() == "a red circle on a blue background"
    panel.get_by_role("button", name="Insert into prompt").click()
    panel.get_by_role("button", name="Go to Generate").click()
    assert prompt.is_visible() and prompt.evaluate("e => e === document.activeElement")


def test_the_size_goes_along(page: Any) -> None:
    """The regions were drawn for one shape and the picture had another, and a reload lost the size."""
    panel = insert_regions(page, "prompt", 96, 64)
    panel.get_by_role("button", name="Go to Generate").click()
    sides = [page.locator(f"#lx-panel-generate input[type=number][aria-label={name}]") for name in ("Width", "Height")]
    assert [side.input_value() for side in sides] == ["96", "64"] and all(side.is_visible() for side in sides)
    go(page, "regions").get_by_role("button", name="Undo").click()
    assert [side.input_value() for side in sides] == ["", ""]

    # the model's own size is left to each panel
    page.reload()
    box = panel.locator(".lx-region-canvas").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(1.5, abs=0.05)
    for name in ("Width", "Height"):
        panel.locator(f"input[type=number][aria-label={name}]").fill("")
    go(page, "generate")
    sides[0].fill("128")
    go(page, "regions").get_by_role("button", name="Insert into prompt").click()
    panel.get_by_text("This text has replaced the prompt of Generate.").wait_for()
    assert [side.input_value() for side in sides] == ["128", ""] and not panel.get_by_text("Width and height").count()


def test_a_painted_mask_is_a_region(page: Any, server: Server) -> None:
    panel = go(page, "regions")
    panel.get_by_role("button", name="Add a LoRA").click()
    choose(panel, "framed")
    panel.get_by_role("button", name="Paint a mask").click()
    _drag(page, panel.locator(".lx-region-canvas").bounding_box(), (0.25, 0.25), (0.75, 0.25))
    panel.get_by_label("Name of the mask").fill("left")
    panel.get_by_role("button", name="Save the mask").click()
    page.get_by_text("cannot be a mask's name").wait_for()
    panel.get_by_label("Name of the mask").fill("band")
    panel.get_by_role("button", name="Save the mask").click()
    until(page, TEXT_HAS, ":at=band>")
    mask = np.asarray(Image.open(server.data / MASKS_FOLDER / "band.png"))
    height, width = mask.shape
    assert mask[height // 4, width // 2] == 255 and mask[height // 2, width // 2] == 0
    assert server.api("/masks")["names"] == ["band"]
    server.api("/masks?name=band", "DELETE")
    assert server.api("/masks")["names"] == []

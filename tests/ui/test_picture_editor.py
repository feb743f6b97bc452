"""Pictures are cropped and masked in the page, and captions changed by their words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dropped_pictures import photo, send
from program import Server
from steps import go

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.long]


def crop_and_mask(page: Any, dialog: Any) -> None:
    """Draws a crop of the training's shape, and a mask by keys."""
    frame = page.locator(".lx-edit-frame").bounding_box()
    x, y, width, height = (frame[name] for name in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.1 * width, y + 0.1 * height)
    page.mouse.down()
    page.mouse.move(x + 0.5 * width, y + 0.5 * height)
    page.mouse.up()
    dialog.get_by_role("radio", name="as trained").click()
    page.locator(".lx-crop .body").focus()
    page.keyboard.press("Alt+ArrowRight")
    dialog.get_by_role("radio", name="Mask", exact=True).click()
    page.locator(".lx-mask-layer").focus()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowLeft")


def test_crop_mask_and_undo(page: Any, server: Server) -> None:
    panel = go(page, "start")
    panel.get_by_role("radio", name="Object").click()
    panel.get_by_label("Name", exact=True).fill("cropped")
    send(page, [("a.png", photo(1))])
    panel.get_by_text("1 picture added").wait_for()
    (picture,) = server.data.glob("datasets/cropped*/a.png")
    before, beside = picture.read_bytes(), picture.with_name("a.png.edit.json")
    panel.get_by_role("button", name="Crop or mask a.png").press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("document.activeElement.dataset.picture") == "a.png"
    page.keyboard.press("Enter")
    dialog.wait_for()
    crop_and_mask(page, dialog)
    dialog.get_by_role("button", name="Save").click()
    page.get_by_text("Saved; the picture itself is as it was").wait_for()
    saved = json.loads(beside.read_text(encoding="utf-8"))
    assert saved["crop"][2] == saved["crop"][3] == 26 and saved["mask"] and picture.read_bytes() == before
    panel.get_by_role("button", name="Undo").wait_for()
    page.keyboard.press("Control+z")
    panel.get_by_role("button", name="Redo").wait_for()
    assert not beside.exists() and picture.read_bytes() == before
    page.keyboard.press("Control+Shift+z")
    panel.get_by_role("button", name="Undo").wait_for()
    assert json.loads(beside.read_text(encoding="utf-8")) == saved


@pytest.mark.one_gradio
def test_words_of_the_captions_filter_and_are_removed(page: Any, server: Server) -> None:
    panel = go(page, "start")
    captions = {"a": "a cat, red ball", "b": "a cat, outdoors", "c": "a dog, outdoors"}
    panel.get_by_role("radio", name="Object").click()
    panel.get_by_label("Name", exact=True).fill("words")
    files = [(f"{name}.png", photo(number)) for number, name in enumerate(captions)]
    send(page, files + [(f"{name}.txt", caption.encode()) for name, caption in captions.items()])
    panel.get_by_text("3 captions came with them").wait_for()
    panel.get_by_text("Captions (optional)").click()
    box = panel.get_by_label("Caption of c.png")
    box.click()
    box.press_sequentially(", re")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert box.input_value() == "a dog, outdoors, red ball"
    box.blur()
    panel.locator(".lx-picture").get_by_text("saved", exact=True).wait_for()
    panel.get_by_text("Words of the captions").click()
    for word in ("outdoors", "a cat"):
        panel.locator(".lx-cloud button", has_text=word).click()
    panel.get_by_text("outdoors + a cat: in 1 caption, shown below").wait_for()
    assert panel.locator(".lx-picture:visible textarea").evaluate_all("all => all.map(one => one.value)") == [
        "a cat, outdoors"
    ]
    panel.locator(".lx-cloud button", has_text="outdoors").click()
    panel.locator("[role=status]:visible").get_by_role("button", name="Remove from all").click()
    page.get_by_text("2 captions changed").wait_for()
    (folder,) = server.data.glob("datasets/words*")
    found = [(folder / f"{name}.txt").read_text(encoding="utf-8").strip() for name in captions]
    assert found == ["red ball", "outdoors", "a dog, outdoors, red ball"]

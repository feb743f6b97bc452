"""A picture is cropped and masked in the page, with the pointer and with the keyboard, and the change is undone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dropped_pictures import photo, send
from program import Server
from steps import go

pytestmark = [pytest.mark.flaky(reruns=2)]


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
    panel.get_by_text("1 pictures added").wait_for()
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
    panel.get_by_role("button", name="Undo").click()
    page.get_by_text("Crop and mask changed").wait_for()
    assert not beside.exists() and picture.read_bytes() == before

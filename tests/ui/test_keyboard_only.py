"""From photos to a LoRA file and its tag in the prompt with the keyboard alone; no script moves the focus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dropped_pictures import photo
from program import Server
from steps import LONG

pytestmark = [pytest.mark.long, pytest.mark.one_page, pytest.mark.flaky(reruns=1)]

MOST_TABS = 80
SHOWN_FOCUS = """() => {
    const one = document.activeElement;
    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(one);
    const seen = one.checkVisibility({ visibilityProperty: true }) && one.getBoundingClientRect().height > 0;
    return seen && ((outlineStyle !== 'none' && parseFloat(outlineWidth) > 0) || boxShadow !== 'none');
}"""


def tab_to(page: Any, element: Any) -> None:
    """Presses Tab until an element has the focus; whatever has it on the way shows that."""
    for _ in range(MOST_TABS):
        if element.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Tab")
        assert page.evaluate(SHOWN_FOCUS), page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    raise AssertionError(f"Tab does not reach {element}")


def type_into(page: Any, field: Any, text: str) -> None:
    """Replaces the text of a field."""
    tab_to(page, field)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)


def test_from_photos_to_a_file(page: Any, server: Server, tmp_path: Path) -> None:
    panel = page.locator("#lx-panel-start")
    panel.locator(".lx-steps").wait_for()
    pictures = [tmp_path / f"p{number}.png" for number in range(4)]
    for number, path in enumerate(pictures):
        path.write_bytes(photo(number))

    tab_to(page, page.locator("#lx-tab-start"))
    kinds = panel.get_by_role("radiogroup").first.get_by_role("radio")
    tab_to(page, kinds.first)
    for _ in range(kinds.count()):
        if kinds.filter(has_text="Object").get_attribute("aria-checked") == "true":
            break
        page.keyboard.press("ArrowRight")
    type_into(page, panel.get_by_label("Name", exact=True), "bykeys")
    tab_to(page, panel.get_by_role("button", name="Choose pictures"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(pictures)
    panel.get_by_text("4 pictures added").wait_for()

    settings = panel.get_by_text("All settings, and why")
    settings.wait_for()
    tab_to(page, settings)
    page.keyboard.press("Enter")
    type_into(page, panel.get_by_label("dataset repeats"), "1")
    type_into(page, panel.get_by_label("epochs", exact=True), "1")
    while not panel.get_by_role("button", name="Train", exact=True).evaluate("one => one === document.activeElement"):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    panel.get_by_text("sheet.png").wait_for(timeout=LONG)
    assert (server.data / "loras" / "bykeys.safetensors").is_file()

    tab_to(page, panel.locator(".lx-sheet td button").last)
    page.keyboard.press("Enter")
    insert = panel.get_by_role("button", name="Insert into prompt").last
    insert.wait_for()
    tab_to(page, insert)
    page.keyboard.press("Enter")
    page.get_by_text("with the seed: ").wait_for()
    assert "<lora:bykeys" in page.locator("#lx-panel-generate").get_by_label("Prompt", exact=True).input_value()

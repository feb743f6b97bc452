"""What is ticked, pressed or chosen looks it: pixels decide, since the page's host has styles of its own."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat
from program import Server
from steps import choose, go, until

pytestmark = pytest.mark.flaky(reruns=2)

CLEAR = 40
"""Of 255: how far two mean colours are apart at least, in the channel that differs most."""


def _seen(control: Any) -> Image.Image:
    """The control's pixels without the pointer over it or the cursor in it."""
    page = control.page
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(200)
    return Image.open(io.BytesIO(control.screenshot())).convert("RGB")


def _apart(one: Image.Image, other: Image.Image) -> float:
    return max(abs(a - b) for a, b in zip(ImageStat.Stat(one).mean, ImageStat.Stat(other).mean, strict=True))


def _open(page: Any, server: Server, theme: str) -> None:
    page.goto(f"{server.url}/?__theme={theme}")
    page.wait_for_selector("#lora-ext .lx-tabs")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_ticked_box_looks_ticked(page: Any, server: Server, theme: str) -> None:
    _open(page, server, theme)
    for name in ("train", "tools"):
        panel = go(page, name)
        panel.locator(".lx-check:visible").first.wait_for()
        boxes = panel.locator(".lx-check:visible input").element_handles()
        empty, full, again = (_shown(page, boxes, ticked) for ticked in (False, True, False))
        for box, before, ticked, after in zip(boxes, empty, full, again, strict=True):
            where = (name, theme, box.evaluate("box => box.closest('label').textContent"))
            assert _apart(before, ticked) > CLEAR, where
            middle = ticked.crop((4, 4, ticked.width - 4, ticked.height - 4)).convert("L")  # the mark stands out
            low, high = middle.getextrema()
            assert high - low > 80, where
            assert _apart(after, before) < 5, where


def _shown(page: Any, boxes: list[Any], ticked: bool) -> list[Image.Image]:
    """The boxes' pixels from one picture of the whole page, after all were ticked or emptied."""
    for box in boxes:
        if box.is_visible():  # a field may hide others
            box.set_checked(ticked)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(200)
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    scrolled = page.evaluate("scrollY")
    found = []
    for box in boxes:
        place = box.bounding_box()
        left, top = round(place["x"]), round(place["y"] + scrolled)
        found.append(whole.crop((left, top, left + round(place["width"]), top + round(place["height"]))))
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_chosen_looks_chosen(page: Any, server: Server, theme: str) -> None:
    """A segment, a tab and a chip: by their colours, not by their letters."""
    _open(page, server, theme)
    panel = go(page, "train")
    one, other = (
        panel.get_by_role("radio", name="basic", exact=True),
        panel.get_by_role("radio", name="all", exact=True),
    )
    for chosen, left in ((one, other), (other, one)):
        chosen.click()
        assert _edge(chosen, left) > 12, theme
    tabs = page.locator("#lx-tab-train"), page.locator("#lx-tab-tools")
    assert _edge(*tabs) > 6 and tabs[0].evaluate("one => getComputedStyle(one).color") != tabs[1].evaluate(
        "one => getComputedStyle(one).color"
    )
    panel.get_by_role("radio", name="Pictures").click()
    chips = panel.locator(".lx-chip[aria-pressed]")
    chips.nth(1).wait_for()
    chips.nth(1).click()
    assert _edge(chips.nth(1), chips.nth(0)) > 12, theme


def _edge(one: Any, other: Any) -> float:
    """How far the grounds of two controls are apart: a strip inside their left edges, where no letter is."""
    strips = []
    for control in (one, other):
        seen = _seen(control)
        strips.append(seen.crop((4, seen.height // 3, 7, 2 * seen.height // 3)))
    return _apart(*strips)


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.one_page)])
def test_group_sliders_stand_where_their_blocks_do(page: Any, server: Server, theme: str) -> None:
    _open(page, server, theme)
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-tag", has_text="framed").wait_for()
    slide = panel.locator(".lx-handle", has_text="IN").locator("input").first
    full = _seen(slide)
    panel.locator(".lx-text").fill(",".join(["1"] + ["0"] * 6 + ["1"] * 10))
    until(page, "document.querySelector('[aria-label^=IN01]').getAttribute('aria-valuenow') === '0'")
    none = _seen(slide)
    assert slide.input_value() == "0" and _apart(full, none) > 10
    panel.get_by_role("slider", name="IN04").first.press("1")
    assert slide.get_attribute("aria-valuetext") == "different weights"
    assert ImageChops.difference(_seen(slide), none).getbbox() is not None


@pytest.mark.one_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_points_of_a_curve_are_dragged(page: Any, server: Server, theme: str) -> None:
    """A point is where the pointer leaves it, the line goes there, and the text says so; and the other way round."""
    _open(page, server, theme)
    panel = go(page, "weights")
    panel.locator(".lx-about", has_text="SD1").wait_for()  # what it says moves the picture down
    text = panel.get_by_label("Curve over the steps")
    picture = panel.locator(".lx-curve-editor svg").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()

    def at(share: float, value: float) -> tuple[float, float]:
        """Where a place from 0 to 1 and a value from 0 to 2 are in the picture, by its paddings."""
        x, y = 52 + share * (320 - 66), 132 - 30 - value / 2 * (132 - 42)
        return box["x"] + x / 320 * box["width"], box["y"] + y / 132 * box["height"]

    def colour(share: float, value: float) -> tuple[int, ...]:
        page.wait_for_timeout(100)
        seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        return seen.getpixel(tuple(map(round, at(share, value))))

    def is_drawn(share: float, value: float) -> bool:
        return max(abs(a - b) for a, b in zip(colour(share, value), colour(0.1, 1.76), strict=True)) > CLEAR

    assert not is_drawn(0.3, 0.4) and text.input_value() == ""
    page.mouse.click(*at(0.3, 0.4))  # bends the line of weight 1
    assert text.input_value() == "1@0, 0.4@0.3, 1@1" and is_drawn(0.3, 0.4) and is_drawn(0.65, 0.7)
    page.mouse.move(*at(0.3, 0.4))
    page.mouse.down()
    page.mouse.move(*at(0.6, 1.5), steps=5)
    page.mouse.up()
    page.mouse.move(0, 0)
    assert text.input_value() == "1@0, 1.5@0.6, 1@1"
    assert is_drawn(0.6, 1.5) and is_drawn(0.3, 1.25) and not is_drawn(0.3, 0.4)
    for keys in ("ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(keys)
    assert text.input_value() == "1@0, 1.49@0.65, 1.49@0.83, 1@1"
    page.keyboard.press("Delete")
    page.mouse.dblclick(*at(0.65, 1.49))
    assert text.input_value() == "1@0, 1@1"
    text.fill("0@0,1.9@0.5 step")
    assert is_drawn(0.25, 0) and is_drawn(0.5, 0.9) and is_drawn(0.8, 1.9) and not is_drawn(0.25, 0.95)
    panel.locator(".lx-tag", has_text="0@0,1.9@0.5 step").wait_for()

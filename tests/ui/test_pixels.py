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
        for box in panel.locator(".lx-check:visible input").all():
            box.set_checked(False)
            empty = _seen(box)
            box.set_checked(True)
            full = _seen(box)
            assert _apart(empty, full) > CLEAR, (name, theme, box.evaluate("box => box.closest('label').textContent"))
            middle = full.crop((4, 4, full.width - 4, full.height - 4)).convert("L")  # the mark stands out from its box
            low, high = middle.getextrema()
            assert high - low > 80
            box.set_checked(False)
            assert _apart(_seen(box), empty) < 5


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


@pytest.mark.parametrize("theme", ["light", "dark"])
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

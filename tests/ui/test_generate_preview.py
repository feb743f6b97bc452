"""Generate's picker and last pictures, and the preview of the Weights panel: what is shown, and which jobs run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from program import Server
from steps import choose, ended, go, until

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]


def test_a_chosen_file_is_inserted_and_the_last_two_pictures_are_compared(page: Any) -> None:
    panel = go(page, "generate")
    panel.get_by_label("Prompt", exact=True).fill("a red circle")
    panel.get_by_label("Steps").last.fill("2")
    panel.get_by_role("button", name="Draw", exact=True).click()
    ended(panel)
    choose(panel, "striped")
    panel.get_by_role("button", name="Insert into prompt").click()
    page.get_by_text("Written into the prompt").wait_for()
    assert panel.get_by_label("Prompt", exact=True).input_value() == "a red circle <lora:striped:1>"
    panel.get_by_role("button", name="Draw", exact=True).click()
    wiped = panel.locator(".lx-wipe")
    wiped.wait_for()
    assert wiped.locator(".before").get_attribute("alt") == "before: a red circle"
    assert wiped.locator(".after").get_attribute("alt") == "after: a red circle <lora:striped:1>"
    slider = panel.get_by_label("From before to after")
    slider.fill("25")
    shown = "e => getComputedStyle(e).clipPath"
    assert wiped.locator(".before").evaluate(shown) == "inset(0px 75% 0px 0px)"
    panel.locator(".lx-last button").first.click()  # the two the other way round
    assert panel.locator(".lx-wipe .after").get_attribute("alt") == "after: a red circle"
    page.reload()
    go(page, "generate").locator(".lx-wipe").wait_for()


def test_a_preview_follows_the_sliders_and_stops_the_one_of_before(page: Any, server: Server) -> None:
    panel = go(page, "weights")
    choose(panel, "striped")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    panel.get_by_text("Settings", exact=True).click()
    panel.locator(".lx-preview").get_by_label("Prompt", exact=True).fill("a red circle")
    panel.locator(".lx-preview").get_by_label("Steps").fill("3")
    panel.get_by_role("button", name="Draw preview").click()
    panel.locator(".lx-wipe").wait_for()
    sources = "() => [...document.querySelectorAll('#lx-panel-weights .lx-wipe img')].map(one => one.src)"
    first = page.evaluate(sources)
    panel.locator(".lx-preview").get_by_label("Steps").fill("100")
    panel.get_by_label("Draw again when a weight changes").check()
    running = ".lx-preview [role=status]:not(:empty)"
    page.locator(running).wait_for()
    panel.locator(".lx-preview").get_by_label("Steps").fill("3")
    panel.get_by_title("Set to 0: the output blocks").click()
    until(page, f"first => ({sources})()[0] !== undefined && ({sources})()[0] !== first", first[0])
    states = [row["state"] for row in server.api("/jobs")["jobs"] if row["kind"] == "preview"]
    assert states[-3:] == ["done", "cancelled", "done"]
    applied, without = page.evaluate(sources)
    assert applied != first[0] and without == first[1]


def test_the_weights_that_acted_are_drawn_under_the_picture(page: Any) -> None:
    """In Generate, and below the comments of the web UI, which has its own page around ours."""
    panel = go(page, "generate")
    panel.get_by_label("Prompt", exact=True).fill("a red circle <lora:striped:0@0,1@0.5,0@1>")
    panel.get_by_label("Steps").last.fill("5")
    panel.get_by_label("Show the weight at each step").check()
    panel.get_by_role("button", name="Draw", exact=True).click()
    ended(panel)
    drawn = panel.locator(".lx-acted .line")
    places = [float(number) for number in re.findall(r"[\d.]+", drawn.get_attribute("d"))]
    xs, ys = places[::2], places[1::2]
    assert xs == sorted(xs) and len(ys) == 5 and ys[0] == ys[4] > ys[1] == ys[3] > ys[2]
    line = panel.locator(".lx-pictures > .lx-note").first.inner_text()
    page.evaluate(
        "line => { const p = document.createElement('p'); p.className = 'comments';"
        " p.append('other', document.createElement('br'), `\\n${line}`); document.body.append(p); }",
        line,
    )
    assert page.locator("body > p.comments .lx-acted .line").get_attribute("d") == drawn.get_attribute("d")
    assert page.locator("body > p.comments").inner_text().startswith(f"other\n{line}")

"""What to do about a message, and messages outside of the tab."""

from __future__ import annotations

from typing import Any

import pytest
from chromium import fresh
from program import Server
from steps import go, small, until

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]


def test_what_to_do_is_shown(page: Any, server: Server) -> None:
    path = server.data / "loras" / "goes.safetensors"
    small(path, 1)
    panel = go(page, "files")
    panel.get_by_text("goes", exact=True).first.wait_for()
    path.write_bytes(b"")
    panel.get_by_text("goes", exact=True).first.click()
    panel.get_by_role("alert").get_by_role("button", name="What to do").click()
    dialog = page.get_by_role("dialog", name="What to do")
    dialog.get_by_text("download it again").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    sets = go(page, "sets")
    sets.locator("textarea.lx-text").fill("<lora:one:two>")
    sets.locator("input[maxlength='64']").fill("mycat")
    sets.locator(".lx-button.main").first.click()
    at_the_edge = page.locator(".lx-toast.bad").get_by_role("button", name="What to do")
    ink, paper = at_the_edge.evaluate("one => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]")
    assert ink != paper


def test_notes_outside_of_the_tab_are_in_the_pages_language(browser: Any, server: Server) -> None:
    """As the web UI shows comments below a picture: a paragraph with lines."""
    said = {
        "a: 3 of 4 layers apply; 1 not in this model's U-Net": "a：4 个层中有 3 个可应用；1 不在此模型的 U-Net 中",
        "mycat changes nothing: its weight is 0": "mycat 不改变任何内容：其权重为 0",
        "and 3 more from another extension": "and 3 more from another extension",
    }
    with fresh(browser, 60_000, locale="zh-CN") as (page, errors):
        page.goto(server.url)
        page.wait_for_selector("#lora-ext .lx-tabs")
        page.evaluate(
            """lines => {
                const place = document.createElement('p');
                place.className = 'comments';
                for (const line of lines) place.append(line, document.createElement('br'));
                document.body.append(place);
            }""",
            list(said),
        )
        shown = "() => [...document.querySelector('p.comments').childNodes].map(one => one.data).filter(Boolean)"
        until(page, f"lines => ({shown})().join() === lines.join()", list(said.values()))
    assert not errors

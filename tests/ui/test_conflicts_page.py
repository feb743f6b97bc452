"""Tools → Conflicts: the matrix by its pixels, and the tags of the split in the prompt."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from PIL import Image, ImageStat
from steps import choose, go

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]


def _mean_colour(control: Any) -> list[float]:
    return ImageStat.Stat(Image.open(io.BytesIO(control.screenshot())).convert("RGB")).mean


def test_conflicts_become_tags(page: Any) -> None:
    panel = go(page, "tools")
    panel.get_by_role("radio", name="Conflicts").click()
    choose(panel, "framed", 0)
    choose(panel, "framed", 1)
    compare = panel.get_by_role("button", name="Compare the files")
    compare.click()
    panel.get_by_text("framed is given more than once and is compared with itself").wait_for()
    same = panel.locator(".lx-matrix td.heat[data-block=IN04]")
    assert same.inner_text().split() == ["100", "%", "+1.00"]
    full = _mean_colour(same)

    choose(panel, "striped", 1)
    panel.locator("input[type=number][aria-label='Conflict from']").fill("0.03")
    compare.click()
    panel.get_by_text("framed and striped: ").wait_for()
    cell = panel.locator(".lx-matrix td.heat[data-block=IN04]")
    little = _mean_colour(cell)
    assert little[2] - full[2] > 60  # an amber cell has less blue than one that is nearly paper
    assert panel.locator(".lx-matrix td.absent").count() == 0  # only blocks that both change are shown
    tags = panel.locator(".lx-split-line code").all_inner_texts()
    assert len(tags) == 2 and all(re.fullmatch(r"<lora:(framed|striped):1:lbw=[01,]+>", tag) for tag in tags)
    panel.get_by_role("button", name=re.compile("Insert into")).first.click()
    page.get_by_text("Written into the prompt").wait_for()
    prompt = go(page, "generate").locator("textarea").first.input_value()
    assert all(tag in prompt for tag in tags)

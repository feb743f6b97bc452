"""Number fields: what is sent, and what is told beside the field when nothing can be sent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from program import Server
from steps import choose, go

from lora_ext.embedded import CHECKPOINT

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]

STARTS = re.compile(
    r"/lora-ext/v1/(generate|merge|resize|extract|split|convert|reweight|train|train/preflight|compare|compare/blocks)$"
)


@pytest.fixture
def sent(page: Any) -> list[tuple[str, Any]]:
    """(path, body) of every request that would start a job; none of them reaches the program."""
    found: list[tuple[str, Any]] = []

    def caught(route: Any) -> None:
        found.append((STARTS.search(route.request.url)[1], route.request.post_data_json))  # type: ignore[index]
        route.fulfill(status=400, json={"error": "caught by the test", "kind": "LoraError", "field": None})

    page.route(STARTS, caught)
    return found


def _number(panel: Any, label: str) -> Any:
    return panel.locator(f"input.lx-number[aria-label='{label}']:visible")


def _refused(panel: Any, box: Any, says: str, sent: list[Any]) -> None:
    """What is wrong is told beside the box, which has the cursor, and nothing was sent."""
    said = panel.page.locator(f"#{box.get_attribute('aria-describedby')}")
    said.wait_for()
    assert says in said.inner_text() and box.get_attribute("aria-invalid") == "true"
    gap = said.bounding_box()["y"] - (box.bounding_box()["y"] + box.bounding_box()["height"])
    assert 0 <= gap < 30
    assert box.evaluate("box => document.activeElement === box")
    panel.page.wait_for_timeout(300)
    assert sent == []


def _click(panel: Any, name: str) -> None:
    panel.get_by_role("button", name=name, exact=True).locator("visible=true").click()


def test_generate_sends_no_number_that_was_not_meant(page: Any, sent: list[Any]) -> None:
    panel = go(page, "generate")
    steps, seed = _number(panel, "Steps"), panel.get_by_label("Seed", exact=True)
    for value, says in (("1000000000", "a whole number from 1 to 150"), ("0", "1 to 150"), ("2.5", "a whole number")):
        steps.fill(value)
        _click(panel, "Draw")
        _refused(panel, steps, says, sent)
    steps.fill("3")
    for value in ("banana", "1e3x", "0.5", "-2", "4294967296"):
        seed.fill(value)
        _click(panel, "Draw")
        _refused(panel, seed, "is not a whole number from -1 to 4294967295", sent)
    seed.fill("")
    _number(panel, "Width").fill("100")
    _click(panel, "Draw")
    _refused(panel, _number(panel, "Width"), "a multiple of 8", sent)
    for label in ("Steps", "CFG scale", "Width", "Height", "Pictures"):
        _number(panel, label).fill("")
    usual = {
        label: _number(panel, label).get_attribute("placeholder")
        for label in ("Steps", "CFG scale", "Width", "Pictures")
    }
    assert usual == {"Steps": "20", "CFG scale": "2.5", "Width": "64", "Pictures": "1"}
    _click(panel, "Draw")
    panel.get_by_text("caught by the test").wait_for()
    body = sent[0][1]
    assert [body[name] for name in ("steps", "cfg", "width", "height", "batch", "seed")] == [20, 2.5, 0, 0, 1, -1]


def test_an_emptied_ratio_is_no_ratio_of_0(page: Any, sent: list[Any]) -> None:
    panel = go(page, "tools")
    for name in ("framed", "striped"):
        choose(panel, name, ("framed", "striped").index(name))
    ratio = _number(panel, "Ratio").first
    for value, says in (("", "This is empty; write a number from -100 to 100"), ("1000", "1000 is not a number from")):
        ratio.fill(value)
        _click(panel, "Merge")
        _refused(panel, ratio, says, sent)
    ratio.fill("0.25")
    _click(panel, "Merge")
    panel.get_by_text("caught by the test").wait_for()
    assert [part["ratio"] for part in sent[0][1]["parts"]] == [0.25, 1] and "new_rank" not in sent[0][1]


def test_tools_with_emptied_fields(page: Any, server: Server, sent: list[Any]) -> None:
    base = server.data / "checkpoints" / "base.safetensors"
    if not base.exists():
        base.write_bytes(Path(CHECKPOINT).read_bytes())
        page.reload()
    panel = go(page, "tools")
    panel.get_by_role("radio", name="Extract").click()
    rank, conv, least = (
        _number(panel, "Rank"),
        panel.get_by_label("Rank of 3×3 layers").locator("visible=true"),
        panel.get_by_label("Text encoder: least difference"),
    )
    rank.fill("")
    _click(panel, "Extract")
    _refused(panel, rank, "This is empty; write a whole number from 1 to 256", sent)
    rank.fill("8")
    conv.fill("0")
    _click(panel, "Extract")
    _refused(panel, conv, "0 is not a whole number from 1 to 1024", sent)
    conv.fill("")
    least.fill("none")
    _click(panel, "Extract")
    _refused(panel, least, "none is not a number", sent)
    least.fill("")
    _click(panel, "Extract")
    panel.get_by_text("caught by the test").locator("visible=true").wait_for()
    assert (sent[0][1]["dim"], sent[0][1]["conv_dim"], sent[0][1]["min_diff"]) == (8, None, 0.01)

    panel.get_by_role("radio", name="Resize").click()
    choose(panel, "framed")
    panel.get_by_text("size now").wait_for()
    _number(panel, "Rank").fill("")
    panel.get_by_text("size now").wait_for(state="detached")  # nothing is told of a rank that is not there
    sent.clear()
    _click(panel, "Resize")
    _refused(panel, _number(panel, "Rank"), "This is empty", sent)
    panel.get_by_role("radio", name="Write block weights").click()
    choose(panel, "framed")
    _number(panel, "U-Net").fill("")
    _click(panel, "Write")
    _refused(panel, _number(panel, "U-Net"), "This is empty", sent)


def test_train_form(page: Any, sent: list[Any]) -> None:
    panel = go(page, "train")

    def knob(name: str) -> Any:
        return panel.locator(f'.lx-option:has(label[title*="({name}"]) input').first

    for name, value, says in (
        ("max_train_steps", "1000000000", "is not a whole number from 1 to 10000000"),
        ("max_train_steps", "many", "many is not a whole number"),
        ("network_dim", "2.5", "2.5 is not a whole number from 1 to 1024"),
        ("learning_rate", "1e-4e", "1e-4e is not a number, 0 or more"),
    ):
        before = knob(name).input_value()
        knob(name).fill(value)
        for button in ("Train", "Check first"):
            _click(panel, button)
            _refused(panel, knob(name), says, sent)
        knob(name).fill(before)
    knob("max_train_steps").fill("")
    assert knob("max_train_steps").get_attribute("placeholder") == "1600"
    knob("learning_rate").fill("1e-5")
    knob("conv_dim").fill("")
    _click(panel, "Train")
    panel.get_by_text("caught by the test").wait_for()
    settings = sent[0][1]["settings"]
    assert settings["learning_rate"] == 1e-5 and not settings.keys() & {"max_train_steps", "conv_dim"}


def test_a_wrong_number_is_shown_from_where_one_is(page: Any, sent: list[Any]) -> None:
    """A knob of "all", and the form while the history is shown: it comes into sight."""
    panel = go(page, "train")
    panel.get_by_role("radio", name="all", exact=True).click()
    seed = panel.locator('.lx-option:has(label[title*="(max_grad_norm"]) input').first
    seed.fill("no")
    panel.get_by_role("radio", name="basic", exact=True).click()
    panel.get_by_role("radio", name="History").click()
    assert not seed.is_visible()
    _click(panel, "Train")
    _refused(panel, seed, "no is not a number, 0 or more", sent)
    panel = go(page, "blocks")
    panel.get_by_role("radio", name="off alone").click()
    panel.get_by_text("Settings", exact=True).click()
    _number(panel, "Steps").fill("1000000000")
    panel.get_by_text("Settings", exact=True).click()
    _click(panel, "Measure")
    _refused(panel, _number(panel, "Steps"), "1 to 150", sent)


def test_compare(page: Any, sent: list[Any]) -> None:
    panel = go(page, "compare")
    panel.get_by_text("Settings", exact=True).click()
    _number(panel, "Seed").fill("-1")
    _click(panel, "Draw sheet")
    _refused(panel, _number(panel, "Seed"), "-1 is not a whole number from 0 to 4294967295", sent)
    for label in ("Seed", "Steps", "CFG scale"):
        _number(panel, label).fill("")
    _click(panel, "Draw sheet")
    panel.get_by_text("caught by the test").wait_for()
    assert (sent[0][1]["seed"], sent[0][1]["steps"], sent[0][1]["cfg"]) == (7, 12, 2.5)

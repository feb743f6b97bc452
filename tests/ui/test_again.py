"""What was opened stays; what was made before is found again: a sheet's cells, a file's settings, a job's result."""

from __future__ import annotations

from typing import Any

import pytest
from program import Server
from steps import LONG, choose, draw_sheet, ended, go, until

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]

SETTINGS = {"train_data_dir": "circles", "resolution": "64", "network_dim": 2, "max_train_steps": 6}

HOLD = """() => {
    const real = window.fetch;
    window.held = {};
    window.fetch = (url, ...more) => {
        const name = ["presets", "inspect"].find((one) => String(url).includes(`/v1/${one}`) && !(one in held));
        return name ? new Promise((go) => (held[name] = () => go(real(url, ...more)))) : real(url, ...more);
    };
}"""
"""The first answer of each waits until it is let go."""


def _knob(panel: Any, name: str) -> Any:
    return panel.locator(f'.lx-option:has(label[title*="({name}"]) :is(input, select)').first


def _trained(server: Server, name: str) -> None:
    """A short run, over."""
    settings = {**SETTINGS, "output_name": name, "lr_scheduler": "cosine", "flip_aug": True}
    server.api("/train", "POST", {"settings": settings})
    server.idle(stop=False)
    assert "error" not in server.api("/train/history")["runs"][0]


@pytest.mark.long
def test_what_is_opened_while_a_sheet_fills_stays(page: Any, server: Server) -> None:
    panel = draw_sheet(page, "0-1.5(+0.25)", "1,2", 6)
    panel.locator(".lx-sheet img").first.click(timeout=LONG)
    tag = panel.locator(".lx-shown .lx-tag")
    opened = tag.inner_text()
    assert panel.locator(".lx-job").get_attribute("data-state") == "running"  # else this test tells nothing
    table = panel.locator(".lx-sheet").element_handle()
    ended(panel)
    panel.locator(".lx-sheet td.chosen").first.wait_for()  # something else is suggested
    assert tag.inner_text() == opened and panel.locator(".lx-sheet td.opened").count() == 1
    panel.locator(".lx-shown dt", has_text="difference").wait_for()  # with its scores now
    assert table.evaluate("table => table.isConnected")  # the very same: nothing moved
    panel.locator(".lx-sheet td.chosen button").first.click()
    assert tag.inner_text() != opened
    prompt, rows = panel.get_by_label("Prompt", exact=True), panel.locator(".lx-axis input").nth(1)
    asked = prompt.input_value()
    prompt.fill("another one")
    rows.fill("5")
    panel.get_by_text("Earlier sheets").click()
    panel.locator(".lx-jobs-past .lx-item").first.click()  # the form shows what that sheet was asked for
    until(page, "([box, text]) => box.value === text", [prompt.element_handle(), asked])
    assert rows.input_value() == "1,2"


@pytest.mark.long
def test_start_again_from_a_file(page: Any, server: Server) -> None:
    _trained(server, "begun")
    panel = go(page, "train")
    _knob(panel, "output_name").fill("next")
    _knob(panel, "network_dim").fill("5")
    choose(panel, "begun")
    page.get_by_text("Its settings are in the form.").wait_for()
    told = {name: _knob(panel, name).input_value() for name in (*SETTINGS, "output_name", "lr_scheduler")}
    expected = {**SETTINGS, "resolution": "64,64", "output_name": "next", "lr_scheduler": "cosine"}
    assert told == {name: str(value) for name, value in expected.items()}
    assert _knob(panel, "flip_aug").is_checked()
    panel.get_by_role("button", name="Train", exact=True).click()
    panel.locator(".lx-note.good", has_text="6 steps in").wait_for(timeout=LONG)
    assert "next" in {row["name"] for row in server.api("/library?search=next")["rows"]}


@pytest.mark.long
def test_a_file_shows_the_curve_of_its_run_and_an_ended_job_its_result(page: Any, server: Server) -> None:
    _trained(server, "curved")
    panel = go(page, "files")
    panel.get_by_label("Search", exact=True).fill("curved")
    panel.locator(".lx-file", has_text="curved").first.click()
    panel.locator(".lx-card", has_text="Training").locator(".lx-chart .line").first.wait_for(state="attached")
    panel.get_by_role("button", name="Resize").click()
    tool = page.locator("#lx-panel-tools")
    tool.locator(".lx-pick:visible", has_text="curved").wait_for()
    server.api("/resize", "POST", {"name": "curved", "new_rank": 1, "save_to": "curved-r1", "overwrite": True})
    server.idle(stop=False)
    page.locator(".lx-job-menu-face").click()
    page.locator(".lx-jobline[data-state=done]", has_text="curved-r1").locator(".lx-jobname").click()
    tool.locator(".lx-offers", has_text="curved-r1").get_by_role("button", name="Insert into prompt").click()
    page.get_by_text("Written into the prompt").wait_for()
    prompt = go(page, "generate").get_by_label("Prompt", exact=True)
    assert prompt.input_value().endswith("<lora:curved-r1:1>")


def test_what_is_asked_for_stays_whichever_answer_comes_last(page: Any, server: Server) -> None:
    """A panel that is opened for a file does not go back to the one that was chosen before."""
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-tag", has_text="framed").wait_for()
    go(page, "files").locator(".lx-file[data-name=striped]").click()
    page.reload()
    page.locator("#lx-tab-files[aria-selected=true]").wait_for()
    page.locator("#lx-panel-files .lx-file[data-name=striped]").click()
    page.locator("#lx-panel-files").get_by_role("button", name="Set block weights").wait_for()
    page.evaluate(HOLD)
    page.locator("#lx-panel-files").get_by_role("button", name="Set block weights").click()
    panel.locator(".lx-pick", has_text="striped").wait_for()
    with page.expect_response("**/lora-ext/v1/library*"):  # what was chosen before is looked for
        page.evaluate("held.presets()")
    page.evaluate("held.inspect()")
    panel.locator(".lx-tag", has_text="striped").wait_for()
    assert "striped" in panel.locator(".lx-pick").first.inner_text()


@pytest.mark.long
def test_a_check_leads_to_the_setting_and_a_run_that_ended_while_the_page_was_closed_is_shown(
    page: Any, server: Server
) -> None:
    panel = go(page, "train")
    warm = _knob(panel, "lr_warmup_steps")
    panel.get_by_role("radio", name="all", exact=True).click()
    warm.fill("5000")
    panel.get_by_role("radio", name="basic", exact=True).click()
    panel.get_by_role("button", name="Check first").click()
    panel.get_by_role("button", name="Go to lr warmup steps").click()
    assert warm.evaluate("box => box === document.activeElement")
    warm.fill("0")
    _knob(panel, "max_train_steps").fill("3")
    panel.get_by_role("button", name="Check first").click()
    panel.get_by_role("button", name="Show the pictures").click()
    panel.locator(".lx-picture").first.wait_for()
    panel.get_by_role("button", name="Train", exact=True).click()
    panel.locator(".lx-job:is([data-state=running], [data-state=waiting])").first.wait_for()
    page.goto("about:blank")
    server.idle(stop=False)
    page.goto(server.url)
    go(page, "train").locator(".lx-note.good", has_text="3 steps in").wait_for()

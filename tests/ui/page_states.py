"""The states of the page that are looked at for accessibility: every panel, its sides, dialogs and open lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps import LONG, go

PANELS = ("start", "generate", "weights", "regions", "train", "compare", "blocks", "tools", "files", "sets")
FIRST_SIDES = {"tools": "tools, merge"}
"""Panel → the name of what it shows first, where that is not the panel's own."""
SIDES = {
    "train": {"data": "pictures", "history": "history"},
    "tools": {
        "resize": "resize",
        "extract": "extract",
        "split": "split",
        "convert": "convert",
        "conflicts": "conflicts",
        "reweight": "write block weights",
    },
}
"""Panel → value of each side but the first → what it shows."""
FORMS = ("tag", "move", "picture", "resize", "convert", "metadata", "delete")
"""What the forms for selected files do, in their order."""
_OPEN_ALL = "panel => panel.querySelectorAll('details').forEach(one => (one.open = true))"
_NO_TOASTS = "document.querySelectorAll('#lora-ext .lx-toast').forEach(one => one.remove())"


def page_states(page: Any) -> Iterator[str]:
    """Brings the page into one state after the other.

    Args:
        page: The tab, in any language.

    Yields:
        The state's name, when it is shown.
    """
    for name in PANELS:
        panel = go(page, name)
        panel.locator(".lx-card").first.wait_for()
        page.wait_for_timeout(250)
        panel.evaluate(_OPEN_ALL)
        page.wait_for_timeout(100)
        yield FIRST_SIDES.get(name, name)
        yield from _sides(page, panel, name)
        if name in _MORE:
            yield from _MORE[name](page, panel)


def _sides(page: Any, panel: Any, name: str) -> Iterator[str]:
    """The other sides of a panel that has some, such as the tools."""
    if name not in SIDES:
        return
    sides = panel.locator("[role=radiogroup]").first.get_by_role("radio")
    assert sides.count() == 1 + len(SIDES[name]), "name each side in SIDES"
    for side, shown in SIDES[name].items():
        panel.locator(f"[role=radio][data-value={side}]").first.click()
        page.wait_for_timeout(250)
        panel.evaluate(_OPEN_ALL)
        page.wait_for_timeout(100)
        yield f"{name}, {shown}"


def _incomplete(page: Any, panel: Any) -> Iterator[str]:
    panel.locator(".lx-button.main").first.click()
    panel.locator(".lx-wrong:visible").first.wait_for()
    yield "start, incomplete"


def _wrong_text_and_picker(page: Any, panel: Any) -> Iterator[str]:
    panel.locator("textarea.lx-text").fill("1,2,x")
    panel.locator(".lx-note.bad[role=alert]:visible").first.wait_for()
    panel.locator(".lx-tag.bad:not(.busy)").wait_for()
    yield "weights that cannot be read"
    panel.locator("textarea.lx-text").fill("ALL")
    panel.locator(".lx-tag", has_text="lbw=ALL").wait_for()
    panel.locator(".lx-pick:visible").first.click()
    panel.locator(".lx-item").first.wait_for()
    yield "an open picker"
    page.keyboard.press("Escape")


def _files(page: Any, panel: Any) -> Iterator[str]:
    panel.locator(".lx-file").first.click()
    panel.locator(".lx-edit").first.wait_for()
    panel.evaluate(_OPEN_ALL)
    yield "a file"
    panel.locator(".lx-file").first.click(modifiers=["Control"])
    forms = panel.locator(".lx-selection [aria-expanded]")
    for form, opens in zip(FORMS, forms.all(), strict=True):
        opens.click()
        page.wait_for_timeout(100)
        yield f"selected files, {form}"
    page.keyboard.press("Escape")


def _jobs(page: Any, panel: Any) -> Iterator[str]:
    page.locator(".lx-job-menu-face").click()
    page.wait_for_timeout(200)
    yield "the list of jobs"
    page.keyboard.press("Escape")


def _all_settings(page: Any, panel: Any) -> Iterator[str]:
    panel.locator("[role=radiogroup]").first.get_by_role("radio").first.click()
    panel.locator("[role=radio][data-value=all]").first.click()
    page.wait_for_timeout(100)
    yield "all settings"


def _measured(page: Any, panel: Any) -> Iterator[str]:
    panel.locator(".lx-button.main:visible").first.click()
    panel.locator(".lx-job[data-state=done]").wait_for(timeout=LONG)
    panel.evaluate(_OPEN_ALL)
    yield "blocks, measured"


def _messages_and_report(page: Any, panel: Any) -> Iterator[str]:
    """A message that the troubleshooting page explains, its dialog, and what a tool did."""
    panel.locator("textarea.lx-text").fill("<lora:one:two>")
    panel.locator("input[maxlength='64']").fill("mycat")
    panel.locator(".lx-button.main").first.click()
    page.locator(".lx-toast.bad button").wait_for()
    yield "a message"
    page.evaluate(_NO_TOASTS)  # they go at some moment
    panel.locator(".lx-button.main").first.click()
    page.locator(".lx-toast.bad button").last.click()
    page.locator(".lx-dialog[open]").wait_for()
    yield "what to do"
    page.keyboard.press("Escape")
    page.evaluate(_NO_TOASTS)
    tools = go(page, "tools")
    tools.locator("[role=radio][data-value=resize]").click()
    tool = tools.locator(".lx-tool:visible")
    tool.locator(".lx-pick").click()
    tool.locator(".lx-item").first.click()
    tool.locator(".lx-chart").wait_for()
    tool.locator("input[type=text]:visible").last.fill("mycat")
    tool.locator("input[type=checkbox]").last.check()
    tool.locator(".lx-button.main").click()
    tool.locator(".lx-job[data-state=done]").wait_for(timeout=LONG)
    tools.evaluate(_OPEN_ALL)
    yield "a resized file"


_MORE = {
    "start": _incomplete,
    "blocks": _measured,
    "sets": _messages_and_report,
    "generate": _jobs,
    "weights": _wrong_text_and_picker,
    "files": _files,
    "train": _all_settings,
}

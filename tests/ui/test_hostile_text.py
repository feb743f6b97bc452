"""Names, metadata, captions, presets and reports that look like markup, in every panel: they are shown as text."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.error
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from page_states import page_states
from program import Server, dataset
from steps import choose, ended, go, small

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]
EVIL = "<img src=x onerror=window.hacked=1>"
PANELS = ("start", "generate", "weights", "regions", "train", "compare", "blocks", "tools", "files", "sets")


def check(page: Any, where: str) -> None:
    """Nothing ran, no element was made of text, and the page is no wider than the window."""
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None, where
    assert page.locator("img[src='x'], #lora-ext script").count() == 0, where
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, where


@pytest.fixture
def hostile(server: Server) -> Iterator[str]:
    """The name of a file; there are pictures, captions and a preset too. Other tests of this program see none of it."""
    lora = server.data / "loras" / f"hostile {EVIL}.safetensors"
    named = dict.fromkeys(
        ["ss_output_name", "modelspec.title", "ss_training_comment", "modelspec.trigger_phrase", EVIL]
    )
    small(lora, 2, **dict.fromkeys(named, EVIL * 20), ss_tag_frequency=f'{{"{EVIL}": {{"{EVIL}": 3}}}}')
    pictures, presets = server.data / "datasets" / "hostile", server.data / "presets.txt"
    dataset(pictures / f"1_{EVIL}", 2)
    for caption in pictures.rglob("*.txt"):
        caption.write_text(f"{EVIL}, a cat", encoding="utf-8")
    before = presets.read_text(encoding="utf-8") if presets.exists() else ""
    presets.write_text(f"{before}{EVIL}:{','.join(['1'] * 17)}\n", encoding="utf-8")
    beside = dict.fromkeys(("description", "notes", "activation text", "sd version", EVIL), EVIL * 20)
    lora.with_suffix(".json").write_text(json.dumps(beside), encoding="utf-8")
    server.api("/sets", "PUT", {"name": EVIL, "text": "<lora:no&lt;b&gt;:1>", "words": EVIL, "negative": EVIL})
    server.api("/train/presets", "PUT", {"name": EVIL, "settings": {"output_name": "hostile", "sample_prompts": EVIL}})
    yield lora.stem
    for path in ("sets", "train/presets"):
        server.api(f"/{path}?{urllib.parse.urlencode({'name': EVIL})}", "DELETE")
    presets.write_text(before, encoding="utf-8")
    shutil.rmtree(pictures)
    for path in lora.parent.glob("hostile*"):
        path.unlink()


def test_markup_stays_text_everywhere(page: Any, server: Server, hostile: str) -> None:
    page.reload()
    page.wait_for_selector("#lora-ext .lx-tabs")
    for panel in PANELS:
        go(page, panel)
        check(page, panel)
    panel = go(page, "files")
    found = panel.locator(".lx-file", has_text="hostile")
    for _ in range(40):  # the folders are looked at again every few seconds, when somebody searches
        panel.get_by_label("Search", exact=True).fill("")
        page.wait_for_timeout(500)
        panel.get_by_label("Search", exact=True).fill("hostile")
        page.wait_for_timeout(1000)
        if found.count():
            break
    found.click()
    panel.get_by_text(EVIL).first.wait_for()
    check(page, "a file's details")
    for name in ("weights", "blocks", "compare"):
        choose(go(page, name), hostile)
        check(page, f"{name} with the file")
    panel = go(page, "train")
    panel.get_by_role("radio", name="Pictures").click()
    panel.get_by_label("Folder", exact=True).select_option("hostile")
    panel.locator(".lx-picture").nth(1).wait_for()
    check(page, "captions")
    panel.locator(".lx-picture img").first.click()
    page.locator("dialog[open]").wait_for()
    check(page, "a picture")
    page.keyboard.press("Escape")
    go(page, "sets").get_by_text(EVIL).first.wait_for()
    check(page, "sets")
    panel = go(page, "tools")
    panel.get_by_role("radio", name="Resize").click()
    choose(panel, hostile)
    panel.locator(".lx-tool:visible").get_by_label("Save as").fill("hostile-small")
    panel.locator(".lx-tool:visible").get_by_role("button", name="Resize", exact=True).click()
    ended(panel).locator(".lx-report").wait_for()
    check(page, "a report")
    # a picture, a sheet and the list of jobs, with such text in prompts, labels and the jobs' own lines
    one = {"prompt": f"a circle {EVIL}", "steps": 1, "width": 64, "height": 64}
    server.api("/generate", "POST", one)
    folder = server.api("/compare", "POST", {**one, "lora": "framed", "x": f"sr:circle,{EVIL}", "seed": 1})
    server.idle(stop=False)
    assert server.api(f"/jobs/{folder['id']}")["state"] == "done"
    page.reload()
    panel = go(page, "compare")
    panel.get_by_text("Earlier sheets").click()
    panel.locator(".lx-jobs-past .lx-item").first.click()
    panel.locator(".lx-sheet img").first.click()
    check(page, "a sheet")
    page.locator(".lx-job-menu-face").click()
    page.locator(".lx-jobs", has_text="<img src=x").first.wait_for()
    check(page, "the list of jobs")


@pytest.mark.long
def test_markup_stays_text_in_pickers_dialogs_and_results(page: Any, server: Server, hostile: str) -> None:
    """Generate's picker and slider, duplicates, the picture editor, conflicts, regions, and a run's own lines."""
    copy = server.data / "loras" / f"hostile copy {EVIL}.safetensors"
    shutil.copy(copy.with_name(f"{hostile}.safetensors"), copy)
    server.api("/library?search=hostile")
    page.reload()
    page.wait_for_selector("#lora-ext .lx-tabs")
    for state in page_states(page):
        check(page, state)
    panel = go(page, "generate")
    choose(panel, hostile)
    panel.get_by_role("button", name="Insert into prompt").click()
    for prompt in (EVIL, f"a circle {EVIL}"):
        panel.get_by_label("Prompt", exact=True).fill(prompt)
        panel.get_by_label("Steps").last.fill("1")
        panel.get_by_role("button", name="Draw", exact=True).click()
        ended(panel)
    panel.locator(".lx-wipe").wait_for()
    check(page, "Generate's last pictures")
    panel = go(page, "files")
    panel.get_by_role("button", name="Find duplicates").click()
    panel.locator(".lx-duplicate", has_text="hostile").first.wait_for()
    check(page, "duplicates")
    panel = go(page, "regions")
    panel.get_by_role("button", name="Add a LoRA").click()
    choose(panel, hostile)
    panel.get_by_label("Prompt of the whole picture").fill(EVIL)
    check(page, "regions")
    panel = go(page, "tools")
    panel.get_by_role("radio", name="Conflicts").click()
    choose(panel, hostile, 0)
    choose(panel, copy.stem, 1)
    panel.get_by_role("button", name="Compare the files").click()
    ended(panel).locator(".lx-matrix").first.wait_for()
    check(page, "conflicts")
    panel = go(page, "train")
    panel.get_by_role("radio", name="Pictures").click()
    panel.get_by_label("Folder", exact=True).select_option("hostile")
    panel.get_by_role("button", name=f"Crop or mask 1_{EVIL}").first.press("Enter")
    page.locator("dialog[open] .lx-crop").wait_for()
    check(page, "the picture editor")
    page.keyboard.press("Escape")
    # a run that fails by such a name, and one whose sample prompts and report have it
    settings = {"train_data_dir": "hostile", "output_name": "hostile", "network_weights": f"{EVIL}.safetensors"}
    with contextlib.suppress(urllib.error.HTTPError):
        server.api("/train", "POST", {"settings": settings, "prompts": EVIL})
    server.api("/train/preflight", "POST", {"settings": {"train_data_dir": "hostile"}})
    server.idle(stop=False)
    page.reload()
    page.locator(".lx-job-menu-face").click()
    page.locator(".lx-jobs", has_text="<img src=x").first.wait_for()
    check(page, "jobs of training")

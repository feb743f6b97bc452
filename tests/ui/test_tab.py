"""Every panel, driven as a person would, on the small built-in model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from program import Server, dataset
from steps import LONG, choose, draw_sheet, ended, go, small, until

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.embedded import CHECKPOINT
from lora_ext.file.loading import load_lora_file
from lora_ext.tools.merge_into_checkpoint import merge_into_checkpoint

# A browser on a busy machine now and then misses a beat; what fails three times is broken.
pytestmark = pytest.mark.flaky(reruns=2)

PANELS = ("start", "generate", "weights", "train", "compare", "blocks", "tools", "files", "sets")


@pytest.mark.one_page
def test_a_curve_and_its_picture(page: Any) -> None:
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    panel.get_by_label("Curve over the steps").fill("0@0, 1@0.3 cosine, 0.2@1")
    panel.get_by_label("In the hires pass").fill("0.5")
    tag = panel.locator(".lx-tag", has_text="hr=0.5")
    tag.wait_for()
    assert tag.inner_text() == "<lora:framed:1:0@0,1@0.3 cosine,0.2@1:hr=0.5>"
    line = panel.get_by_role("img", name="U-Net strength over the steps").locator("path.line")
    assert len(re.findall("L", line.get_attribute("d"))) >= 50
    panel.get_by_label("Curve over the steps").fill("0@0, 1@x")
    panel.locator(".lx-tag.bad", has_text="'x' in '0@0, 1@x' is not a number").wait_for()
    panel.locator(".lx-text").fill("<lora:framed:0.5:0@0,1@1:hrte=0.2:hrunet=1>")
    panel.locator(".lx-tag", has_text="<lora:framed:0.5:0@0,1@1:hrte=0.2:hrunet=1>").wait_for()
    assert panel.get_by_label("In the hires pass").input_value() == "0.2:1"


@pytest.mark.one_page
def test_addresses_lead_to_panels_and_files(page: Any, server: Server) -> None:
    panel = go(page, "weights")
    choose(panel, "striped")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    assert page.url.endswith("#lora/weights/striped")
    go(page, "files").locator(".lx-file", has_text="framed").click()
    page.locator(".lx-detail h3", has_text="framed").wait_for()
    assert page.url.endswith("#lora/files/framed")
    page.go_back()
    until(page, "() => !document.querySelector('#lx-panel-weights').hidden")
    page.go_forward()
    until(page, "() => !document.querySelector('#lx-panel-files').hidden")
    page.goto("about:blank")
    page.goto(f"{server.url}/#lora/blocks/framed")
    page.locator("#lx-panel-blocks .lx-pick b", has_text="framed").wait_for()
    page.goto("about:blank")
    page.goto(f"{server.url}/#lora/tools/constructor")  # what is no tool leads to the tools
    page.locator("#lx-panel-tools").wait_for()


@pytest.mark.one_page
def test_changes_of_weights_are_undone_and_redone(page: Any) -> None:
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    text = panel.locator(".lx-text")
    all_on = text.input_value()
    panel.get_by_title("Set to 0: the output blocks").click()
    page.wait_for_timeout(600)  # changes within half a second are one
    output_off = text.input_value()
    slider = panel.locator(".lx-slide").nth(3)
    slider.press("0")
    slider.press("Control+z")
    assert text.input_value() == output_off
    slider.press("Control+z")
    assert text.input_value() == all_on
    panel.get_by_role("button", name="Redo").click()
    assert text.input_value() == output_off
    strength = panel.locator("input.lx-number[aria-label=U-Net]")
    strength.fill("0.5")
    panel.locator(".lx-tag", has_text=":1:0.5:lbw=").wait_for()
    slider.press("Control+z")
    assert strength.input_value() == "1"


@pytest.mark.one_page
def test_enter_chooses_the_file_of_the_name_typed(page: Any, server: Server) -> None:
    (server.data / "loras" / "zz").mkdir()
    for name in ("zz/striped", "striped-new", "my-striped"):  # newer than striped
        small(server.data / "loras" / f"{name}.safetensors")
    panel = go(page, "weights")
    picker = panel.locator(".lx-picker:visible").first
    picker.locator(".lx-pick").click()
    picker.locator(".lx-item", has_text="my-striped").wait_for()
    picker.get_by_role("combobox").fill("striped")
    page.keyboard.press("Enter")  # at once, before the answer
    picker.get_by_role("status").get_by_text("Chosen: striped", exact=True).wait_for()
    assert picker.locator(".lx-pick b").inner_text() == "striped"
    assert picker.locator(".lx-pick small").inner_text().startswith("SD1")
    picker.locator(".lx-pick").click()
    picker.locator(".lx-item", has_text="zz/").wait_for()  # files of one name are told apart
    page.keyboard.press("ArrowDown")
    marked = picker.get_by_role("combobox").get_attribute("aria-activedescendant")
    assert picker.locator(f"#{marked}").get_attribute("aria-selected") == "true"


@pytest.mark.one_page
def test_escape_closes_what_is_open(page: Any) -> None:
    panel = go(page, "weights")
    jobs, picker = page.locator(".lx-jobs"), panel.locator(".lx-picker:visible").first
    page.locator(".lx-job-menu-face").click()
    jobs.wait_for()
    picker.locator(".lx-pick").focus()
    page.keyboard.press("Enter")
    picker.locator(".lx-item").first.wait_for()
    page.keyboard.press("Escape")
    picker.locator(".lx-pop").wait_for(state="hidden")
    until(page, "() => document.activeElement.matches('.lx-pick')")
    assert jobs.is_visible()
    page.keyboard.press("Escape")
    jobs.wait_for(state="hidden")
    until(page, "() => document.activeElement.matches('.lx-job-menu-face')")
    assert page.locator(".lx-job-menu-face").get_attribute("aria-expanded") == "false"
    files = go(page, "files")
    files.locator(".lx-file").first.click(modifiers=["Control"])
    tag = files.get_by_role("button", name="Tag…")
    tag.click()
    until(page, "() => document.activeElement.matches('.lx-selection input')")
    page.keyboard.press("Escape")
    assert tag.get_attribute("aria-expanded") == "false" and files.locator(".lx-selection input").count() == 0
    assert tag.evaluate("button => button === document.activeElement")
    page.locator("#lx-tab-files").focus()
    page.keyboard.press("Escape")
    files.locator(".lx-selection").wait_for(state="hidden")


@pytest.mark.one_page
def test_what_gets_the_focus_is_not_below_the_bar_of_panels(page: Any) -> None:
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    face, bar = panel.locator(".lx-pick"), page.locator(".lx-top").bounding_box()
    face.evaluate("face => (face.blur(), scrollTo(0, scrollY + face.getBoundingClientRect().top))")
    assert face.bounding_box()["y"] < bar["height"]
    face.focus()
    assert face.bounding_box()["y"] >= bar["y"] + bar["height"]


def test_sliders_to_text_to_prompt_to_picture(page: Any, server: Server) -> None:
    panel = go(page, "generate")
    panel.get_by_label("Steps").first.fill("3")
    panel.get_by_role("button", name="Draw").click()
    before = page.request.get(_picture(ended(panel))).body()

    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    slider = panel.get_by_role("slider", name=re.compile("^OUT05"))
    slider.press("0")
    text = panel.locator(".lx-text")
    assert text.input_value().split(",").count("0") == 1
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert slider.get_attribute("aria-valuenow") == "0.5"
    panel.locator(".lx-handle", has_text="IN").get_by_role("button", name="0", exact=True).first.click()
    assert panel.get_by_role("slider", name=re.compile("^IN04")).get_attribute("aria-valuenow") == "0"

    text.fill("1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,0.25")
    until(page, "document.querySelector('[aria-label^=OUT11]').getAttribute('aria-valuenow') === '0.25'")
    text.fill("nonsense")
    panel.get_by_text("No preset is called").wait_for()
    text.fill("OUTALL")
    panel.locator(".lx-tag", has_text="lbw=OUTALL").wait_for()
    panel.get_by_role("button", name="Insert into prompt").click()

    panel = go(page, "generate")
    prompt = panel.get_by_label("Prompt", exact=True)
    until(page, "document.querySelector('#lx-panel-generate textarea').value.includes('<lora:')")
    assert prompt.input_value().endswith("<lora:framed:1:lbw=OUTALL>")
    panel.get_by_role("button", name="Draw").click()
    page.wait_for_timeout(700)
    assert page.request.get(_picture(ended(panel))).body() != before


def _picture(job: Any) -> str:
    job.locator(".lx-pictures img").first.wait_for()
    return str(job.locator(".lx-pictures img").first.evaluate("image => image.src"))


@pytest.mark.one_page
def test_the_layout_shown_is_that_of_the_file(page: Any) -> None:
    panel = go(page, "weights")
    for name, layout, count in (
        ("striped", "all blocks", 26),
        ("framed", "attention blocks", 17),
        ("striped", "all blocks", 26),
    ):
        choose(panel, name)
        panel.locator(".lx-tag:not(.busy)", has_text=f"<lora:{name}:1>").wait_for()
        assert panel.get_by_role("radio", name=layout).get_attribute("aria-checked") == "true"
        assert panel.locator(".lx-column").count() == count
    panel.get_by_role("radio", name="attention blocks").click()
    assert panel.locator(".lx-column").count() == 17


@pytest.mark.one_page
def test_presets(page: Any, server: Server) -> None:
    panel = go(page, "weights")
    panel.locator(".lx-about dd").first.wait_for()
    panel.locator(".lx-text").fill(",".join(["0.5"] * 17))
    until(page, "document.querySelector('[aria-label^=OUT11]').getAttribute('aria-valuenow') === '0.5'")
    panel.get_by_label("Name of a new preset").fill("HALF")
    panel.get_by_role("button", name="Save").click()
    page.get_by_text("Saved as HALF").wait_for()
    assert (server.data / "presets.txt").read_text() == f"HALF:{','.join(['0.5'] * 17)}\n"
    panel.get_by_role("button", name="Delete").click()
    until(page, "!document.querySelector('option[value=HALF]')")
    assert (server.data / "presets.txt").read_text() == ""
    page.get_by_role("button", name="Undo", exact=True).press("Enter")
    until(page, "document.querySelector('option[value=HALF]')")
    assert (server.data / "presets.txt").read_text().startswith("HALF:0.5,")


@pytest.mark.long
@pytest.mark.one_page
def test_tools(page: Any, server: Server) -> None:
    loras, checkpoints = server.data / "loras", server.data / "checkpoints"
    small(loras / "sweep.safetensors", 8, ss_network_module="networks.dylora", ss_network_args='{"unit": "4"}')
    if not (checkpoints / "tuned.safetensors").exists():
        (checkpoints / "base.safetensors").write_bytes(Path(CHECKPOINT).read_bytes())
        framed = load_lora_file(Path(CHECKPOINT).parent / "loras" / "framed.safetensors")
        merge_into_checkpoint(
            checkpoints / "base.safetensors", [AdapterSpec(framed)], checkpoints / "tuned.safetensors"
        )
    page.reload()
    page.wait_for_selector("#lora-ext .lx-tabs")
    panel = go(page, "tools")
    for name in ("framed", "striped"):
        choose(panel, name, ("framed", "striped").index(name))
    _run(panel, "Merge", "sum")

    panel.get_by_role("radio", name="Resize").click()
    choose(panel, "framed")
    panel.get_by_text("size now").wait_for()
    marker = panel.locator(".lx-chart:visible .marker").element_handle()
    before = marker.get_attribute("x1")
    panel.locator("input[type=number][aria-label=Rank]:visible").fill("2")
    moved = "([marker, before]) => Number(marker.getAttribute('x1')) < Number(before)"
    until(page, moved, arg=[marker, before])
    _run(panel, "Resize", "framed-small")

    panel.get_by_role("radio", name="Split").click()
    choose(panel, "sweep")
    _run(panel, "Split", "sweep-of")
    panel.get_by_role("radio", name="Convert").click()
    choose(panel, "framed")
    _run(panel, "Convert", "framed-peft")
    panel.get_by_role("radio", name="Extract").click()
    panel.get_by_label("Tuned").select_option("tuned.safetensors")
    panel.get_by_label("Original").select_option("base.safetensors")
    _run(panel, "Extract", "difference")
    made = {path.stem for path in loras.glob("*.safetensors")}
    assert {"sum", "framed-small", "sweep-of-0004", "sweep-of-0008", "framed-peft", "difference"} <= made


def _run(panel: Any, verb: str, name: str) -> None:
    panel.locator(".lx-tool:visible").get_by_label("Save as").fill(name)
    panel.locator(".lx-tool:visible").get_by_role("button", name=verb, exact=True).click()
    job = ended(panel)
    job.locator(".lx-report").wait_for()
    job.get_by_text("Layer by layer").click()
    assert job.locator("tbody tr").count() > 0


@pytest.mark.one_page
def test_files_as_text_and_edited(page: Any, server: Server) -> None:
    evil = "<img src=x onerror=window.hacked=1>"
    small(server.data / "loras" / "marked.safetensors", 2, ss_training_comment=evil, ss_output_name=evil)
    panel = go(page, "files")
    found = panel.locator(".lx-file", has_text="marked")
    for _ in range(40):  # the folders are looked at again every few seconds, when somebody searches
        panel.get_by_label("Search", exact=True).fill("")
        page.wait_for_timeout(500)
        panel.get_by_label("Search", exact=True).fill("marked")
        page.wait_for_timeout(1000)
        if found.count():
            break
    found.click()
    panel.get_by_text(evil).first.wait_for()
    panel.get_by_label("modelspec.title").fill("A title")
    panel.locator(".lx-card", has_text="Only the text").get_by_role("button", name="Save").click()
    page.get_by_text("Saved", exact=True).wait_for()
    assert load_lora_file(server.data / "loras" / "marked.safetensors").metadata["modelspec.title"] == "A title"
    go(page, "weights")
    choose(page.locator("#lx-panel-weights"), "marked")
    page.locator("#lx-panel-weights .lx-about", has_text="unknown").wait_for()
    assert page.evaluate("window.hacked") is None


def _set(panel: Any, option: str, value: str) -> None:
    panel.locator(f'.lx-option:has(label[title*="({option}"]) input').first.fill(value)


@pytest.mark.long
@pytest.mark.one_page
def test_train_stop_and_go_on(page: Any, server: Server) -> None:
    panel = go(page, "train")
    panel.get_by_role("button", name="Check first").click()
    ended(panel).get_by_text("4 pictures have no caption").or_(
        panel.get_by_text("2 pictures have no caption")
    ).wait_for()
    for option, value in (("max_train_steps", "30"), ("output_name", "tried"), ("sample_every_n_epochs", "1")):
        _set(panel, option, value)
    panel.get_by_label("Sample prompts").fill("a red circle --s 2 --d 1")
    panel.get_by_role("button", name="Train", exact=True).click()
    job = panel.locator(".lx-stick .lx-job").nth(1)
    job.locator(".lx-chart").first.wait_for(timeout=LONG)
    page.reload()  # the run goes on without a page, and is shown again
    page.wait_for_selector("#lora-ext .lx-tabs")
    panel = go(page, "train")
    job = panel.locator(".lx-stick .lx-job").nth(1)
    job.get_by_role("button", name="Set block weights").first.wait_for(timeout=LONG)
    assert job.locator(".lx-samples img").count() > 0 and job.locator(".lx-chart .line").count() > 0
    assert (server.data / "loras" / "tried.safetensors").exists()
    job.get_by_role("button", name="Compare epochs × weights").click()
    page.locator("#lx-panel-compare .lx-sheet img").first.wait_for(timeout=LONG)  # while it is drawn, or when it is
    panel = go(page, "train")

    _set(panel, "max_train_steps", "400")
    _set(panel, "output_name", "stopped")
    panel.get_by_role("button", name="Train", exact=True).click()
    job.get_by_text(re.compile(r"running [1-9]\d* / 400")).wait_for(timeout=LONG)
    job.get_by_role("button", name="Stop and save").click()
    job.locator(".lx-note.good", has_text="Stopped and saved after").wait_for(timeout=LONG)
    runs = server.api("/train/history")["runs"]
    assert runs[0]["stopped"] and runs[0]["state"] and 0 < runs[0]["steps"] < 400
    page.evaluate("localStorage.clear()")
    panel.get_by_role("radio", name="History").click()
    run = panel.locator(".lx-run", has_text="stopped-").first
    run.locator("summary").first.click()
    run.get_by_role("button", name="Use these settings").click()
    panel.get_by_role("radio", name="Settings").click()
    _set(panel, "max_train_steps", str(runs[0]["steps"] + 2))
    panel.get_by_role("radio", name="all", exact=True).click()
    panel.locator('.lx-option:has(label[title*="(resume"]) input').fill(runs[0]["state"])
    panel.get_by_role("button", name="Train", exact=True).click()
    job.locator(".lx-note.good", has_text=f"{runs[0]['steps'] + 2} steps in").wait_for(timeout=LONG)


@pytest.mark.one_page
def test_dataset_browser(page: Any, server: Server) -> None:
    folder = server.data / "datasets" / "edited" / "1_thing"
    if not folder.exists():
        dataset(folder, 4)
    panel = go(page, "train")
    panel.get_by_role("radio", name="Pictures").click()
    panel.get_by_label("Folder", exact=True).select_option("edited")
    panel.locator(".lx-picture").nth(3).wait_for()
    first = panel.locator(".lx-picture textarea").first
    assert first.input_value() == ""  # those without a caption come first
    first.fill("a new caption")
    first.blur()
    panel.locator(".lx-picture small", has_text="saved").first.wait_for()
    assert (folder / "p0.txt").read_text() == "a new caption\n"
    panel.get_by_text("Find and replace").click()
    panel.get_by_label("Find", exact=True).fill("plain")
    panel.get_by_role("button", name="Count").click()
    panel.get_by_text("2 captions would change").wait_for()


@pytest.mark.one_page
def test_compare(page: Any, server: Server) -> None:
    panel = draw_sheet(page, "0,1", "1", 2)
    ended(panel)
    panel.get_by_text("sheet.png").first.wait_for()
    panel.locator(".lx-sheet img").nth(1).click()
    panel.locator(".lx-shown .lx-tag", has_text="<lora:framed:1>").wait_for()
    panel.get_by_label("Zoom").last.fill("300")
    assert panel.locator(".lx-sheet img").first.bounding_box()["width"] == 300
    panel.get_by_role("button", name="Insert into prompt").click()
    page.get_by_text("with the seed: ").wait_for()
    made = go(page, "generate")
    assert "<lora:framed:1>" in made.get_by_label("Prompt", exact=True).input_value()
    assert made.get_by_label("Seed", exact=True).input_value() == "1"


@pytest.mark.parametrize(("width", "theme"), [(1280, "dark"), (400, "light")])
def test_nothing_overflows(page: Any, server: Server, width: int, theme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{server.url}/?__theme={theme}")
    page.wait_for_selector("#lora-ext .lx-tabs")
    for name in PANELS:
        panel = go(page, name)
        panel.locator(".lx-card").first.wait_for()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
        wide = panel.evaluate(
            "panel => [...panel.querySelectorAll('.lx-card')].filter(one => one.scrollWidth > one.clientWidth + 1)"
            ".map(one => one.textContent.slice(0, 60))"
        )
        assert not wide, (name, wide)


@pytest.mark.one_gradio
def test_keyboard_alone(page: Any) -> None:
    page.locator("#lx-tab-generate").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#lx-tab-weights").get_attribute("aria-selected") == "true"
    page.locator("#lx-panel-weights .lx-pick").focus()
    page.keyboard.press("Enter")
    page.locator("#lx-panel-weights .lx-item").first.wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator("#lx-panel-weights .lx-about dd").first.wait_for()


BARE = """panel => [...panel.querySelectorAll('input, select, textarea, button, summary, a[href], [role=slider]')]
    .filter(one => one.type !== 'file' && one.offsetParent !== null)
    .filter(one => {
        const labels = [...(one.labels || [])];
        const tip = one.closest('[title]') || labels.some(label => label.closest('[title]'));
        const named = one.getAttribute('aria-label') || labels.length || one.textContent.trim() || one.title;
        return !tip || !named;
    }).map(one => one.outerHTML.slice(0, 120))"""


@pytest.mark.one_page
def test_every_control_has_a_name_and_a_tooltip(page: Any) -> None:
    for name in PANELS:
        panel = go(page, name)
        panel.locator(".lx-card").first.wait_for()
        sides = panel.locator("[role=radiogroup]").first.get_by_role("radio") if name in ("train", "tools") else None
        for side in range(sides.count() if sides else 1):
            if sides:
                sides.nth(side).click()
            if name == "files":
                panel.locator(".lx-file").first.click()
                panel.locator(".lx-edit").first.wait_for()
            page.wait_for_timeout(600)
            panel.evaluate("panel => panel.querySelectorAll('details').forEach(one => (one.open = true))")
            page.wait_for_timeout(200)
            bare = panel.evaluate(BARE)
            assert not bare, (name, side, bare)


@pytest.mark.one_gradio
def test_other_languages(server: Server, browser: Any) -> None:
    for locale, word in (("zh-CN", "训练"), ("zh-TW", "訓練"), ("ja-JP", "学習")):
        context = browser.new_context(locale=locale)
        page = context.new_page()
        page.goto(server.url)
        page.locator("#lx-tab-train", has_text=word).wait_for()
        context.close()

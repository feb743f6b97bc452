"""The tab in a real web UI: it shows, writes into the prompts of txt2img and img2img, trains, and its API answers.

The pages are driven in Chromium through playwright; without either those tests are skipped.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from server import IN_FORGE, TOKEN, WebUI
from tab_page import PATIENCE, open_tab, prompt_of

pytestmark = pytest.mark.usefixtures("same_settings")
API = "/lora-ext/v1"


def weights(page: Any, lora: str) -> Any:
    """The Weights panel with a file chosen."""
    page.click("#lx-tab-weights")
    panel = page.locator("#lx-panel-weights")
    picker = panel.locator(".lx-picker:visible").first
    picker.locator(".lx-pick").click()
    picker.locator("input[type=search]").fill(lora)
    picker.locator(".lx-item", has=page.get_by_text(lora, exact=True)).first.click()  # a kind may be called alike
    panel.locator(".lx-tag", has_text=f"<lora:{lora}:").wait_for()
    return panel


def insert(page: Any, panel: Any, name: str, wanted: str) -> str:
    """Presses the button and waits until the prompt holds `wanted`."""
    panel.get_by_role("button", name=f"Insert into {name}").click()
    page.wait_for_function(
        "([field, text]) => document.querySelector(field).value.includes(text)",
        arg=[f"#{name}_prompt textarea", wanted],
        timeout=PATIENCE,
    )
    return prompt_of(page, name)


def test_a_tag_into_both_prompts(page: Any) -> None:
    """It is written, then updated in place with block weights; the rest of the prompt stays."""
    page.locator("#tabs > .tab-nav > button", has_text="txt2img").first.click()
    page.fill("#txt2img_prompt textarea", "a photo of a cat")
    open_tab(page)
    panel = weights(page, "lierla")
    assert insert(page, panel, "txt2img", "<lora:lierla:").startswith("a photo of a cat")
    panel.locator(".lx-handle", has_text="OUT").get_by_role("button", name="0", exact=True).first.click()
    panel.locator(".lx-tag", has_text="lbw=").wait_for()
    prompt = insert(page, panel, "txt2img", "lbw=")
    assert prompt.count("<lora:") == 1 and prompt.startswith("a photo of a cat")
    assert insert(page, panel, "img2img", "lbw=").count("<lora:") == 1


def test_what_was_inserted_is_what_is_drawn(page: Any, webui: WebUI) -> None:
    """Generate in the page, with the tag that the tab wrote, draws what the API draws of that prompt."""
    panel = weights(page, "lierla")
    panel.locator(".lx-handle", has_text="IN").get_by_role("button", name="0", exact=True).first.click()
    prompt = insert(page, panel, "txt2img", "lbw=")
    assert (webui.make(prompt).pixels != webui.make("").pixels).any()
    assert (webui.make(prompt).pixels != webui.make("<lora:lierla:1>").pixels).any()


def test_regions_are_inserted_with_their_size(page: Any) -> None:
    """txt2img kept its own size, another shape than the regions were drawn for. Go to txt2img shows what was done."""
    page.locator("#tabs > .tab-nav > button", has_text="txt2img").first.click()
    prompt = page.locator("#txt2img_prompt textarea")
    prompt.fill("a photo of a cat")
    sides = [page.locator(f"#txt2img_{side} input[type=number]") for side in ("width", "height")]
    before = [side.input_value() for side in sides]
    open_tab(page)
    page.click("#lx-tab-regions")
    panel = page.locator("#lx-panel-regions")
    panel.get_by_label("Prompt of the whole picture").fill("two shapes")
    for label, value in (("Width", "128"), ("Height", "64")):
        panel.locator(f"input[type=number][aria-label={label}]").fill(value)
    panel.get_by_role("button", name="Add a LoRA").click()
    picker = panel.locator(".lx-picker:visible").first
    picker.locator(".lx-pick").click()
    picker.locator("input[type=search]").fill("lierla")
    picker.locator(".lx-item", has=page.get_by_text("lierla", exact=True)).first.click()
    panel.locator("code.lx-tag", has_text="<lora:lierla:1:at=left>").wait_for()
    panel.get_by_role("button", name="Insert into txt2img").click()
    panel.get_by_text("Width and height are 128 × 64 now, as the regions are drawn for.").wait_for()
    assert not prompt.is_visible()
    panel.get_by_role("button", name="Go to txt2img").click()
    page.locator("#txt2img_prompt textarea:focus").wait_for()
    assert prompt.input_value() == "two shapes <lora:lierla:1:at=left>"
    for side, value in zip(sides, ("128", "64"), strict=True):
        assert side.is_visible() and side.input_value() == value
    page.locator("#txt2img_steps input[type=number]").fill("1")
    page.click("#txt2img_generate")
    page.locator("#html_info_txt2img", has_text="Size: 128x64").first.wait_for(timeout=PATIENCE)

    open_tab(page)
    panel.get_by_role("button", name="Undo").click()
    assert prompt.input_value() == "a photo of a cat"
    assert [side.input_value() for side in sides] == before


def test_weights_that_acted_are_drawn_under_the_picture(page: Any, webui: WebUI) -> None:
    """Below the comments of the web UI's own page."""
    webui.options(lora_ext_show_curve=True)
    try:
        page.locator("#tabs > .tab-nav > button", has_text="txt2img").first.click()
        page.fill("#txt2img_prompt textarea", "a cat <lora:lierla:0@0,0.9@0.5,0@1>")
        for name, value in (("steps", "5"), ("width", "64"), ("height", "64")):
            page.locator(f"#txt2img_{name} input[type=number]").fill(value)
        page.click("#txt2img_generate")
        line = page.locator("#html_log_txt2img .lx-acted .line")
        line.wait_for(timeout=PATIENCE)
    finally:
        webui.options(lora_ext_show_curve=False)
    comment = page.locator("#html_log_txt2img p.comments").inner_text()
    calls = int(comment.split("lierla: weight at each of ")[1].split()[0])
    assert line.get_attribute("d").count("L") == calls - 1 and line.bounding_box()["width"] > 100


def test_training_in_the_page(trained_on: WebUI, page: Any) -> None:
    """The form's least, the curve while it runs, the file at the end; the next picture is bit-identical."""
    webui = trained_on
    plain, weights = webui.make(""), webui.weights()
    page.click("#lx-tab-train")
    panel = page.locator("#lx-panel-train")
    option = '.lx-option:has(label[title*="({}"]) :is(input, select)'
    panel.locator(option.format("train_data_dir")).first.select_option("shapes")
    for name, value in (
        ("resolution", "64"),
        ("max_train_steps", "30"),
        ("learning_rate", "0.01"),
        ("output_name", "by-hand"),
    ):
        panel.locator(option.format(name)).first.fill(value)
    panel.get_by_label("Sample prompts").fill("a red disc --w 64 --h 64 --s 2 --d 1")  # of each epoch
    panel.get_by_role("button", name="Train", exact=True).click()
    run = panel.locator(".lx-job[data-state]:visible").last
    run.locator(".lx-live .lx-chart .line").first.wait_for(state="attached")
    page.reload(wait_until="domcontentloaded")  # the page may be closed meanwhile
    open_tab(page)
    page.locator("#lx-tab-train").wait_for()
    page.click("#lx-tab-train")
    wait_for(webui, "train")
    page.locator(".lx-job-menu-face").click()
    page.locator(".lx-jobline", has_text="by-hand").locator(".lx-jobname").click()
    made = panel.locator(".lx-offers > *", has=page.get_by_text("by-hand", exact=True))  # after those of the epochs
    made.get_by_role("button", name="Set block weights").wait_for()
    panel.locator(".lx-result .lx-chart .line").first.wait_for(state="attached")  # its rows are asked for
    assert (webui.make("").pixels == plain.pixels).all() and webui.weights() == weights
    assert webui.data is not None and (webui.data / "models" / "Lora" / "by-hand.safetensors").is_file()
    made.get_by_role("button", name="Set block weights").click()
    tag = page.locator("#lx-panel-weights .lx-tag", has_text="<lora:by-hand:")
    tag.wait_for()
    assert (webui.make(tag.inner_text()).pixels != plain.pixels).any()


def wait_for(webui: WebUI, kind: str) -> None:
    """Until no job of a kind works or waits."""
    while any(
        job["kind"] == kind and job["state"] in ("waiting", "running") for job in webui.call(f"{API}/jobs")["jobs"]
    ):
        time.sleep(0.3)


def test_one_tab_after_reload_ui(webui: WebUI, browser: Any) -> None:
    before = webui.call("/probe/registry")
    webui.reload()
    assert webui.call("/probe/registry") == before
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(webui.url, wait_until="domcontentloaded", timeout=PATIENCE)
    open_tab(page)
    assert page.locator("#tabs > .tab-nav > button", has_text="LoRA").count() == 1
    assert page.locator("#lora-ext").count() == 1 and page.locator("#lora-ext .lx-tabs").count() == 1
    context.close()


def test_the_api_answers(webui: WebUI) -> None:
    document = webui.call(f"{API}/openapi.json")
    assert any(path.endswith("/train") for path in document["paths"])
    assert {"lierla", "c3lier"} <= {row["title"] for row in webui.call(f"{API}/library")["rows"]}
    tag = webui.call(f"{API}/tag", {"name": "lierla", "te": 0.5, "lbw": "OUTALL", "prompt": "a <lora:lierla:1> b"})
    assert tag["prompt"].count("<lora:lierla:") == 1 and "lbw=OUTALL" in tag["prompt"]
    with pytest.raises(AssertionError, match=r"40[04]"):
        webui.call(f"{API}/pictures?name=../../config.json")


def test_requests_of_other_sites_are_refused(webui: WebUI) -> None:
    """DNS rebinding and forged requests, in the web UI's own server."""
    token, here = {"X-Lora-Ext": TOKEN}, {"Host": webui.url.removeprefix("http://")}
    evil = {"Host": "evil.example:7860", "Origin": "http://evil.example:7860"}
    for headers, status in (
        ({**here, **token}, 200),
        ({**evil, **token}, 403),
        (here, 403),
        ({**here, **token, "Origin": "http://evil.example"}, 403),
        ({**here, **token, "Content-Type": "text/plain"}, 415),
    ):
        sent = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{webui.url}{API}/tag", b'{"name": "lierla"}', sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == status, headers
        except urllib.error.HTTPError as error:
            assert error.code == status, headers
            # gradio 4 itself answers a page whose origin is the host that it asks: it reads the refusal, nothing else
            assert error.headers["Access-Control-Allow-Origin"] in (None, headers.get("Origin") if IN_FORGE else None)
            assert b"lora:lierla" not in error.read()


def test_pictures_that_wait_for_a_job_say_so(trained_on: WebUI, page: Any) -> None:
    """Beside the progress of txt2img, while a training run has the model; not before and not afterwards."""
    webui = trained_on
    page.locator("#tabs > .tab-nav > button", has_text="txt2img").first.click()
    note = page.locator("#lora-ext-waiting-txt2img")
    assert note.count() == 0
    settings = {"train_data_dir": "shapes", "resolution": "64", "max_train_steps": 400, "output_name": "busy"}
    job = webui.call(f"{API}/train", {"settings": settings})
    note.get_by_text("LoRA ext is using the model (train: busy, ").wait_for()
    for name in ("steps", "width", "height"):
        page.locator(f"#txt2img_{name} input[type=number]").fill("1" if name == "steps" else "64")
    page.click("#txt2img_generate")
    page.locator(".progressDiv", has_text="In queue: 1/1").wait_for()
    assert note.is_visible()
    webui.call(f"{API}/jobs/{job['id']}/cancel?save=false", {})
    note.wait_for(state="detached")
    page.locator("#txt2img_gallery img").first.wait_for()


def test_a_folder_that_few_have_is_no_warning(webui: WebUI) -> None:
    """models/LyCORIS is looked into where it exists; that it does not is not told in red."""
    assert webui.call(f"{API}/library")["errors"] == []

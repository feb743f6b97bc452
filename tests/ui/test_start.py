"""Start here: a person who has never trained does what the page shows, from pictures to a tag in the prompt."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from dropped_pictures import fill_in_an_object, photo, send
from PIL import Image
from program import Server
from signs import KEPT, LEARNT, judge_the_sign, teach_the_sign
from steps import LONG, go

from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import load_settings_model
from lora_ext.training.toy_task import TOY_SETTINGS, generate_toy_images

LEARN = os.environ.get("LORA_EXT_LEARN")
"""Seconds that the training and its sheet may take."""
pytestmark = [pytest.mark.one_page, pytest.mark.flaky(reruns=2)]

COUNT_CLICKS = """() => {
    window.clicks = 0;
    document.addEventListener("click", event => { window.clicks += event.isTrusted && event.detail > 0; }, true);
}"""


@pytest.fixture
def panel(page: Any, server: Server) -> Iterator[Any]:
    """The panel, which is the first one; its data sets go afterwards."""
    found = page.locator("#lx-panel-start")
    found.locator(".lx-steps").wait_for()
    model = found.get_by_label("Model", exact=True)
    if model.count():  # other tests have left a checkpoint
        model.select_option(label="the small built-in model")
    yield found
    server.idle()
    for folder in (server.data / "datasets").iterdir():
        if folder.name != "circles":
            shutil.rmtree(folder)


@pytest.mark.long
def test_from_pictures_to_a_tag_in_the_prompt(page: Any, panel: Any, server: Server) -> None:
    page.evaluate(COUNT_CLICKS)
    fill_in_an_object(page, panel, repeats=1)
    assert panel.get_by_text("as you set it").count() == 3
    panel.get_by_role("button", name="Train", exact=True).click()
    panel.get_by_text("sheet.png").wait_for(timeout=LONG)
    panel.locator(".lx-sheet td button").last.click()  # two steps teach nothing, so that none is suggested
    panel.get_by_role("button", name="Insert into prompt").last.click()
    page.get_by_text("with the seed: ").wait_for()
    clicks = page.evaluate("window.clicks")
    prompt = go(page, "generate").get_by_label("Prompt", exact=True).input_value()
    assert "<lora:mycat" in prompt and clicks <= 8, (prompt, clicks)
    settings = server.api("/train/history")["runs"][0]["settings"]
    assert (settings["train_data_dir"], settings["max_train_epochs"]) == ("mycat", 2)
    assert settings["metadata_trigger_phrase"] == settings["caption_prefix"] == "mycat"
    assert (server.data / "loras" / "mycat.safetensors").is_file()
    drawn = server.data / "datasets" / settings["reg_data_dir"]
    assert (
        len(list(drawn.glob("*.png"))) == len(list(drawn.glob("*.txt"))) == 3
        and settings["prior_loss_target"] == "model"
    )


@pytest.mark.skipif(not LEARN, reason="LORA_EXT_LEARN is not set: it trains for minutes")
def test_untouched_settings_teach_in_few_clicks(page: Any, panel: Any, server: Server) -> None:
    """The sign is drawn by the tag that the page inserts, and other prompts stay what they were."""
    clicks = teach_the_sign(page, panel, "Insert into prompt", 1000 * float(LEARN))
    prompt = go(page, "generate").get_by_label("Prompt", exact=True).input_value()
    model, library = load_settings_model(TOY_SETTINGS), LoraLibrary([server.data / "loras"])

    def draw(prompts: Sequence[str], seed: int) -> Sequence[Image.Image]:
        return generate_toy_images(model, library, replace(TOY_SETTINGS, seed=seed), prompts)

    learnt, kept = judge_the_sign(prompt, draw)
    assert clicks <= 8 and learnt >= LEARNT and kept >= KEPT, (clicks, learnt, kept)


def test_what_is_missing_is_said_beside_it(page: Any, panel: Any) -> None:
    panel.get_by_text("The small built-in model is trained.").wait_for()
    train = panel.get_by_role("button", name="Train", exact=True)
    train.click()
    panel.get_by_text("Choose one of these.").wait_for()
    panel.get_by_role("radio", name="Person").click()
    train.click()
    panel.get_by_text("Give it a name.").wait_for()
    panel.get_by_label("Name", exact=True).fill("a/b")
    train.click()
    panel.get_by_text("A name has no").wait_for()
    panel.get_by_label("Name", exact=True).fill("me")
    train.click()
    panel.get_by_text("Add pictures first.").wait_for()


def test_the_length_of_the_training_is_said_before_it_begins(page: Any, panel: Any) -> None:
    """And what regularisation takes is said only while it is on."""
    panel.get_by_role("radio", name="Object").click()
    panel.get_by_label("Name", exact=True).fill("mug")
    send(page, [("a.png", photo(1)), ("b.png", photo(2))])
    drawn = panel.get_by_text("100 pictures are drawn first")
    drawn.wait_for()
    panel.get_by_text(re.compile(r"^1000 steps as suggested, about .* to .* on this computer")).wait_for()
    panel.get_by_label("Keep what the model draws already").uncheck()
    panel.get_by_text(re.compile(r"^500 steps as suggested, about .* to .* on this computer")).wait_for()
    assert not drawn.is_visible()
    panel.get_by_label("Keep what the model draws already").check()
    panel.get_by_text(re.compile("^1000 steps")).wait_for()
    assert drawn.is_visible()


def test_bad_files_are_named_captions_are_written_and_the_form_takes_over(
    page: Any, panel: Any, server: Server
) -> None:
    panel.get_by_role("radio", name="Person").click()
    panel.get_by_label("Name", exact=True).fill("me")
    panel.get_by_label("Trigger word").fill("ohwx")
    send(page, [("a.png", photo(1)), ("a.txt", b"a dog"), ("same.png", photo(1)), ("cut.png", photo(2)[:90])], "paste")
    panel.get_by_text("1 picture added").wait_for()
    panel.get_by_text("1 caption came with them").wait_for()
    panel.get_by_text("same.png is there already, as a.png").wait_for()
    panel.get_by_text("cut.png is left out").wait_for()
    send(page, [("b.png", photo(3)), ("virus.exe", b"MZ")])
    panel.get_by_text("virus.exe is left out: a file that ends in '.exe' is no picture").wait_for()
    panel.get_by_text("Captions (optional)").click()
    panel.locator(".lx-captions .lx-picture").first.wait_for()
    assert "×" not in panel.locator(".lx-captions .lx-dataset").inner_text()  # no sizes and repeats but the run's own
    panel.get_by_label("Tag", exact=True).fill("outdoors")
    panel.get_by_role("button", name="Add to all").click()
    page.get_by_text("2 captions changed").wait_for()
    folder = server.data / "datasets" / "me"
    assert (folder / "a.txt").read_text(encoding="utf-8").strip() == "a dog, outdoors"
    assert (folder / "b.txt").read_text(encoding="utf-8").strip() == "outdoors"
    panel.get_by_role("button", name="Change these in the Train form").click()
    form = page.locator("#lx-panel-train")
    form.get_by_label("file name").wait_for()
    assert form.get_by_label("file name").input_value() == "me"
    assert form.get_by_label("picture folder").input_value() == "me"
    assert form.get_by_label("Sample prompts").input_value() == "ohwx --d 1"
    assert form.get_by_label("Compare the epochs when done").is_checked()
    form.get_by_text("My presets", exact=True).click()
    rank = form.locator('.lx-option:has(label[title*="(network_dim"]) input').first
    rank.fill("24")
    form.get_by_label("Save as").fill("faces")
    form.get_by_role("button", name="Save", exact=True).click()
    form.get_by_label("My presets").wait_for()
    rank.fill("3")
    form.get_by_role("button", name="Load", exact=True).click()
    page.get_by_text("Settings loaded").wait_for()
    assert rank.input_value() == "24" and form.get_by_label("file name").input_value() == "me"
    saved = server.api("/train/presets")["presets"]
    assert [row["name"] for row in saved] == ["faces"] and "output_name" not in saved[0]["settings"]
    form.get_by_role("button", name="Delete", exact=True).click()
    form.get_by_text("No preset yet.").wait_for()
    page.get_by_role("button", name="Undo", exact=True).click()
    form.get_by_label("My presets").wait_for()
    assert server.api("/train/presets")["presets"] == saved

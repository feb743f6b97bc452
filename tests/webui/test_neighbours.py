"""Beside other extensions that touch `<lora:…>` or the model, in the real web UI.

LORA_EXT_NEIGHBOURS: a folder with checkouts of `sd-webui-loractl` (cheald), `stable-diffusion-webui-composable-lora`
(a2569875) and of `OTHERS`; those that are there take part. What they need has to be installed in the web UI's Python.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adetailer_laws import check_tags_in_adetailer
from server import PLOT, WebUI, apart, launch, plot_arguments, prepare, tracebacks

LORACTL, COMPOSABLE = "sd-webui-loractl", "stable-diffusion-webui-composable-lora"
OTHERS = (
    "sd-webui-lora-block-weight",
    "sd-webui-additional-networks",
    "sd-webui-supermerger",
    "sd-webui-regional-prompter",
    "adetailer",
    "sd-webui-controlnet",
    "sd-webui-traintrain",
)
"""Extensions that are tried together."""
TAG = "<lora:lierla:0.8>"
TAGS = ("", TAG, "<lora:lierla:1:lbw=OUTALL>", "<lora:lierla:1:OUTALL>", "<lora:lierla:1:step=1-2>",
        "<lora:c3lier:0.5> <lora:lierla:te=0:unet=0@0,1@1>")  # fmt: skip


def ticked(on: bool) -> dict[str, Any]:
    """A request with sd-webui-loractl's box ticked or not; without this it is ticked."""
    return {"alwayson_scripts": {"Dynamic Lora Weights": {"args": [on, False]}}}


def neighbour(name: str) -> Path:
    """A checkout of another extension, or the test is skipped."""
    where = Path(os.environ.get("LORA_EXT_NEIGHBOURS", "")) / name
    if not os.environ.get("LORA_EXT_NEIGHBOURS") or not where.is_dir():
        pytest.skip(f"LORA_EXT_NEIGHBOURS gives no folder with {name}")
    return where


@pytest.fixture(scope="module")
def beside_others(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebUI, dict[str, Any]]]:
    """A web UI with all of `OTHERS` that are there, and the pictures of `TAGS` from before."""
    sources = [where for name in OTHERS if (where := Path(os.environ.get("LORA_EXT_NEIGHBOURS", "")) / name).is_dir()]
    if not os.environ.get("LORA_EXT_NEIGHBOURS") or not sources:
        pytest.skip("LORA_EXT_NEIGHBOURS gives no folder with other extensions")
    data = tmp_path_factory.mktemp("others")
    prepare(data)
    alone = launch(folder, data)
    try:
        pictures = {tag: alone.make(tag) for tag in TAGS}
    finally:
        alone.stop()
    (data / "log.txt").unlink()
    for source in sources:
        shutil.copytree(source, data / "extensions" / source.name, ignore=shutil.ignore_patterns(".git"))
    loras = data / "extensions" / "sd-webui-additional-networks" / "models" / "lora"
    if loras.parents[1].is_dir():
        loras.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "models" / "Lora" / "lierla.safetensors", loras)
    webui = launch(folder, data, "--skip-install")
    yield webui, pictures
    webui.stop()


@pytest.mark.parametrize("tag", TAGS)
def test_pictures_are_those_without_others(beside_others: tuple[WebUI, dict[str, Any]], tag: str) -> None:
    webui, alone = beside_others
    webui.make("")
    before = webui.weights()["hash"]
    assert apart(webui.make(tag), alone[tag]) <= 1
    assert apart(webui.make(""), alone[""]) == 0
    assert webui.weights()["hash"] == before
    assert webui.call("/lora-ext/v1/jobs")["applied_by"] == ""
    assert "Error loading script" not in webui.log()
    assert not [text for text in tracebacks(webui.log()) if "lora_ext" in text]  # block-weight's has some of its own


def alwayson(webui: WebUI, title: str) -> dict[str, Any]:
    """The entry of another extension's script, or the test is skipped."""
    rows = webui.call("/sdapi/v1/script-info")
    found = next((row for row in rows if row["name"] == title.lower() and not row["is_img2img"]), None)
    if found is None:
        pytest.skip(f"{title} is not there")
    return dict(found)


def test_files_of_additional_networks_add_to_ours(beside_others: tuple[WebUI, dict[str, Any]]) -> None:
    """Its own networks replace the layers' forward; a file of it and one of ours are both in the picture."""
    webui, alone = beside_others
    title = "Additional networks for generating"
    choices = alwayson(webui, title)["args"][3]["choices"]
    name = next(choice for choice in choices if choice.startswith("lierla"))
    on = {"alwayson_scripts": {title: {"args": [True, False, "LoRA", name, 0.8, 0.8]}}}
    webui.options(persistent_cond_cache=False)  # it does not say that it has changed the text encoder
    webui.make("")  # after which the web UI forgets what the picture before it has left
    assert apart(webui.make("", **on), alone[TAG]) <= 2
    both = webui.make("<lora:c3lier:0.5>", **on)
    assert apart(webui.make(""), alone[""]) == 0
    assert apart(webui.make(f"{TAG} <lora:c3lier:0.5>"), both) <= 2
    assert apart(webui.make(""), alone[""]) == 0
    webui.options(persistent_cond_cache=True)


REGIONS = [True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "", False, False, False, "Attention", [],
           "0", "0", "0.4", "", "0", "0", False]  # fmt: skip
"""Regional Prompter's arguments for two columns."""


@pytest.mark.parametrize("title", ["Regional Prompter", "ControlNet"])
def test_what_changes_the_unet_acts_with_our_tags(beside_others: tuple[WebUI, dict[str, Any]], title: str) -> None:
    """Regions of a prompt, and a reference picture: tags act as the built-in's do, and nothing is left of either."""
    webui, alone = beside_others
    alwayson(webui, title)
    reference = {"enabled": True, "module": "reference_only", "model": "None", "image": alone[TAG].images[0]}
    if title == "ControlNet":  # else its detected maps are among the answer's images
        webui.options(control_net_no_detectmap=True)
    prompt, arguments = {"Regional Prompter": ("BREAK a dog", REGIONS), "ControlNet": ("", [reference])}[title]
    told = {"alwayson_scripts": {title: {"args": arguments}}}
    plain = webui.make(prompt, **told)
    assert apart(plain, webui.make(prompt)) > 1, "it acts"
    made = webui.make(f"{prompt} {TAG}", **told)
    webui.options(lora_ext_in_charge="built-in")
    webui.make(TAG)  # block-weight ends files of the built-in by a `step=` that it has read while ours was in charge
    theirs = webui.make(f"{prompt} {TAG}", **told)
    webui.options(lora_ext_in_charge="LoRA ext")
    assert apart(made, theirs) <= 2 < apart(made, plain)
    assert apart(webui.make(prompt, **told), plain) == 0
    assert apart(webui.make(""), alone[""]) == 0


def test_regional_prompter_keeps_a_file_to_its_region(beside_others: tuple[WebUI, dict[str, Any]]) -> None:
    """Its mode "Latent", in which it separates LoRA files, with ours in charge: as our own regions, nothing merged."""
    webui, alone = beside_others
    alwayson(webui, "Regional Prompter")
    arguments = ["Latent" if one == "Attention" else one for one in REGIONS]
    told = {"alwayson_scripts": {"Regional Prompter": {"args": arguments}}}
    webui.options(lora_ext_mode="live")
    weights = webui.weights()["hash"]
    plain = webui.make("a cat ADDCOL a dog", **told)
    made = webui.make(f"a cat {TAG[:-1]}:part=own> ADDCOL a dog", **told)
    assert webui.weights()["hash"] == weights
    assert apart(made, webui.make(f"a cat {TAG[:-1]}:neg=0> ADDCOL a dog")) <= 1 < apart(made, plain)
    webui.options(lora_ext_mode="auto")
    assert apart(webui.make(""), alone[""]) == 0


def test_tags_act_where_adetailer_draws(beside_others: tuple[WebUI, dict[str, Any]]) -> None:
    """It draws a part of each picture again, in the midst of the picture's own job and with a prompt of its own."""
    webui, alone = beside_others
    alwayson(webui, "ADetailer")
    before = webui.weights()["hash"]
    check_tags_in_adetailer(webui, "lierla", "c3lier", width=64, height=64, steps=3)
    assert apart(webui.make(""), alone[""]) == 0 and webui.weights()["hash"] == before
    assert not [text for text in tracebacks(webui.log()) if "lora_ext" in text]


def started(folder: Path, data: Path, source: Path, called: str) -> WebUI:
    """A web UI with one more extension, in a folder of this name."""
    prepare(data)
    shutil.copytree(source, data / "extensions" / called, ignore=shutil.ignore_patterns(".git"))
    return launch(folder, data)


@pytest.fixture(scope="module")
def beside_loractl(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    source = neighbour(LORACTL)
    webui = started(folder, tmp_path_factory.mktemp("loractl"), source, LORACTL)
    yield webui
    webui.stop()


def test_nothing_of_ours_stays_when_loractl_takes_over(beside_loractl: WebUI) -> None:
    webui, off, on = beside_loractl, ticked(False), ticked(True)
    clean, weights = webui.make("", **off), webui.weights()["hash"]
    ours = webui.make(TAG, **off)
    assert apart(ours, clean) > 20
    assert apart(webui.make("", **on), clean) == 0, "our file stayed on the model"
    assert webui.weights()["hash"] == weights
    assert webui.call("/lora-ext/v1/jobs")["applied_by"] == LORACTL
    assert apart(webui.make(TAG, **off), ours) == 0
    assert webui.call("/lora-ext/v1/jobs")["applied_by"] == ""
    assert apart(webui.make(TAG, **on), ours) <= 2, "the file acts twice"
    told = webui.make("<lora:lierla:0.8:lbw=IND:step=1-3>", **on).comments
    assert "lbw=IND, step=1-3 has no effect" in told and LORACTL in told
    assert "<lyco:lierla:0.8> is not applied" in webui.make("<lyco:lierla:0.8>", **on).comments
    assert apart(webui.make(TAG, **off), ours) == 0
    assert apart(webui.make("", **off), clean) == 0
    assert webui.weights()["hash"] == weights


def test_curves_beside_loractls(beside_loractl: WebUI) -> None:
    """sd-webui-loractl reads the step that the web UI has ended last: at step i it is i - 1, and 0 in the first two.

    It divides that by steps - 2, so that place 1 is the last step there too, and place 0 is the first two steps. Its
    curve over shares is ours with keyframes at 1 + place * (steps - 2), and one over steps is ours a step later.
    """
    webui, off, on = beside_loractl, {**ticked(False), "steps": 6}, {**ticked(True), "steps": 6}
    for theirs, ours in (("0@0,1@0.5,0@1", "0@1,1@3,0@5"), ("0@0,1@1", "0@1,1@5"), ("0@0,3@2", "0@1,3@3")):
        made = webui.make(f"<lora:lierla:0:unet={theirs}>", **on)
        same, as_written = (apart(made, webui.make(f"<lora:lierla:0:unet={curve}>", **off)) for curve in (ours, theirs))
        assert same <= 2 < as_written, (theirs, same, as_written)
    constant = "<lora:lierla:0.5@0,0.5@1>"
    assert apart(webui.make(constant, **on), webui.make(constant, **off)) <= 2


def test_an_axis_that_could_not_act_is_refused(beside_loractl: WebUI) -> None:
    webui = beside_loractl
    webui.make(TAG, **ticked(True))
    for axis in (("LoRA block preset", "IND,ALL"), ("LoRA stop step", "2,4")):
        args = plot_arguments(webui, axis, single=True)
        with pytest.raises(AssertionError, match="would change nothing: sd-webui-loractl applies LoRA tags here"):
            webui.make(TAG, **ticked(True), script_name=PLOT, script_args=args)
    with pytest.raises(AssertionError, match="sheets need LoRA ext to apply the tags"):
        webui.call("/lora-ext/v1/compare", {"lora": "lierla", "x": "weight:0,1"})


@pytest.mark.parametrize("called", ["a-composable-lora", COMPOSABLE])
def test_composable_lora_works_beside_us(called: str, folder: Path, tmp_path: Path) -> None:
    """It has a top-level module `lora_ext`; loaded before us and after us both work."""
    webui = started(folder, tmp_path, neighbour(COMPOSABLE), called)
    try:
        clean = webui.make("")
        made = webui.make(TAG)
        assert apart(made, clean) > 20 and apart(webui.make(""), clean) == 0
        lines = [line for line in webui.log().splitlines() if "rror" in line]
        assert not [line for line in lines if "lora_ext" in line or "composable" in line], lines
        assert "Traceback" not in webui.log()
    finally:
        webui.stop()

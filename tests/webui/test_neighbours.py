"""Beside other extensions that touch `<lora:…>`, in the real web UI. LORA_EXT_NEIGHBOURS: a folder with checkouts of
`sd-webui-loractl` (cheald) and `stable-diffusion-webui-composable-lora` (a2569875)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import WebUI, apart, launch, prepare

LORACTL, COMPOSABLE = "sd-webui-loractl", "stable-diffusion-webui-composable-lora"
TAG = "<lora:lierla:0.8>"


def ticked(on: bool) -> dict[str, Any]:
    """A request with sd-webui-loractl's box ticked or not; without this it is ticked."""
    return {"alwayson_scripts": {"Dynamic Lora Weights": {"args": [on, False]}}}


def neighbour(name: str) -> Path:
    """A checkout of another extension, or the test is skipped."""
    where = Path(os.environ.get("LORA_EXT_NEIGHBOURS", "")) / name
    if not os.environ.get("LORA_EXT_NEIGHBOURS") or not where.is_dir():
        pytest.skip(f"LORA_EXT_NEIGHBOURS gives no folder with {name}")
    return where


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
    info = webui.call("/sdapi/v1/script-info")
    plot = next(row for row in info if row["name"] == "x/y/z plot" and not row["is_img2img"])
    for axis, values in (("LoRA block preset", "IND,ALL"), ("LoRA stop step", "2,4")):
        args = [plot["args"][0]["choices"].index(axis), values, [], 0, "", [], 0, "", []]
        args += [False, True, False, False, False, False, False, 0, True]
        with pytest.raises(AssertionError, match="would change nothing: sd-webui-loractl applies LoRA tags here"):
            webui.make(TAG, **ticked(True), script_name="x/y/z plot", script_args=args)
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

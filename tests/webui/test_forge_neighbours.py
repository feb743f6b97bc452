"""In a running Forge beside other extensions that touch prompts or weights.

LORA_EXT_FORGE: its folder. LORA_EXT_NEIGHBOURS: a folder with checkouts of `NEIGHBOURS` and
of a port of sd-webui-loractl; those that are there take part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adetailer_laws import check_tags_in_adetailer
from forge_server import known_flags, start
from server import WebUI, apart, launch, tracebacks

NEIGHBOURS = (
    "sd-webui-lora-block-weight",
    "sd-webui-regional-prompter",
    "sd-forge-couple",
    "adetailer",
    "sd-webui-supermerger",
    "sd-webui-traintrain",
)
LORACTL, LORACTL_REFORGE = "sd-webui-loractl-FORGE", "sd_webui_loractl_reforge"
"""The ports of sd-webui-loractl: the second takes part in reForge, the first in the others."""
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 3}
TAGS = ("<lora:noise:1>", "<lora:noise:1:lbw=OUTALL>", "<lora:noise:1:OUTALL>", "<lora:noise:1:step=1-2>", "")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebUI, dict[str, Any]]]:
    """Forge with all neighbours, and the pictures of `TAGS` from before they were there."""
    folder, others = os.environ.get("LORA_EXT_FORGE", ""), Path(os.environ.get("LORA_EXT_NEIGHBOURS", ""))
    reforge = (Path(folder) / "extensions-builtin" / "mahiro_reforge").is_dir()
    tried = (*NEIGHBOURS, LORACTL_REFORGE if reforge else LORACTL)
    there = [name for name in tried if (others / name).is_dir()]
    if not folder or folder.startswith("http") or not there:
        pytest.skip("LORA_EXT_FORGE gives no folder of a Forge, or LORA_EXT_NEIGHBOURS none of its neighbours")
    data = tmp_path_factory.mktemp("forge")
    alone = start(Path(folder), data)
    try:
        pictures = {tag: alone.make(tag, **SMALL) for tag in TAGS}
    finally:
        alone.stop()
    (data / "log.txt").unlink()
    for name in there:
        shutil.copytree(others / name, data / "extensions" / name, ignore=shutil.ignore_patterns(".git"))
    webui = launch(Path(folder), data, base=known_flags(Path(folder)))
    yield webui, pictures
    webui.stop()


def test_it_starts_without_errors(both: tuple[WebUI, dict[str, Any]]) -> None:
    webui, _ = both
    assert not [text for text in tracebacks(webui.log()) if "lora_ext" in text]  # others may lack a package
    registry = webui.call("/probe/registry")
    assert registry["lora"] == registry["lyco"] == "sd_webui_lora_ext.host.a1111.tag_owner"


@pytest.mark.parametrize("tag", TAGS)
def test_pictures_are_those_without_neighbours(both: tuple[WebUI, dict[str, Any]], tag: str) -> None:
    """Live here, since sd-webui-lora-block-weight drops what is baked: up to rounding the same."""
    webui, alone = both
    assert apart(webui.make(tag, **SMALL), alone[tag]) <= 1
    assert not [text for text in tracebacks(webui.log()) if "lora_ext" in text]


REGIONS: dict[str, tuple[str, str, list[Any]]] = {
    # extension → its script, a prompt of two regions, its arguments
    "sd-forge-couple": ("Forge Couple", "\na dog", [True, False, "Basic", "", "Horizontal", "None"]),
    "sd-webui-regional-prompter": (
        "Regional Prompter",
        "BREAK a dog",
        [True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "", False, False, False, "Attention", [],
         "0", "0", "0.4", "", "0", "0", False],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGIONS)
def test_regions_of_others(both: tuple[WebUI, dict[str, Any]], name: str) -> None:
    """Their regions are in use: tags act in the whole picture as the built-in's do, and nothing is left of either."""
    webui, alone = both
    script, prompt, arguments = REGIONS[name]
    if script.lower() not in {row["name"] for row in webui.call("/sdapi/v1/script-info")}:
        pytest.skip(f"{script} is not among the neighbours")
    told = {"alwayson_scripts": {script: {"args": arguments}}}
    plain, without = webui.make(prompt, **SMALL, **told), webui.make(prompt, **SMALL)
    assert apart(plain, without) > 1, "the regions act"
    made = webui.make(f"{prompt} <lora:noise:1>", **SMALL, **told)
    assert apart(made, plain) > 5
    webui.options(lora_ext_in_charge="built-in")
    theirs = webui.make(f"{prompt} <lora:noise:1>", **SMALL, **told)
    webui.options(lora_ext_in_charge="LoRA ext")
    assert apart(made, theirs) <= 1
    assert apart(webui.make(prompt, **SMALL, **told), plain) == 0
    assert apart(webui.make("", **SMALL), alone[""]) == 0
    everywhere = webui.make(f"{prompt} <lora:noise:te=0:unet=1>", **SMALL, **told)
    single = webui.make(f"{prompt} <lora:noise:te=0:unet=1:neg=0>", **SMALL, **told)
    assert apart(single, everywhere) <= 1 and "act on all rows" not in everywhere.comments
    assert "another extension changes the batch; LoRA files" in single.comments


def test_tags_act_where_adetailer_draws(both: tuple[WebUI, dict[str, Any]]) -> None:
    """It draws a part of each picture again, in the midst of the picture's own job and with a prompt of its own."""
    webui, alone = both
    if "adetailer" not in {row["name"] for row in webui.call("/sdapi/v1/script-info")}:
        pytest.skip("ADetailer is not among the neighbours")
    check_tags_in_adetailer(webui, "noise", "conv", **{**SMALL, "steps": 2})
    assert apart(webui.make("", **SMALL), alone[""]) == 0
    assert not [text for text in tracebacks(webui.log()) if "lora_ext" in text]


def test_loractl_takes_the_tags_over_and_gives_them_back(both: tuple[WebUI, dict[str, Any]]) -> None:
    """While its box is ticked nothing of ours stays on the model, and a comment says what is not applied."""
    webui, alone = both
    title = next((row["name"] for row in webui.call("/sdapi/v1/script-info") if "dynamic lora w" in row["name"]), "")
    if "reforge" not in title:
        pytest.skip("reForge's port of sd-webui-loractl is not among the neighbours")
    on, off = ({"alwayson_scripts": {title: {"args": [box, False]}}} for box in (True, False))
    tag = "<lora:noise:1>"
    assert apart(webui.make(tag, **SMALL, **off), alone[tag]) <= 1
    assert apart(webui.make("", **SMALL, **on), alone[""]) == 0, "our file stayed on the model"
    assert webui.call("/lora-ext/v1/jobs")["applied_by"] == LORACTL_REFORGE
    told = webui.make("<lyco:noise:1>", **SMALL, **on).comments
    assert f"<lyco:noise:1> is not applied: {LORACTL_REFORGE} applies LoRA tags" in told
    assert apart(webui.make(tag, **SMALL, **off), alone[tag]) <= 1
    assert webui.call("/lora-ext/v1/jobs")["applied_by"] == ""
    assert apart(webui.make("", **SMALL, **off), alone[""]) == 0


def test_nothing_of_the_built_in_stays(both: tuple[WebUI, dict[str, Any]]) -> None:
    """sd-webui-lora-block-weight clears after each image what the model tells of applied files."""
    webui, alone = both
    webui.options(lora_ext_in_charge="built-in")
    theirs = webui.make("<lora:noise:1>", **SMALL)
    webui.options(lora_ext_in_charge="LoRA ext")
    assert apart(theirs, alone["<lora:noise:1>"]) <= 1
    assert apart(webui.make("", **SMALL), alone[""]) == 0

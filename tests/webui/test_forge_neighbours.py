"""In a running Forge beside other extensions that touch prompts or weights.

LORA_EXT_FORGE: its folder. LORA_EXT_NEIGHBOURS: a folder with checkouts of `NEIGHBOURS`; those
that are there take part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forge_server import known_flags, start
from server import WebUI, apart, launch, tracebacks

NEIGHBOURS = (
    "sd-webui-lora-block-weight",
    "sd-webui-regional-prompter",
    "sd-forge-couple",
    "adetailer",
    "sd-webui-supermerger",
)
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 3}
TAGS = ("<lora:noise:1>", "<lora:noise:1:lbw=OUTALL>", "<lora:noise:1:OUTALL>", "<lora:noise:1:step=1-2>", "")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebUI, dict[str, Any]]]:
    """Forge with all neighbours, and the pictures of `TAGS` from before they were there."""
    folder, others = os.environ.get("LORA_EXT_FORGE", ""), Path(os.environ.get("LORA_EXT_NEIGHBOURS", ""))
    there = [name for name in NEIGHBOURS if (others / name).is_dir()]
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
    assert "Traceback" not in webui.log()
    registry = webui.call("/probe/registry")
    assert registry["lora"] == registry["lyco"] == "sd_webui_lora_ext.host.a1111.tag_owner"


@pytest.mark.parametrize("tag", TAGS)
def test_pictures_are_those_without_neighbours(both: tuple[WebUI, dict[str, Any]], tag: str) -> None:
    """Live here, since sd-webui-lora-block-weight drops what is baked: up to rounding the same."""
    webui, alone = both
    assert apart(webui.make(tag, **SMALL), alone[tag]) <= 1
    assert not [text for text in tracebacks(webui.log()) if "lora_ext" in text]


def test_regions_of_forge_couple(both: tuple[WebUI, dict[str, Any]]) -> None:
    """It changes the attention alone: tags act in the whole picture, and nothing is left of it."""
    webui, alone = both
    scripts = {row["name"] for row in webui.call("/sdapi/v1/script-info")}
    if "forge couple" not in scripts:
        pytest.skip("Forge Couple is not among the neighbours")
    told = {"alwayson_scripts": {"Forge Couple": {"args": [True, False, "Basic", "", "Horizontal", "None"]}}}
    plain = webui.make("\na dog", **SMALL, **told)
    assert apart(webui.make("\na dog <lora:noise:1>", **SMALL, **told), plain) > 5
    assert apart(webui.make("", **SMALL), alone[""]) == 0

"""The zip of a release in a running web UI: its tab, a tag of a prompt, and no installed package changed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh
from forge_server import SUITE_FILES, start
from server import GOLDEN, IN_FORGE, ROOT, WebUI, apart, launch, prepare, python_of, tracebacks
from tab_page import PATIENCE, open_tab

FOLDER = Path(os.environ.get("LORA_EXT_FORGE" if IN_FORGE else "LORA_EXT_WEBUI", ""))
INSTALLER = "import sys; from modules import launch_utils; launch_utils.run_extension_installer(sys.argv.pop())"
"""What the web UI does with an extension at its start; the options that Forge is started with here leave it out."""


def in_webui(*command: str) -> str:
    """What the web UI's Python prints, run in its folder."""
    done = subprocess.run([python_of(FOLDER), *command], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebUI, str]]:
    """A web UI with the zip's extension, and the packages that were installed before."""
    if not (FOLDER / "launch.py").is_file() or not (GOLDEN.exists() or IN_FORGE):
        pytest.skip("LORA_EXT_WEBUI or LORA_EXT_FORGE gives no folder of a web UI, or LORA_EXT_GOLDEN no model")
    packages, data = in_webui("-m", "pip", "freeze"), tmp_path_factory.mktemp("data")
    command = ["bash", "release.sh", str(tmp_path_factory.mktemp("release"))]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LORA_EXT_RELEASE", made.stdout.strip())
        if IN_FORGE:
            webui = start(FOLDER, data, files=SUITE_FILES, strength=2.0)
        else:
            prepare(data)
            webui = launch(FOLDER, data)
    yield webui, packages
    webui.stop()


def test_the_tab_of_a_release_and_a_tag(released: tuple[WebUI, str], browser: Any) -> None:
    webui, _ = released
    plain, tagged = webui.make(""), webui.make("<lora:lierla:1>")
    assert apart(plain, tagged) > 8 and not tagged.comments
    assert apart(webui.make(""), plain) == 0
    with fresh(browser, PATIENCE) as (page, errors):
        page.goto(webui.url, wait_until="domcontentloaded", timeout=PATIENCE)
        open_tab(page)
        assert page.locator("#lora-ext .lx-tabs button").count() >= 9
    assert [error for error in errors if "reading 'props'" not in error] == []
    assert tracebacks(webui.log()) == []


def test_installing_a_release_changes_no_package(released: tuple[WebUI, str]) -> None:
    webui, packages = released
    assert webui.data is not None
    assert "Error" not in in_webui("-c", INSTALLER, str(webui.data / "extensions" / "lora-ext"))
    assert in_webui("-m", "pip", "freeze") == packages and "safetensors" in packages

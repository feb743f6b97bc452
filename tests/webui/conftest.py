"""Tests in a real web UI (AUTOMATIC1111 1.10.1), skipped where there is none.

LORA_EXT_WEBUI: its folder (it is started on a throw-away data folder and stopped afterwards), or the URL of one that
runs with this extension, `probe/` as an extension and the same LORA_EXT_TOKEN. LORA_EXT_WEBUI_PYTHON: its Python
(default in FOLDER/venv).
LORA_EXT_GOLDEN: the reference data with the small model. The web UI asks the hub for CLIP's tokenizer: without a
network give HF_HOME with those files, HF_HUB_OFFLINE=1 and TRANSFORMERS_OFFLINE=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import GOLDEN, WebUI, dataset, launch, prepare

WHERE = os.environ.get("LORA_EXT_WEBUI", "")


@pytest.fixture(scope="session")
def folder() -> Path:
    """The web UI's folder."""
    if not WHERE or WHERE.startswith("http"):
        pytest.skip("LORA_EXT_WEBUI gives no folder of a web UI")
    if not GOLDEN.exists():
        pytest.skip(f"no reference model in {GOLDEN}; LORA_EXT_GOLDEN says where it is")
    return Path(WHERE)


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A running web UI with the extension."""
    if WHERE.startswith("http"):
        yield WebUI(WHERE)
        return
    folder = request.getfixturevalue("folder")
    data = tmp_path_factory.mktemp("webui")
    prepare(data)
    webui = launch(folder, data)
    yield webui
    webui.stop()


@pytest.fixture
def own(webui: WebUI) -> WebUI:
    """A web UI whose files may be changed."""
    if webui.data is None:
        pytest.skip("a web UI given by URL: its files stay as they are")
    return webui


@pytest.fixture
def same_settings(webui: WebUI) -> Any:
    """The test begins and ends with our defaults and with nothing applied."""
    defaults = {"lora_ext_in_charge": "LoRA ext", "lora_ext_mode": "auto", "sd_lora": "None"}
    webui.options(**defaults)
    yield
    webui.options(**defaults)
    webui.make("")


@pytest.fixture(scope="session")
def trained_on(webui: WebUI) -> WebUI:
    """A web UI with a dataset of eight small pictures."""
    if webui.data is None:
        pytest.skip("a web UI given by URL: its files stay as they are")
    dataset(webui.data)
    return webui

"""Tests in a real web UI (AUTOMATIC1111 1.10.1), skipped where there is none.

LORA_EXT_WEBUI: its folder (it is started on a throw-away data folder and stopped afterwards), or the URL of one that
runs with this extension, `probe/` as an extension and the same LORA_EXT_TOKEN. LORA_EXT_WEBUI_DATA: the data folder of
that one, where tests may write into it. LORA_EXT_WEBUI_PYTHON: its Python (default in FOLDER/venv).
LORA_EXT_GOLDEN: the reference data with the small model. The web UI asks the hub for CLIP's tokenizer: without a
network give HF_HOME with those files, HF_HUB_OFFLINE=1 and TRANSFORMERS_OFFLINE=1.

LORA_EXT_FORGE: the folder of a Forge, or the URL of one that runs. `test_forge.py` uses it; where LORA_EXT_WEBUI is not
given, all the other tests run in it too, but for those that `NOT_IN_FORGE` names with their reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import fresh, started
from forge_server import SUITE_FILES, start
from server import GOLDEN, IN_FORGE, WebUI, dataset, files_as_before, launch, prepare
from tab_page import PATIENCE, open_tab

from lora_ext.embedded import CHECKPOINT, CONFIG, LORA_DIR

WHERE, FORGE = (os.environ.get(f"LORA_EXT_{name}", "") for name in ("WEBUI", "FORGE"))
NOT_IN_FORGE = {
    "test_contract": "records AUTOMATIC1111's web UI",
    "test_embedded_model": "Forge does not recognise models of other sizes than the known ones",
    "test_neighbours": "needs extensions for AUTOMATIC1111's web UI",
    "test_out_of_memory": "makes AUTOMATIC1111's U-Net run out of memory; Forge moves its models by itself",
    "test_sdxl": "needs a small SDXL model, which Forge does not recognise",
    "test_start_here": "takes the embedded model, which Forge does not recognise",
    "test_standalone": "compares with the reference model, which Forge does not recognise",
    "test_starts": "starts AUTOMATIC1111's web UI with its own options",
    "test_switching": "needs variants of the reference model, which Forge does not recognise; see test_forge.py",
    "test_training_form": "takes the embedded model, which Forge does not recognise",
    "test_training_medvram": "needs AUTOMATIC1111's --medvram",
}
"""Module or test → why it does not run in Forge."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips in Forge, by name, what needs AUTOMATIC1111's web UI."""
    for item in items if IN_FORGE else ():
        module, test = item.path.stem, item.name.partition("[")[0]
        reason = NOT_IN_FORGE.get(module) or NOT_IN_FORGE.get(f"{module}::{test}") or NOT_IN_FORGE.get(item.name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"not in Forge: {reason}"))


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
    given = FORGE if IN_FORGE else WHERE
    if given.startswith("http"):
        data_given = os.environ.get("LORA_EXT_WEBUI_DATA")
        running = WebUI(given, Path(data_given) if data_given else None)
        with files_as_before(running.data):
            yield running
        return
    if IN_FORGE:
        forge = start(Path(FORGE), tmp_path_factory.mktemp("forge"), files=SUITE_FILES, strength=2.0)
        forge.make("")  # which loads the model
        yield forge
        forge.stop()
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
    if not IN_FORGE:  # where it is there
        dataset(webui.data)
    return webui


@pytest.fixture(scope="module")
def embedded_model(trained_on: WebUI) -> Iterator[WebUI]:
    """The web UI with a copy of the embedded model as its model, and with its LoRA files."""
    webui = trained_on
    assert webui.data is not None
    before = webui.call("/sdapi/v1/options")["sd_model_checkpoint"]
    folder = webui.data / "models" / "Stable-diffusion" / "small"
    folder.mkdir(exist_ok=True)
    for path in (CHECKPOINT, CONFIG):
        shutil.copy(path, folder / f"copied{path.suffix}")
    for path in LORA_DIR.glob("*.safetensors"):
        shutil.copy(path, webui.data / "models" / "Lora" / path.name)
    webui.call("/sdapi/v1/refresh-checkpoints", {})
    (title,) = [m["title"] for m in webui.call("/sdapi/v1/sd-models") if "copied" in m["title"]]
    webui.options(sd_model_checkpoint=title)
    yield webui
    webui.options(sd_model_checkpoint=before)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium."""
    with started() as chromium:
        yield chromium


@pytest.fixture
def page(webui: WebUI, browser: Any) -> Iterator[Any]:
    """The web UI on our tab. Errors of the page's scripts fail the test, but for those that the bare web UI gives."""
    with fresh(browser, PATIENCE) as (made, errors):
        made.goto(webui.url, wait_until="domcontentloaded", timeout=PATIENCE)
        open_tab(made)
        yield made
    assert not [error for error in errors if "reading 'props'" not in error]

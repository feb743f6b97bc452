"""In a running Forge with an SD2 and an SDXL checkpoint: tags, and training in the tab.

LORA_EXT_FORGE: its folder. LORA_EXT_FORGE_CHECKPOINTS: a folder with sd2.safetensors and sdxl.safetensors, as
`forge_checkpoint.py` writes them; a family whose file is not there is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forge_server import start
from safetensors import safe_open
from server import WebUI, apart
from test_forge import SMALL, TRAINING, built_in, ended

from lora_ext.layer_names import TE, TE2

FAMILIES: dict[str, dict[str, Any]] = {
    "sd2": {"cache_latents": True},
    "sdxl": {"network_train_unet_only": True, "cache_text_encoder_outputs": True},
}
"""Checkpoint → settings that its training needs."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, WebUI]]:
    """Forge with the checkpoint of a family as its only one."""
    folder, files = os.environ.get("LORA_EXT_FORGE", ""), os.environ.get("LORA_EXT_FORGE_CHECKPOINTS", "")
    checkpoint = Path(files) / f"{request.param}.safetensors"
    if not folder or folder.startswith("http") or not files or not checkpoint.is_file():
        pytest.skip(f"LORA_EXT_FORGE gives no folder of a Forge, or LORA_EXT_FORGE_CHECKPOINTS no {checkpoint.name}")
    webui = start(Path(folder), tmp_path_factory.mktemp(request.param), files={}, checkpoint=checkpoint)
    yield request.param, webui
    webui.stop()


def test_trained_in_the_tab(family: tuple[str, WebUI]) -> None:
    """The file acts as the built-in's way would; images before and after the run are the same bit for bit."""
    name, webui = family
    assert webui.data is not None
    clean = webui.make("", **SMALL)
    settings = {**TRAINING, **FAMILIES[name], "output_name": "mine", "max_train_steps": 2, "learning_rate": 0.01}
    job = ended(webui, "/train", {"settings": settings})
    assert job["state"] == "done" and job["result"]["files"] == ["mine"], job
    with safe_open(webui.data / "models" / "Lora" / "mine.safetensors", "pt") as file:
        version = file.metadata()["ss_base_model_version"]
        parts = {key.split("_")[1] for key in file.keys()}  # noqa: SIM118
    assert ("xl" in version, "v2" in version) == (name == "sdxl", name == "sd2"), version
    assert parts == ({"unet"} if name == "sdxl" else {"unet", TE}) and TE2 not in parts
    made = webui.make("<lora:mine:1>", **SMALL)
    assert apart(made, clean) > 1 and not made.comments
    assert apart(built_in(webui, "<lora:mine:1>"), made) <= 1
    assert apart(webui.make("<lora:mine:1:start=0:stop=3>", **SMALL), made) <= 1
    assert apart(webui.make("", **SMALL), clean) == 0
    assert "Traceback" not in webui.log()

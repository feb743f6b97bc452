"""Our own sheet in the web UI: cells drawn in one batch, each with LoRA weights of its own, are those drawn by hand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server import CAT, SIDE, WebUI

pytestmark = pytest.mark.usefixtures("same_settings")
SETTINGS = {"steps": 4, "width": SIDE, "height": SIDE, "cfg": 7, "sampler": "Euler", "seed": 42}
SHEETS: dict[str, tuple[str, dict[str, str]]] = {
    "files, weights and seeds": (CAT, {"x": "file:lierla,c3lier", "y": "weight:0,0.5,1", "z": "seed:42,7"}),
    "text encoder and U-Net": (f"{CAT}, (red:1.2) <lora:lierla:1>", {"x": "te:0,1", "y": "unet:0,0.8"}),
    "blocks and steps": (f"{CAT} <lora:lierla:1>", {"x": "preset:ALL,OUTALL,IND", "y": "stop:2,none"}),
}


def _sheet(webui: WebUI, **asked: Any) -> dict[str, Any]:
    """The finished sheet."""
    job = webui.call("/lora-ext/v1/compare", {**SETTINGS, **asked})
    while (now := webui.call(f"/lora-ext/v1/jobs/{job['id']}"))["state"] in ("waiting", "running"):
        time.sleep(0.2)
    assert now["state"] == "done", now
    return dict(now["result"])


@pytest.mark.parametrize("name", SHEETS)
def test_in_one_batch_as_by_hand(own: WebUI, name: str) -> None:
    prompt, axes = SHEETS[name]
    made = _sheet(own, prompt=prompt, negative_prompt="blurry", batch=8, **axes)
    assert own.data is not None
    for cell in made["cells"]:
        hand = own.make(cell["prompt"], seed=cell["seed"], negative_prompt="blurry")
        with Image.open(own.data / "lora_ext" / "outputs" / cell["file"]) as image:
            pixels, told = np.asarray(image.convert("RGB"), dtype=int), str(image.info["parameters"])
        assert np.abs(pixels - hand.pixels[0]).max() <= 1, cell["prompt"]
        assert f"Seed: {cell['seed']}, " in told
        if ":0>" not in cell["tag"]:  # of equal pictures only the first is drawn, with its own tag
            assert told.splitlines()[0] == cell["prompt"] and hand.told["Lora hashes"] in told


def test_a_cell_that_is_drawn_alone_has_its_tag_in_its_infotext(own: WebUI) -> None:
    """The web UI leaves tags out of the infotext of a picture that no script takes part in."""
    assert own.data is not None
    for cell in _sheet(own, prompt=CAT, x="file:lierla,c3lier", batch=1)["cells"]:
        with Image.open(own.data / "lora_ext" / "outputs" / cell["file"]) as image:
            assert str(image.info["parameters"]).splitlines()[0] == cell["prompt"] == f"{CAT} {cell['tag']}"


def test_the_model_is_left_as_it_was(own: WebUI) -> None:
    none, before = own.make(""), own.weights()
    _sheet(own, prompt=CAT, x="weight:0.3,1", lora="lierla", batch=4)
    after = own.make("")
    assert own.weights() == before and (after.pixels == none.pixels).all()

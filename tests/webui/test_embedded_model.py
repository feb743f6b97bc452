"""The embedded model, copied into the web UI's models, loads there and draws what the standalone program draws."""

from __future__ import annotations

import base64
import io
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from server import WebUI

from lora_ext.embedded import LORA_DIR
from lora_ext.generate import Settings, generate

PROMPT = "a red circle on a blue background"
SAID = {"steps": 8, "width": 64, "height": 64, "seed": 5, "cfg_scale": 3, "negative_prompt": ""}


def _far(webui: WebUI, prompt: str) -> float:
    """The mean difference, of 255, of the web UI's picture and the standalone program's."""
    body = {**SAID, "prompt": prompt, "sampler_name": "Euler", "scheduler": "Automatic", "do_not_save_samples": True}
    answer = webui.call("/sdapi/v1/txt2img", body)
    picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB")
    theirs = np.asarray(picture, dtype=int)
    (ours,) = generate(
        Settings(prompt=prompt, steps=8, seed=5, cfg=3, sampler="Euler", width=64, height=64, lora_dir=(LORA_DIR,),
                 device="cpu")
    )  # fmt: skip
    return float(np.abs(np.asarray(ours, dtype=int) - theirs).mean())


def test_a_copy_draws_what_the_standalone_program_draws(embedded_model: WebUI) -> None:
    assert "copied" in str(embedded_model.call("/sdapi/v1/options")["sd_model_checkpoint"])
    assert "Failed to create model quickly" not in embedded_model.log(), "its configuration is read at once"
    assert _far(embedded_model, PROMPT) < 2


@pytest.mark.parametrize("name", sorted(path.stem for path in LORA_DIR.glob("*.safetensors"))[:2])
def test_its_loras_act(embedded_model: WebUI, name: str) -> None:
    assert _far(embedded_model, f"{PROMPT} <lora:{name}:1>") < 3


def test_its_own_side_is_taken_for_sheets(embedded_model: WebUI) -> None:
    assert embedded_model.call("/probe/native_side") == [64, 64, 64]


def test_panels_begin_with_a_file_that_fits(embedded_model: WebUI) -> None:
    """Not with the newest one, which is for another model; the chosen checkpoint's header tells."""
    webui = embedded_model
    assert webui.data is not None
    other = webui.data / "models" / "Lora" / "other.safetensors"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{key}.lora_down.weight": torch.zeros(2, 2048), f"{key}.lora_up.weight": torch.zeros(640, 2)}, other)
    os.utime(other, (time.time() + 60, time.time() + 60))
    try:
        end = time.monotonic() + 60
        while webui.call("/lora-ext/v1/library?limit=1")["rows"][0]["title"] != "other":
            assert time.monotonic() < end
            time.sleep(0.5)
        found = webui.call("/lora-ext/v1/library/first?checkpoint=tiny-sd15.safetensors")["row"]["title"]
        assert found in {path.stem for path in LORA_DIR.glob("*.safetensors")}
    finally:
        other.unlink()

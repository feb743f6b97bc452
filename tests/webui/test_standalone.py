"""The standalone program draws what the web UI draws: prompts of every kind, embeddings, the hires pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from server import CAT, GOLDEN, REQUEST, WebUI

pytest.importorskip("diffusers")

from lora_ext.generate import Settings, generate
from lora_ext.host.standalone.loader import load_model
from lora_ext.host.standalone.model import StandaloneModel

pytestmark = pytest.mark.usefixtures("same_settings")


@pytest.fixture(scope="module")
def loras(own_files: WebUI) -> Path:
    """The web UI's LoRA folder, with a file that brings an embedding."""
    assert own_files.data is not None
    folder = own_files.data / "models" / "Lora"
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(2, 64, generator=generator) * 0.3
    save_file({"bundle_emb.qqq.string_to_param.*": vectors}, folder / "kit.safetensors")
    return folder


@pytest.fixture(scope="module")
def own_files(webui: WebUI) -> WebUI:
    if webui.data is None:
        pytest.skip("a web UI given by URL: its files stay as they are")
    return webui


@pytest.fixture(scope="module")
def model() -> StandaloneModel:
    heads = {"num_attention_heads": 4}  # what the shapes cannot tell; the web UI reads it from the hub's file
    return load_model(GOLDEN / "tiny-sd15.safetensors", device="cpu", text_config=heads)


CASES: dict[str, dict[str, Any]] = {
    "editing": {"prompt": f"{CAT} [on a mat:under a tree:2], [dawn|dusk]", "negative_prompt": "[red::0.5] (blue:1.3)"},
    "AND": {"prompt": f"{CAT} :0.7 AND a dog AND a (large:1.2) tree :-0.4"},
    "two calls a step": {"prompt": f"{CAT} [on a mat:under a tree:0.5]", "sampler_name": "Heun"},
    "embedding": {"prompt": f"{CAT}, qqq and (qqq:1.4) <lora:kit:1> <lora:lierla:0.5>"},
    "hires": {
        "prompt": f"{CAT} [on a mat:under a tree:1.5]", "width": 64, "height": 64, "enable_hr": True, "hr_scale": 2,
        "denoising_strength": 0.6, "hr_upscaler": "Latent",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_same_picture(webui: WebUI, model: StandaloneModel, loras: Path, name: str) -> None:
    wish = CASES[name]
    there = webui.make(**wish).pixels[0]
    asked = {**REQUEST, **wish}
    settings = Settings(
        prompt=asked["prompt"],
        negative_prompt=asked["negative_prompt"],
        lora_dir=(loras,),
        seed=asked["seed"],
        steps=asked["steps"],
        width=asked["width"],
        height=asked["height"],
        cfg=asked["cfg_scale"],
        sampler=asked["sampler_name"],
        hr_scale=float(asked.get("hr_scale", 1)),
        hr_strength=asked.get("denoising_strength", 0.7),
    )
    (here,) = generate(settings, model=model)
    assert abs(np.asarray(here, dtype=int) - there).max() <= 2
    plain = webui.make("", negative_prompt="", **{k: v for k, v in wish.items() if not k.endswith("prompt")}).pixels[0]
    assert abs(there - plain).max() > 4

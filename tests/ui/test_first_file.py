"""What Compare and Blocks begin with: a file that fits the model, and a prompt with its trigger words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from program import Server
from safetensors.torch import save_file
from steps import choose, ended, go

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]
USUAL = "a red circle on a blue background"


def _made_for(path: Path, dim: int, **metadata: str) -> None:
    """A file whose cross-attention takes in `dim`."""
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": torch.zeros(2, dim), f"{key}.lora_up.weight": torch.zeros(96, 2)}
    save_file(tensors, path, metadata=metadata)


def test_a_file_that_fits_and_a_prompt_with_its_trigger_word(page: Any, server: Server) -> None:
    small = {"modelspec.trigger_phrase": "with stripes", "ss_base_model_version": "sd_v1"}
    _made_for(server.data / "loras" / "small.safetensors", 128, **small)
    _made_for(server.data / "loras" / "xl.safetensors", 2048)  # the newest one, for another model
    end = time.monotonic() + 30
    while server.api("/library/first")["row"]["name"] != "small":  # the program looks at its folders now and then
        assert time.monotonic() < end
        time.sleep(0.2)
    panel = go(page, "compare")
    prompt = panel.get_by_label("Prompt", exact=True)
    panel.locator(".lx-pick b", has_text="small").wait_for()
    assert prompt.input_value() == f"{USUAL}, with stripes"

    # the prompt follows the choice, also when the page is opened again after a sheet
    panel.locator(".lx-axis input").nth(0).fill("1")
    panel.locator(".lx-axis input").nth(1).fill("1")
    panel.get_by_text("Settings", exact=True).click()
    panel.locator("input[type=number][aria-label=Steps]").fill("1")
    panel.get_by_role("button", name="Draw sheet").click()
    ended(panel)
    page.reload()
    page.wait_for_selector("#lora-ext .lx-tabs")
    panel.locator(".lx-pick b", has_text="small").wait_for()
    assert prompt.input_value() == f"{USUAL}, with stripes"
    choose(panel, "framed")
    assert prompt.input_value() == USUAL

    # what the user has written stays, and so does the prompt of a sheet of before
    prompt.fill("a cat")
    choose(panel, "small")
    assert prompt.input_value() == "a cat"
    panel.get_by_text("Earlier sheets").click()
    panel.locator("details.lx-card button", has_text="small").first.click()
    panel.get_by_label("Zoom").last.wait_for()
    assert prompt.input_value() == f"{USUAL}, with stripes"
    choose(panel, "framed")
    assert prompt.input_value() == f"{USUAL}, with stripes"

    blocks = go(page, "blocks")
    blocks.locator(".lx-pick b", has_text="small").wait_for()
    blocks.get_by_role("radio", name="off alone").click()
    assert blocks.get_by_label("Prompt", exact=True).input_value() == f"{USUAL}, with stripes"

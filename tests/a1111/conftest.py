"""A stand-in of the web UI with the extension loaded by its own entry point, once a test file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from stand_in_webui import ENTRY, StandIn, started
from torch import nn


def lora(webui: StandIn, name: str, seed: int, *, only: str = "", parts: str = "unet te", **more: torch.Tensor) -> Path:
    """A LoRA file of rank 2 for every Linear and Conv2d, by the names that kohya's tools give them.

    only: a pattern that the U-Net's layers must have in their names. more: other tensors.
    """
    from modules import sd_models

    model = sd_models.model_data.sd_model
    roots = {"unet": model.model.diffusion_model, "te": model.cond_stage_model.wrapped.transformer}
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = dict(more)
    for part in parts.split():
        for layer, module in roots[part].named_modules():
            if not isinstance(module, (nn.Linear, nn.Conv2d)):
                continue
            if part == "unet" and not re.search(only, layer):
                continue
            key, (out, *rest) = f"lora_{part}_{layer.replace('.', '_')}", module.weight.shape
            up = torch.randn(out, 2, *[1] * (len(rest) - 1), generator=generator)
            down = torch.randn(2, *rest, generator=generator)
            tensors |= {f"{key}.lora_up.weight": up * 0.3, f"{key}.lora_down.weight": down * 0.3}
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    path = webui.data / "models" / "Lora" / f"{name}.safetensors"
    save_file(tensors, path, metadata={"ss_network_module": "networks.lora"})
    return path


def state(webui: StandIn) -> dict[str, Any]:
    """Which parameters the model has, their bytes, and how many hooks: equal if and only if nothing is on it."""
    from modules import sd_models

    model, digest = sd_models.model_data.sd_model, hashlib.sha256()
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.detach().numpy().tobytes())
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    attributes = sum(len(vars(module)) for module in model.modules())
    grads = [parameter.requires_grad for parameter in model.parameters()]
    return {
        "parameters": [id(parameter) for parameter in model.parameters()], "bytes": digest.hexdigest(), "hooks": hooks,
        "attributes": attributes, "grads": grads, "training": model.training,
        "checkpoint": model.sd_checkpoint_info.name,
    }  # fmt: skip


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """With two LoRA files: `one` for the attention layers, `two` for all."""
    with started(tmp_path_factory.mktemp("webui"), ENTRY) as webui:
        lora(webui, "one", 1, only="transformer_blocks|proj_(in|out)")
        lora(webui, "two", 2)
        webui.entry.extension.library.refresh()
        yield webui


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test ends with our defaults, and leaves the model as it was: the same parameters, bytes, hooks."""
    if "webui" not in request.fixturenames:
        yield
        return
    webui: StandIn = request.getfixturevalue("webui")
    before = state(webui)
    yield
    webui.options(lora_ext_in_charge="LoRA ext", lora_ext_mode="auto", sd_lora="None")
    webui.make("")
    assert state(webui) == before

"""Switching checkpoints: between pictures, within one (refiner, hires pass), and with several kept loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from server import GOLDEN, WebUI, apart
from test_tags import curve_weights

A, B, C = "tiny-sd15.safetensors", "tiny-sd15.ckpt", "other.safetensors"
"""B has A's configuration file: its weights are loaded into the same model. C has its own: another model is made."""
TAGS = "<lora:lierla:0.8> <lora:c3lier:0.5>"
BY_STEPS = {"refiner_switch_by_sample_steps": True}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}


def _scaled(tensors: dict[str, torch.Tensor], by: float) -> dict[str, torch.Tensor]:
    """Another checkpoint of the same shape: the matrices of U-Net and text encoder times `by`."""

    def matrix(key: str, tensor: torch.Tensor) -> bool:
        return tensor.dim() > 1 and tensor.is_floating_point() and not key.startswith("first_stage")

    return {key: tensor * by if matrix(key, tensor) else tensor for key, tensor in tensors.items()}


@pytest.fixture(scope="module")
def checkpoints(webui: WebUI) -> Iterator[WebUI]:
    """A web UI with three checkpoints of different weights, the first in use."""
    if webui.data is None:
        pytest.skip("a web UI given by URL: its files stay as they are")
    folder = webui.data / "models" / "Stable-diffusion"
    tensors = load_file(GOLDEN / A)
    # the old format of torch files: the web UI refuses what a new torch writes
    torch.save({"state_dict": _scaled(tensors, 0.97)}, folder / B, _use_new_zipfile_serialization=False)
    save_file(_scaled(tensors, 1.03), folder / C)
    shutil.copyfile(GOLDEN / "tiny-sd15.yaml", folder / "other.yaml")
    webui.call("/sdapi/v1/refresh-checkpoints", {})
    webui.options(sd_model_checkpoint=A, lora_ext_in_charge="LoRA ext")
    yield webui
    webui.options(sd_model_checkpoint=A, sd_checkpoints_limit=1)
    for name in (B, C, "other.yaml"):
        (folder / name).unlink()
    webui.call("/sdapi/v1/refresh-checkpoints", {})


@pytest.fixture(params=["auto", "live"])
def mode(request: pytest.FixtureRequest, checkpoints: WebUI) -> Iterator[str]:
    checkpoints.options(lora_ext_mode=request.param)
    yield request.param
    checkpoints.options(lora_ext_mode="auto", sd_model_checkpoint=A, sd_checkpoints_limit=1)
    checkpoints.make("")


def _state(webui: WebUI) -> dict[str, Any]:
    return {key: value for key, value in webui.weights().items() if key in ("hash", "hooks", "checkpoint")}


@pytest.mark.parametrize("keep", [1, 2])
def test_back_and_forth_leaves_no_trace(checkpoints: WebUI, mode: str, keep: int) -> None:
    webui = checkpoints
    webui.options(sd_checkpoints_limit=keep)
    clean: dict[str, Any] = {}
    for name in (A, B, C):
        webui.options(sd_model_checkpoint=name)
        clean[name] = (webui.make(""), _state(webui), webui.make(TAGS))
    assert len({state["hash"] for _, state, _ in clean.values()}) == 3
    for name in (A, C, A, B, C, B, A):
        webui.options(sd_model_checkpoint=name)
        with_tags, without = webui.make(TAGS), webui.make("")
        assert apart(with_tags, clean[name][2]) == 0
        assert apart(without, clean[name][0]) == 0
        assert _state(webui) == clean[name][1]
        webui.make(TAGS)  # left on while the next one is loaded


def test_switching_while_applied_changes_nothing(checkpoints: WebUI, mode: str) -> None:
    webui = checkpoints
    webui.make("")
    state = _state(webui)
    for name in (B, C, A):
        webui.make(TAGS)
        webui.options(sd_model_checkpoint=name)
    assert _state(webui) == state


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("name", [B, C])
def test_refiner_as_with_the_builtin(checkpoints: WebUI, mode: str, name: str, keep: int) -> None:
    """A LoRA acts on the refiner too, its text encoder included."""
    webui = checkpoints
    webui.options(sd_checkpoints_limit=keep)
    more = {"refiner_checkpoint": name, "refiner_switch_at": 0.2, "steps": 6}
    first, state = webui.make(""), _state(webui)
    ours = [webui.make(TAGS, **more), webui.make(TAGS, **more)]
    nothing = webui.make("", **more)
    assert apart(ours[0], ours[1]) == 0
    assert apart(webui.make(""), first) == 0
    assert _state(webui) == state
    webui.options(lora_ext_in_charge="built-in")
    theirs = [webui.make(TAGS, **more), webui.make(TAGS, **more)]
    webui.options(lora_ext_in_charge="LoRA ext")
    assert apart(ours[0], nothing) > 2
    if name == B or keep == 2:  # making another model clears the built-in's selection in the midst of the picture
        assert apart(ours[1], theirs[1]) <= 2
    webui.make("")
    assert _state(webui) == state


@pytest.mark.parametrize("name", [B, C])
def test_a_curve_goes_on_on_the_refiner(checkpoints: WebUI, mode: str, name: str) -> None:
    """The steps are those of the whole image; a curve that jumps is the same as `start=` and `stop=`."""
    webui = checkpoints
    webui.options(sd_checkpoints_limit=2)
    more = {"refiner_checkpoint": name, "refiner_switch_at": 0.5, "steps": 6, "override_settings": BY_STEPS}
    first, state = webui.make(""), _state(webui)
    plain = webui.make("", **more)
    assert apart(plain, webui.make("", steps=6)) > 0 and "Refiner" in plain.told
    for curve, same in (("0@0,2@4 step", "2:start=4"), ("2@0,0@4 step", "2:stop=4"), ("1@0,1@1", "1")):
        made, hand = (webui.make(f"<lora:lierla:te=0:unet={text}>", **more) for text in (curve, same))
        assert apart(made, hand) <= 1 < apart(made, plain), curve
    webui.options(lora_ext_show_curve=True)
    made = webui.make("<lora:lierla:1@0,0@1>", **more)
    webui.options(lora_ext_show_curve=False)
    assert curve_weights(made) == [pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0], abs=5e-4)]
    weights = (f"te=0:unet={1 - step / 5}:start={step}:stop={step + 1}" for step in range(5))
    hand = "<lora:lierla:te=1:unet=0>" + "".join(f"<lora:lierla:{step}>" for step in weights)
    assert apart(made, webui.make(hand, **more)) <= 1
    assert apart(webui.make(""), first) == 0
    assert _state(webui) == state


@pytest.mark.parametrize("name", [B, C])
def test_hires_checkpoint_as_with_the_builtin(checkpoints: WebUI, mode: str, name: str) -> None:
    webui = checkpoints
    more = {**HIRES, "hr_checkpoint_name": name}
    first, state = webui.make(""), _state(webui)
    ours = webui.make(TAGS, **more)
    assert apart(webui.make(""), first) == 0
    assert _state(webui) == state
    webui.options(lora_ext_in_charge="built-in")
    theirs = webui.make(TAGS, **more)
    webui.options(lora_ext_in_charge="LoRA ext")
    assert apart(ours, theirs) <= 2


def test_unloaded_and_reloaded_by_the_api(checkpoints: WebUI, mode: str) -> None:
    webui = checkpoints
    state, made = _state(webui), webui.make(TAGS)
    webui.call("/sdapi/v1/unload-checkpoint", {})
    assert _state(webui) == state
    webui.call("/sdapi/v1/reload-checkpoint", {})
    assert apart(webui.make(TAGS), made) == 0

"""Our own sheets: pictures of one text in one batch, each with LoRA weights of its own, are those made by hand."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import state
from PIL import Image
from stand_in_webui import REQUEST, StandIn
from test_a1111_memory import FULL, fail, part_of

SETTINGS = {"steps": 4, "width": 64, "height": 64, "cfg": 7, "sampler": "Euler", "seed": 42}


def sheet(webui: StandIn, **asked: Any) -> dict[str, Any]:
    """The finished sheet."""
    job = webui.job("/compare", {**SETTINGS, **asked})
    assert job["state"] == "done", job
    return dict(job["result"])


def cells(webui: StandIn, made: dict[str, Any]) -> list[tuple[dict[str, Any], np.ndarray, str]]:
    """Each cell with its pixels and its infotext."""
    found = []
    for cell in made["cells"]:
        with Image.open(webui.data / "lora_ext" / "outputs" / cell["file"]) as image:
            found.append((cell, np.asarray(image.convert("RGB"), dtype=int), str(image.info["parameters"])))
    return found


SHEETS: dict[str, tuple[str, int, dict[str, str]]] = {
    "files, weights and seeds": ("a cat", 8, {"x": "file:one,two", "y": "weight:0,0.5,1", "z": "seed:42,7"}),
    "text encoder and U-Net": ("a cat, (red:1.2) <lora:one:1>", 8, {"x": "te:0,1", "y": "unet:0,0.8"}),
    "blocks and steps": ("a cat <lora:one:1>", 8, {"x": "preset:ALL,OUTALL,IND", "y": "stop:2,none"}),
    "random weights": (f"a cat <lora:one:1:lbw={','.join(['R'] * 17)}>", 4, {"x": "seed:1,2,3"}),
    "one at a time": ("a cat", 1, {"x": "file:one,two"}),
    "parts of a prompt": ("a cat AND a dog <lora:one:1>", 4, {"x": "seed:1,2"}),
    "Heun": ("a cat <lora:one:1:start=3>", 4, {"x": "seed:1,2", "sampler": "Heun"}),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SHEETS)
def test_as_by_hand(webui: StandIn, name: str) -> None:
    prompt, batch, axes = SHEETS[name]
    before = state(webui)
    made = sheet(webui, prompt=prompt, negative_prompt="blurry", batch=batch, **axes)
    assert state(webui) == before
    for cell, pixels, told in cells(webui, made):
        sampler = axes.get("sampler", "Euler")
        hand = webui.make(cell["prompt"], seed=cell["seed"], negative_prompt="blurry", sampler_name=sampler)
        assert np.abs(pixels - hand.pixels[0]).max() <= 1, cell["prompt"]
        assert f"Seed: {cell['seed']}, " in told
        if ":0>" not in cell["tag"]:  # of equal pictures only the first is drawn, with its own tag
            assert told.splitlines()[0] == cell["prompt"]
            for key in ("Lora hashes", "Lora block weights", "Lora block seed"):
                assert (f"{key}: " in told) is (key in hand.told), key
                assert str(hand.told.get(key, "")) in told


def test_the_web_ui_encodes_the_texts_of_a_batch(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forge passes the setting "Clip skip" to its model there."""
    from modules import processing

    encode, texts = processing.StableDiffusionProcessing.get_conds_with_caching, []

    def recorded(p: Any, function: Any, prompts: Any, *more: Any) -> Any:
        texts.extend(prompts)
        return encode(p, function, prompts, *more)

    monkeypatch.setattr(processing.StableDiffusionProcessing, "get_conds_with_caching", recorded)
    sheet(webui, prompt="a cow <lora:one:1>", negative_prompt="blurry", x="seed:1,2", batch=2)
    assert texts == ["blurry", "a cow"] * (len(texts) // 2) and len(texts) >= 4


@pytest.mark.long
def test_a_batch_that_memory_does_not_hold_is_halved(webui: StandIn) -> None:
    """And its half once more: four pictures, then two, then one by one."""
    for call in (1, 2):
        fail("U-Net", call, torch.cuda.OutOfMemoryError(FULL))
    made = cells(webui, sheet(webui, prompt="a cat <lora:one:1>", x="seed:11,12,13,14", batch=4))
    assert len(made) == 4
    for cell, pixels, _ in made:
        hand = webui.make(cell["prompt"], seed=cell["seed"])
        assert np.abs(pixels - hand.pixels[0]).max() <= 1


@pytest.mark.parametrize("batch", [1, 4])
def test_interrupt_stops_a_sheet(webui: StandIn, batch: int) -> None:
    from modules import script_callbacks, shared

    def stop(params: Any) -> None:
        shared.state.interrupt()

    before = state(webui)
    script_callbacks.on_cfg_denoiser(stop)
    try:
        job = webui.job("/compare", {**SETTINGS, "prompt": "a bird <lora:one:1>", "x": "seed:1,2,3", "batch": batch})
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
    assert not job["result"] or not job["result"]["complete"]
    webui.make("a cat")
    assert state(webui) == before


@pytest.mark.long
def test_a_request_from_before_does_not_interrupt_a_sheet(webui: StandIn) -> None:
    """Reload UI leaves one behind."""
    from modules import shared

    shared.state.interrupt()
    job = webui.job("/compare", {**SETTINGS, "prompt": "a bird <lora:one:1>", "x": "seed:1,2", "batch": 1})
    assert job["result"]["complete"]
    assert not shared.state.interrupted and not shared.state.job


def test_the_chosen_model_is_loaded_before_a_sheet(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forge loads it with the first image, and the user may have chosen another one since. Flux is not for us."""
    from modules import sd_models

    other = SimpleNamespace(forge_objects=None, sd_checkpoint_info=object())
    asked = {**SETTINGS, "prompt": "a bird <lora:one:1>", "x": "seed:1,2"}
    monkeypatch.setattr(
        sd_models,
        "forge_model_reload",
        lambda: monkeypatch.setattr(sd_models.model_data, "sd_model", other),
        raising=False,
    )
    job = webui.job("/compare", asked)
    assert job["state"] == "failed" and "the built-in Lora extension does now" in job["error"]


def test_an_error_leaves_nothing(webui: StandIn) -> None:
    before = state(webui)
    fail("U-Net", 3, RuntimeError("made to raise"))
    job = webui.job("/compare", {**SETTINGS, "prompt": "a fish <lora:one:1>", "x": "seed:1,2,3", "batch": 4})
    assert job["state"] == "failed" and "made to raise" in job["error"]
    assert state(webui) == before


@pytest.mark.long
def test_cells_over_reload_ui_are_made_again(webui: StandIn) -> None:
    """Reload UI takes files off the model in the midst of a batch: it is drawn once more, with them."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        begun.set()
        handle.remove()
        assert go_on.wait(60)

    handle = part_of("U-Net").register_forward_pre_hook(wait)
    asked = {**SETTINGS, "prompt": "a horse <lora:one:1>", "x": "seed:1,2,3", "batch": 4}
    job = webui.call("/compare", asked)
    assert begun.wait(60)
    webui.reload()
    go_on.set()
    made = webui.ended(job)
    assert made["state"] == "done", made
    for cell, pixels, _ in cells(webui, made["result"]):
        assert np.abs(pixels - webui.make(cell["prompt"], seed=cell["seed"]).pixels[0]).max() <= 1
    webui.reload()


@pytest.mark.long
def test_a_picture_waits_for_its_turn(webui: StandIn) -> None:
    none = webui.make("a cat <lora:one:1>")
    job = webui.call("/compare", {**SETTINGS, "prompt": "a cow", "lora": "one", "x": "weight:0.3,0.6", "batch": 2})
    time.sleep(0.05)
    assert np.array_equal(webui.make("a cat <lora:one:1>").pixels, none.pixels)
    assert webui.ended(job)["state"] == "done"


def test_without_a_size_the_models_own_side_is_taken(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setattr(type(shared.sd_model), "image_size", 16, raising=False)
    asked = {name: value for name, value in SETTINGS.items() if name not in ("width", "height")}
    job = webui.job("/compare", {**asked, "width": 0, "height": 0, "prompt": "a cat", "x": "seed:1,2"})
    assert job["state"] == "done", job
    assert {pixels.shape for _, pixels, _ in cells(webui, job["result"])} == {(128, 128, 3)}


def test_sheets_need_us_to_apply_tags(webui: StandIn) -> None:
    webui.options(lora_ext_in_charge="built-in")
    with pytest.raises(AssertionError, match="the built-in Lora extension does now"):
        webui.call("/compare", {**SETTINGS, "prompt": "a cat", "x": "seed:1,2"})


def test_without_a_model(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The web UI could not load the chosen one."""
    from modules import sd_models

    monkeypatch.setattr(sd_models.model_data, "sd_model", None)
    monkeypatch.setattr(sd_models, "load_model", lambda: None)
    job = webui.job("/compare", {**SETTINGS, "prompt": "a cat", "x": "seed:1,2"})
    monkeypatch.undo()
    assert job["state"] == "failed" and "no model is loaded" in job["error"]


def test_the_requests_are_alike() -> None:
    """What is compared above is made with the same settings."""
    pairs = {"steps": "steps", "width": "width", "height": "height", "cfg": "cfg_scale", "sampler": "sampler_name"}
    assert all(SETTINGS[ours] == REQUEST[theirs] for ours, theirs in pairs.items())

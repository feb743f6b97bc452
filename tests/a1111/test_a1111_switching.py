"""Checkpoints change: between pictures and within one; no model keeps anything, each gets what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import state
from PIL import Image
from stand_in_webui import StandIn
from test_a1111_tags import HIRES, apart
from webui_contract import FIRST, OWN_CONFIG, SAME_CONFIG

TAG = "a cat <lora:one:1>"


def untouched(sd_model: Any) -> bool:
    """Whether a model's weights are those of its checkpoint, and no hook of ours is on it."""
    from modules import sd_models

    fresh = sd_models.LatentDiffusion(sd_model.sd_checkpoint_info)
    same = all(torch.equal(a, b) for a, b in zip(sd_model.parameters(), fresh.parameters(), strict=True))

    def hooks(model: Any) -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    return same and hooks(sd_model) == hooks(fresh)


@pytest.fixture(params=["live", "baked"])
def chosen(request: pytest.FixtureRequest, webui: StandIn) -> Iterator[StandIn]:
    """In both modes; afterwards the first checkpoint is in use, in a model of its own."""
    from modules import sd_models

    webui.options(lora_ext_mode=request.param)
    yield webui
    webui.make("")
    assert all(untouched(model) for model in sd_models.model_data.loaded_sd_models)
    webui.options(sd_checkpoints_limit=1, sd_model_checkpoint=FIRST)
    del sd_models.model_data.loaded_sd_models[1:]


@pytest.fixture(autouse=True)
def nothing_left(webui: StandIn) -> Iterator[None]:
    """Models come and go here: what is compared is their weights, see `chosen`."""
    yield
    webui.options(lora_ext_mode="auto")


@pytest.mark.long
@pytest.mark.parametrize("name", [SAME_CONFIG, OWN_CONFIG])
@pytest.mark.parametrize("kept", [1, 2])
def test_between_pictures(chosen: StandIn, name: str, kept: int) -> None:
    from modules import sd_models

    first = chosen.make(TAG)
    chosen.options(sd_checkpoints_limit=kept, sd_model_checkpoint=name)
    assert all(untouched(model) for model in sd_models.model_data.loaded_sd_models), "the old one and the new one"
    other = chosen.make(TAG)
    assert apart(first, other) > 3 and state(chosen)["checkpoint"] == name
    assert apart(other, chosen.make("a cat")) > 3
    assert untouched(sd_models.model_data.sd_model)
    chosen.options(sd_model_checkpoint=FIRST)
    assert apart(chosen.make(TAG), first) == 0


@pytest.mark.long
def test_a_refiner_gets_the_files_too(chosen: StandIn) -> None:
    """From the half on another model draws: with its own checkpoint it is the picture of that half."""
    from modules import sd_models

    chosen.options(sd_checkpoints_limit=2)
    refined = chosen.make(TAG, refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    refiner = sd_models.model_data.sd_model
    assert refiner.sd_checkpoint_info.name == OWN_CONFIG and not untouched(refiner)
    assert sum(not untouched(model) for model in sd_models.model_data.loaded_sd_models) == 1
    plain = chosen.make("a cat", refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    assert apart(refined, plain) > 3
    late = chosen.make("a cat <lora:one:1:start=3>", refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    assert apart(late, plain) > 0, "what begins after the switch acts on the refiner"
    chosen.options(lora_ext_show_curve=True)
    curve = chosen.make("a cat <lora:one:0@0,0.9@1>", steps=4, refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    chosen.options(lora_ext_show_curve=False)
    assert "one: weight at each of 4 U-Net calls ▁▃▆█ 0, 0.3, 0.6, 0.9" in curve.comments, "the pass goes on"


@pytest.mark.long
def test_sheets_and_training_after_a_refiner_take_the_chosen_checkpoint(chosen: StandIn) -> None:
    """The refiner's model stays in use after its image."""
    from modules import call_queue

    chosen.options(sd_checkpoints_limit=2)
    hand = chosen.make(TAG)
    chosen.make(TAG, refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    asked = {"prompt": TAG, "x": "seed:42,43", "steps": 4, "width": 64, "height": 64, "cfg": 7, "sampler": "Euler"}
    job = chosen.job("/compare", asked)
    assert job["state"] == "done", job
    with Image.open(chosen.data / "lora_ext" / "outputs" / job["result"]["cells"][0]["file"]) as image:
        assert np.abs(np.asarray(image.convert("RGB"), dtype=int) - hand.pixels[0]).max() <= 1
        assert f"Model: {FIRST.partition('.')[0]}" in str(image.info["parameters"])
    chosen.make(TAG, refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    opened = chosen.module("training_session").open_training_session
    with call_queue.queue_lock, opened(chosen.entry.extension.remove_all) as model:
        assert model.sd_model.sd_checkpoint_info.name == FIRST


@pytest.mark.long
def test_a_hires_pass_with_another_checkpoint(chosen: StandIn) -> None:
    chosen.options(sd_checkpoints_limit=2)
    more: dict[str, Any] = {**HIRES, "hr_checkpoint_name": OWN_CONFIG}
    both, first, none = (
        chosen.make(prompt, hr_prompt=hires, **more)
        for prompt, hires in ((TAG, TAG), (TAG, "a cat"), ("a cat", "a cat"))
    )
    assert apart(both, first) > 0 and apart(first, none) > 0


def test_weights_are_loaded_into_the_model_while_a_file_is_on_it(chosen: StandIn) -> None:
    """Forced, as by the setting "FP8 weight": what is on the model is gone before its weights are overwritten."""
    from modules import sd_models

    chosen.make(TAG)
    sd_models.reload_model_weights(forced_reload=True)
    assert untouched(sd_models.model_data.sd_model)


def test_the_other_model_could_not_take_the_files(chosen: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not go onto the refiner is told; the picture is drawn to its end."""
    from modules import sd_models

    chosen.options(sd_checkpoints_limit=2)
    models = chosen.entry.extension.models
    apply = models.apply
    try:

        def refuse(sd_model: Any) -> Any:
            if sd_model.sd_checkpoint_info.name == OWN_CONFIG:
                raise RuntimeError("made to raise")
            return apply(sd_model)

        models.apply = refuse
        made = chosen.make(TAG, refiner_checkpoint=OWN_CONFIG, refiner_switch_at=0.5)
    finally:
        del models.apply
    assert len(made.images) == 1 and "nothing is applied: made to raise" in capsys.readouterr().out
    assert all(untouched(model) for model in sd_models.model_data.loaded_sd_models)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["auto", "baked", "live"])
def test_the_way_of_applying_follows_the_model(webui: StandIn, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that move between devices (--medvram) or are stored in fp8 are not baked by `auto`, fp8 never."""
    from modules import devices, shared

    webui.options(lora_ext_mode=mode)
    original = shared.sd_model.model.diffusion_model.output_blocks[3][1].proj_in.weight

    def baked() -> bool:
        webui.make(TAG)
        return shared.sd_model.model.diffusion_model.output_blocks[3][1].proj_in.weight is not original

    assert baked() is (mode != "live")
    monkeypatch.setattr(shared.sd_model, "lowvram", True, raising=False)
    assert baked() is (mode == "baked")
    monkeypatch.undo()
    monkeypatch.setattr(devices, "fp8", True)
    assert not baked()
    monkeypatch.undo()
    webui.make("a cat")
    assert untouched(shared.sd_model)

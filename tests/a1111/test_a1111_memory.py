"""Memory that runs out while a picture is made, and other errors at each step: nothing stays applied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import state
from stand_in_webui import StandIn
from test_a1111_tags import HIRES, apart
from torch import nn

TAG = "a cat <lora:one:1>"
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


def part_of(name: str) -> torch.nn.Module:
    from modules import shared

    found: torch.nn.Module = {
        "U-Net": shared.sd_model.model.diffusion_model,
        "decoder": shared.sd_model.first_stage_model.decoder,
        "encoder": shared.sd_model.first_stage_model.encoder,
        "text encoder": shared.sd_model.cond_stage_model,
    }[name]
    return found


def fail(name: str, call: int, error: BaseException) -> None:
    """The call number `call` of a part of the model raises, once."""
    count = 0

    def raising(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == call:
            handle.remove()
            raise error

    handle = part_of(name).register_forward_pre_hook(raising)


def forget(webui: StandIn) -> None:
    """What has gone live because memory ran out stays so until the mode changes."""
    webui.options(lora_ext_mode="live")
    webui.make(TAG)
    webui.options(lora_ext_mode="auto")


CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sampling": ("U-Net", 2, {}),
    "the second batch": ("U-Net", 6, {"batch_size": 2, "n_iter": 2}),
    "the hires pass": ("U-Net", 6, HIRES),
    "decoding": ("decoder", 1, {}),
    "a sampler that draws noise at each step": ("U-Net", 3, {"sampler_name": "Euler a"}),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_made_again_with_everything_live(webui: StandIn, name: str) -> None:
    part, call, more = CASES[name]
    wanted = webui.make(TAG, **more)
    original = part_of("U-Net").output_blocks[3][1].proj_in.weight  # type: ignore[index, union-attr]
    fail(part, call, torch.cuda.OutOfMemoryError(FULL))
    made = webui.make(TAG, **more)
    assert part_of("U-Net").output_blocks[3][1].proj_in.weight is not original  # type: ignore[index, union-attr]
    assert apart(made, wanted) <= 3
    assert "memory ran out while" in made.comments and "live from now on" in made.comments
    assert "ran out" not in webui.make(TAG, **more).comments and "ran out" not in wanted.comments
    forget(webui)


@pytest.mark.long
def test_image_to_image_too(webui: StandIn) -> None:
    more: dict[str, Any] = {"kind": "Img2Img", "init_images": list(webui.make("a cat").images)}
    wanted = webui.make(TAG, **more)
    fail("U-Net", 2, torch.cuda.OutOfMemoryError(FULL))
    made = webui.make(TAG, **more)
    assert apart(made, wanted) <= 3 and "live from now on" in made.comments
    forget(webui)


def test_baked_on_purpose_says_what_it_holds(webui: StandIn) -> None:
    webui.options(lora_ext_mode="baked")
    wanted = webui.make(TAG)
    fail("U-Net", 2, torch.cuda.OutOfMemoryError(FULL))
    with pytest.raises(Exception, match=r"baked LoRAs hold .*iB, modes live and auto hold nothing"):
        webui.make(TAG)
    assert apart(webui.make(TAG), wanted) == 0


def test_without_a_tag_the_web_ui_is_on_its_own(webui: StandIn) -> None:
    fail("U-Net", 2, torch.cuda.OutOfMemoryError(FULL))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        webui.make("a cat")


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "part", "call", "error"),
    [
        ("live", "text encoder", 1, RuntimeError),
        ("baked", "text encoder", 2, KeyboardInterrupt),
        ("live", "U-Net", 3, KeyboardInterrupt),
        ("baked", "U-Net", 3, RuntimeError),
        ("baked", "decoder", 1, RuntimeError),
    ],
)
def test_an_error_at_any_step_leaves_the_next_picture_as_it_was(
    webui: StandIn, mode: str, part: str, call: int, error: type[BaseException]
) -> None:
    webui.options(lora_ext_mode=mode)
    before, none, tagged = state(webui), webui.make("a dog"), webui.make("a dog <lora:one:1>")
    webui.make("a dog")
    fail(part, call, error("made to raise"))
    with pytest.raises(error, match="made to raise"):
        webui.make(TAG)
    assert apart(webui.make("a dog"), none) == 0 and state(webui) == before
    assert apart(webui.make("a dog <lora:one:1>"), tagged) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "owner", "name"), [("live", nn.Module, "register_forward_hook"), ("baked", nn, "Parameter")]
)
@pytest.mark.parametrize("layers", [0, 40])
def test_applying_fails_half_way(
    webui: StandIn, mode: str, owner: Any, name: str, layers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `layers` layers: nothing is applied, that is told, and the picture is the one without a tag."""
    webui.options(lora_ext_mode=mode)
    before, none = state(webui), webui.make("a cat")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, _counted(getattr(owner, name), layers))
        made = webui.make(TAG)
    assert "nothing is applied: made to raise" in made.comments
    assert "made to raise" in capsys.readouterr().err
    assert apart(made, none) == 0 and state(webui) == before


def _counted(function: Any, calls: int) -> Any:
    """A function that raises once after so many calls."""
    count = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls + 1:
            raise RuntimeError("made to raise")
        return function(*args, **kwargs)

    return counted


def test_a_callback_that_fails_is_told_and_the_picture_goes_on(
    webui: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(*_: Any) -> None:
        raise RuntimeError("made to raise")

    monkeypatch.setattr(webui.entry.extension.models, "at_step", raising)
    made = webui.make(TAG)
    assert len(made.images) == 1 and "made to raise" in capsys.readouterr().err


def test_interrupt_gives_what_there_is(webui: StandIn) -> None:
    from modules import script_callbacks, shared

    def stop(params: Any) -> None:
        if params.denoiser.step == 1:
            shared.state.interrupt()

    before, whole = state(webui), webui.make(TAG)
    script_callbacks.on_cfg_denoiser(stop)
    made = webui.make(TAG, n_iter=2)
    script_callbacks.remove_callbacks_for_function(stop)
    assert len(made.images) == 1 and apart(made, whole) > 0
    webui.make("a cat")
    assert state(webui) == before

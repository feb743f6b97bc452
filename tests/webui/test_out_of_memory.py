"""Memory that runs out while the web UI draws: in sampling, in the hires pass, in decoding."""

from __future__ import annotations

import pytest
from server import WebUI, apart
from test_features import HIRES

pytestmark = pytest.mark.usefixtures("same_settings")
TAG = "<lora:lierla:0.8>"


def forget(webui: WebUI) -> None:
    """What has gone live because memory ran out stays so until the mode changes."""
    webui.options(lora_ext_mode="live")
    webui.make(TAG)
    webui.options(lora_ext_mode="auto")


@pytest.mark.parametrize(
    ("part", "call", "more"),
    [
        ("unet", 2, {}),
        ("unet", 2, {"batch_size": 2, "n_iter": 2}),
        ("unet", 6, HIRES),
        ("decoder", 1, {}),
        ("unet", 2, {"sampler_name": "Euler a"}),
    ],
)
def test_the_picture_is_drawn_again_with_everything_live(
    own: WebUI, part: str, call: int, more: dict[str, object]
) -> None:
    wanted = own.make(TAG, **more)
    assert own.call("/probe/way")["live"] == 0
    own.call(f"/probe/out-of-memory?part={part}&call={call}", {})
    made = own.make(TAG, **more)
    way = own.call("/probe/way")
    assert way["baked"] == 0 and way["live"] > 0
    assert apart(made, wanted) <= 3
    assert "memory ran out while" in made.comments and "live from now on" in made.comments
    assert "ran out" not in own.make(TAG, **more).comments and "ran out" not in wanted.comments
    forget(own)


def test_image_to_image_too(own: WebUI) -> None:
    first = own.make("")
    more = {"init_images": [first.images[0]], "denoising_strength": 0.7}
    wanted = own.make(TAG, **more)
    own.call("/probe/out-of-memory?part=unet&call=2", {})
    made = own.make(TAG, **more)
    assert apart(made, wanted) <= 3 and "live from now on" in made.comments
    forget(own)


def test_baked_is_one_sentence_and_the_next_picture_is_as_before(own: WebUI) -> None:
    own.options(lora_ext_mode="baked")
    wanted = own.make(TAG)
    own.call("/probe/out-of-memory?part=unet&call=2", {})
    with pytest.raises(AssertionError, match=r"baked LoRAs hold .*iB, modes live and auto hold nothing"):
        own.make(TAG)
    assert apart(own.make(TAG), wanted) == 0
    own.options(lora_ext_mode="auto")

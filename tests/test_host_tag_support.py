"""What of a tag does not act where another program applies it."""

from __future__ import annotations

import pytest

from lora_ext.host.a1111.tag_support import ignored_parts_message, parts_for_builtin, unknown_parts


@pytest.mark.parametrize(
    ("tag", "also", "parts"),
    [
        ("cat", (), []),
        ("cat:0.8:0.5:8", (), []),
        ("cat:te=0.3:unet=0.9:dyn=8", (), []),
        ("cat:te=0.3:unet=0.9:dyn=8", ("dyn",), ["dyn=8"]),
        ("cat:0.8:lbw=IND", (), ["lbw=IND"]),
        ("cat:0.8:lbw=1,0,0:step=3-5:x=0.5", (), ["lbw=1,0,0", "step=3-5", "x=0.5"]),
        ("cat:1:start=2:stop=0.5", (), ["start=2", "stop=0.5"]),
        ("cat:1:lbwe=IN05-OUT05:attn:0", (), ["lbwe=IN05-OUT05", "attn"]),
        ("cat:1:FACE", (), ["FACE"]),
        ("cat:1:1,0,0,1", (), ["1,0,0,1"]),
        ("cat:1: ", (), []),
        ("cat:abc:unet=high:te=0.5", (), ["abc", "unet=high"]),
    ],
)
def test_parts(tag: str, also: tuple[str, ...], parts: list[str]) -> None:
    assert unknown_parts(tag.split(":"), also) == parts


def test_ignored_parts_message_names_tag_and_owner() -> None:
    text = ignored_parts_message(["cat", "1", "lbw=IND"], ["lbw=IND"], "sd-webui-loractl")
    assert text == "<lora:cat:1:lbw=IND>: lbw=IND has no effect: sd-webui-loractl applies LoRA tags here, not LoRA ext"
    assert len(ignored_parts_message(["cat", "1" * 500], ["x"], "y")) < 200


@pytest.mark.parametrize(
    ("tag", "rest"),
    [
        ("cat:0.8:0.5:8", "cat:0.8:0.5:8"),
        ("cat", "cat"),
        ("cat:1:FACE", "cat:1"),
        ("cat:1: ", "cat:1"),
        ("cat:te=0.3:unet=high:dyn=8:lbw=IND", "cat:te=0.3"),
        ("cat:loud:lbwe=IN05-OUT05:attn:0:te=2", "cat:te=2"),
    ],
)
def test_what_is_left_for_the_built_in_extension(tag: str, rest: str) -> None:
    assert ":".join(parts_for_builtin(tag.split(":"), ("dyn",))) == rest

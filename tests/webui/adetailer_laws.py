"""What must hold where ADetailer draws a part of each picture again, with tags of its own.

The probe puts a box in the middle of the picture in the place of ADetailer's face detection, whose model is not
there; all else is ADetailer's.
"""

from __future__ import annotations

from typing import Any

from server import CAT, WebUI, apart

ALIKE = 2
"""How far two pictures may be apart that were made by two ways of applying a file."""


def detailed(prompt: str = "") -> dict[str, Any]:
    """A request with ADetailer; without a prompt it takes the picture's."""
    given = {"ad_model": "mediapipe_face_full", "ad_prompt": prompt, "ad_denoising_strength": 0.7}
    return {"alwayson_scripts": {"ADetailer": {"args": [True, False, given]}}}


def check_tags_in_adetailer(webui: WebUI, one: str, other: str, **size: Any) -> None:
    """Asserts that tags act in both prompts as the built-in's, and that nothing is left of either.

    Args:
        webui: one with ADetailer.
        one: a LoRA file.
        other: another.
        size: of each picture, and its steps.
    """
    webui.call("/probe/adetailer-box", {})
    clean = webui.make("", **size)
    plain = webui.make("", **size, **detailed())
    inside = slice(clean.pixels.shape[1] // 4, -clean.pixels.shape[1] // 4)
    assert abs(plain.pixels - clean.pixels)[:, inside, inside].max() > 5, "ADetailer did not draw"
    tag, inner = f"<lora:{one}:0.8>", f"{CAT} <lora:{other}:0.8>"
    for prompt, own, count in ((tag, "", 1), (tag, CAT, 1), (tag, inner, 2), ("", inner, 2)):
        several = {**size, "n_iter": count}  # the second picture comes after the first one's details
        made = webui.make(prompt, **several, **detailed(own))
        assert apart(webui.make("", **size), clean) == 0, (prompt, own)
        webui.options(lora_ext_in_charge="built-in")
        theirs = webui.make(prompt, **several, **detailed(own))
        webui.options(lora_ext_in_charge="LoRA ext")
        assert len(made.pixels) == count and apart(made, theirs) <= ALIKE, (prompt, own)
        assert f"{one}:" in str(made.told.get("Lora hashes", "")) or not prompt
    asked = ("0.8:0", "0.8:start=99", "0.8", "0.8:step=0-99", "0.8@0,0.8@1")
    te_only, late, full, *same = (webui.make(tag, **size, **detailed(f"{CAT} <lora:{other}:{text}>")) for text in asked)
    assert apart(late, te_only) <= 1
    assert max(apart(made, full) for made in same) <= 1
    more = {**size, "steps": 3}  # the second of two steps changes next to nothing
    whole, ends = (
        webui.make("", **more, **detailed(f"{CAT} <lora:{other}:te=0:unet=4{end}>")) for end in ("", ":stop=1")
    )
    assert apart(whole, ends) > 1
    assert apart(webui.make("", **size, **detailed()), plain) == 0
    assert apart(webui.make("", **size), clean) == 0

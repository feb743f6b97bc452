"""Our pictures against the built-in extension's, made in the same run by switching the setting."""

from __future__ import annotations

from typing import Any

import pytest
from server import IN_FORGE, Made, WebUI, apart

HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("", {}),
    "lierla": ("<lora:lierla:0.8>", {}),
    "c3lier": ("<lora:c3lier:0.8>", {}),
    "both": ("<lora:lierla:0.5> <lora:c3lier:0.7>", {}),
    "separate weights": ("<lora:lierla:0.3:0.9>", {}),
    "named weights": ("<lora:lierla:te=0.2:unet=0.7>", {}),
    "dyn": ("<lora:lierla:1:1:4>", {}),
    "negative": ("<lora:lierla:-0.6>", {}),
    "strong": ("<lora:lierla:1.7>", {}),
    "hires": ("<lora:lierla:0.8>", HIRES),
    "hires prompt": ("<lora:lierla:0.8>", {**HIRES, "hr_prompt": "a cat <lora:c3lier:0.6>"}),
    "batch": ("<lora:lierla:0.8>", {"batch_size": 2}),
    "two batches": ("<lora:lierla:0.8>", {"n_iter": 2}),
    "lyco": ("<lyco:lierla:0.8>", {}),
    "lora and lyco": ("<lyco:lierla:0.5> <lora:c3lier:0.7>", {}),
    "other sampler": ("<lora:lierla:0.8>", {"sampler_name": "Heun"}),
    "DDIM": ("<lora:lierla:0.8>", {"sampler_name": "DDIM"}),
    "img2img": ("<lora:lierla:0.8>", {"denoising_strength": 0.75}),
    "none again": ("", {}),
}


if IN_FORGE:  # whose own extension has no <lyco:…>
    CASES = {name: case for name, case in CASES.items() if "lyco" not in case[0]}


def _all(webui: WebUI) -> dict[str, Made]:
    made: dict[str, Made] = {}
    for name, (prompt, more) in CASES.items():
        more = {**more, "init_images": [made["none"].images[0]]} if name == "img2img" else more
        made[name] = webui.make(prompt, **more)
    return made


@pytest.fixture(scope="module")
def pairs(webui: WebUI) -> tuple[dict[str, Made], dict[str, Made]]:
    """(ours, the built-in's) of every case."""
    webui.options(lora_ext_in_charge="built-in")
    assert webui.call("/probe/registry")["lora"] == "extra_networks_lora"
    theirs = _all(webui)
    webui.make("<lora:c3lier:0.4>")  # left on the model: taking over has to take it off
    webui.options(lora_ext_in_charge="LoRA ext")
    registry = webui.call("/probe/registry")
    assert registry["lora"] == registry["lyco"] == "sd_webui_lora_ext.host.a1111.tag_owner"
    return _all(webui), theirs


@pytest.mark.parametrize("name", CASES)
def test_same_picture(
    pairs: tuple[dict[str, Made], dict[str, Made]], name: str, record_testsuite_property: Any
) -> None:
    ours, theirs = (made[name] for made in pairs)
    record_testsuite_property(f"{name}: greatest difference of 255", apart(ours, theirs))
    assert apart(ours, theirs) <= 2
    if "none" not in name:
        assert ours.pixels.shape != pairs[0]["none"].pixels.shape or apart(ours, pairs[0]["none"]) > 2


@pytest.mark.parametrize("name", CASES)
def test_same_infotext(pairs: tuple[dict[str, Made], dict[str, Made]], name: str) -> None:
    ours, theirs = (made[name] for made in pairs)
    assert ours.told.get("Lora hashes") == theirs.told.get("Lora hashes")
    assert ours.info["infotexts"] == theirs.info["infotexts"]


def test_none_is_none_bit_for_bit(pairs: tuple[dict[str, Made], dict[str, Made]]) -> None:
    ours, theirs = pairs
    assert apart(ours["none"], ours["none again"]) == 0
    assert apart(ours["none"], theirs["none"]) == 0


def test_back_and_forth_leaves_the_weights(webui: WebUI) -> None:
    webui.make("")
    before = webui.weights()
    for who in ("built-in", "LoRA ext") * 2:
        webui.options(lora_ext_in_charge=who)
        webui.make("<lora:lierla:0.8> <lora:c3lier:0.3>")
    assert webui.weights()["hash"] != before["hash"]
    webui.make("")
    assert webui.weights() == before


def test_a_request_may_ask_for_the_builtin(webui: WebUI) -> None:
    ours = webui.make("<lora:lierla:0.8:lbw=NONE>")
    theirs = webui.make("<lora:lierla:0.8>", override_settings={"lora_ext_in_charge": "built-in"})
    assert apart(ours, theirs) > 2
    assert apart(ours, webui.make("<lora:lierla:0.8:lbw=NONE>")) == 0
    assert apart(webui.make("<lora:lierla:0.8>"), theirs) <= 2

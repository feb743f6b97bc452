"""Tags that act on one AND part alone, or not on the negative prompt, in the real web UI."""

from __future__ import annotations

import pytest
from server import CAT, WebUI, apart

pytestmark = pytest.mark.usefixtures("same_settings")
TAG = "<lora:lierla:0.8>"
OWN = "<lora:lierla:0.8:part=own>"


def test_a_part_of_weight_0_has_no_effect_with_its_file_and_the_other_keeps_its_own(webui: WebUI) -> None:
    """u + cfg·(1·(c − u) + 0·(d − u)): what is left is the part with weight 1, and a negative prompt without files."""
    without = webui.make("")
    everywhere, no_negative = webui.make(TAG), webui.make(f"{TAG[:-1]}:neg=0>")
    first = webui.make(f"{CAT} {OWN} AND a dog :0")
    assert apart(first, no_negative) <= 1 and apart(first, everywhere) > 2 and apart(first, without) > 2
    second = webui.make(f"{CAT} AND a dog {OWN} :0")
    assert apart(second, without) <= 1 and not second.comments


def test_all_parts_are_the_default_and_can_be_asked_for(webui: WebUI) -> None:
    both = webui.make(f"{CAT} {TAG} AND a dog")
    assert apart(both, webui.make(f"{CAT} AND a dog {TAG}")) == 0
    own = webui.make(f"{CAT} {OWN} AND a dog")
    assert apart(own, both) > 2
    webui.options(lora_ext_and_parts="own part")
    try:
        by_setting = webui.make(f"{CAT} {TAG} AND a dog")
        common = webui.make(f"{CAT} {TAG[:-1]}:common> AND a dog")
    finally:
        webui.options(lora_ext_and_parts="all parts")
    assert apart(by_setting, own) == 0 and by_setting.told["Lora AND"] == "own part"
    assert apart(common, both) == 0


def test_nothing_is_left(webui: WebUI) -> None:
    plain = webui.make(f"{CAT} AND a dog")
    webui.make(f"{CAT} {OWN} AND a dog", enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.6)
    assert apart(webui.make(f"{CAT} AND a dog"), plain) == 0

"""Block weights in the infotext, and an infotext pasted."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest
from server import IN_FORGE, WebUI, apart

pytestmark = pytest.mark.usefixtures("same_settings")


def _pasted(webui: WebUI, image: str) -> dict[str, Any]:
    return dict(webui.call("/sdapi/v1/png-info", {"image": f"data:image/png;base64,{image}"})["parameters"])


@pytest.mark.parametrize("values", ["R", "U"])
def test_drawn_weights_are_remade_from_the_infotext(webui: WebUI, values: str) -> None:
    drawn = ",".join([values] * 17)
    made = webui.make(f"<lora:lierla:0.8:lbw={drawn}> <lora:c3lier:0.5>")
    again = webui.make(f"<lora:lierla:0.8:lbw={drawn}> <lora:c3lier:0.5>")
    other = webui.make(f"<lora:lierla:0.8:lbw={drawn}> <lora:c3lier:0.5>", seed=43)
    assert apart(made, again) == 0
    assert made.told["Lora block seed"] == 42
    rows = [result.told["Lora block weights"] for result in (made, other)]
    assert rows[0] != rows[1]
    pasted = _pasted(webui, made.images[0])
    assert values not in re.search(r"lbw=([^:>]*)", pasted["Prompt"])[1]  # type: ignore[index]
    assert pasted["Lora block weights"] == rows[0]
    remade = webui.make(pasted["Prompt"])
    assert apart(made, remade) == 0


def test_a_drawn_weight_of_the_text_encoder_is_drawn_anew_for_another_seed(webui: WebUI) -> None:
    prompt = f"<lora:lierla:1:0:lbw={','.join(['R'] + ['0'] * 16)}>"
    one, two = (webui.make(prompt, seed=seed) for seed in (1, 2))
    weight = one.told["Lora block weights"].split(":")[1].split(",")[0].strip()
    assert apart(webui.make(f"<lora:lierla:{weight}:0>", seed=1), one) <= 1
    weight = two.told["Lora block weights"].split(":")[1].split(",")[0].strip()
    assert apart(webui.make(f"<lora:lierla:{weight}:0>", seed=2), two) <= 1


def test_infotext_without_block_weights_says_nothing_new(webui: WebUI) -> None:
    assert "Lora block" not in webui.make("<lora:lierla:0.8>").info["infotexts"][0]


def test_fixed_block_weights_stay_as_they_were_written(webui: WebUI) -> None:
    made = webui.make("<lora:lierla:0.8:lbw=IND> <lora:c3lier:0.5:lbwe=IN05-OUT05:attn:0>")
    assert made.told["Lora block weights"] == (
        "lierla: 1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0; "
        "c3lier: - IN05 IN06 IN07 IN08 IN09 IN10 IN11 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05:attn:0"
    )
    pasted = _pasted(webui, made.images[0])
    assert pasted["Prompt"] == "a photo of a cat <lora:lierla:0.8:lbw=IND> <lora:c3lier:0.5:lbwe=IN05-OUT05:attn:0>"


def test_a_preset_that_changed_since_is_pasted_as_numbers(own: WebUI) -> None:
    assert own.data is not None
    presets = own.data / "lora_ext" / "presets.txt"
    presets.parent.mkdir(exist_ok=True)
    presets.write_text(f"FACE:{','.join(['1', '0.25'] * 8 + ['1'])}\n")
    made = own.make("<lora:lierla:0.8:lbw=FACE>")
    assert "FACE" in _pasted(own, made.images[0])["Prompt"]
    presets.write_text(f"FACE:{','.join(['0.5'] * 17)}\n")
    assert apart(made, own.make("<lora:lierla:0.8:lbw=FACE>")) > 2
    pasted = _pasted(own, made.images[0])["Prompt"]
    assert "lbw=1,0.25,1" in pasted
    assert apart(made, own.make(pasted)) == 0
    presets.unlink()


def test_the_other_extensions_presets_are_read(own: WebUI) -> None:
    assert own.data is not None
    folder = own.data / "extensions" / "sd-webui-lora-block-weight" / "scripts"
    folder.mkdir(parents=True)
    (folder / "lbwpresets.txt").write_text(f"MINE:{','.join(['0.5'] * 17)}\n")
    (folder / "elempresets.txt").write_text("NOATTN:IN00-OUT11:attn ff proj:0\n")
    assert apart(own.make("<lora:lierla:0.8:lbw=MINE>"), own.make("<lora:lierla:0.4>")) <= 1
    assert apart(own.make("<lora:lierla:0.8:lbwe=NOATTN>"), own.make("<lora:lierla:0.8:0>")) == 0
    shutil.rmtree(folder.parent)


def test_hash_in_the_infotext_finds_the_file_under_another_name(own: WebUI) -> None:
    assert own.data is not None
    loras = own.data / "models" / "Lora"
    made = own.make("<lora:lierla:0.8:lbw=IND>")
    own.options(lora_preferred_name="Filename")
    (loras / "lierla.safetensors").rename(loras / "renamed.safetensors")
    try:
        own.call("/sdapi/v1/refresh-loras", {})
        if IN_FORGE:  # it knows the hashes of files that were used, or that have it in their metadata
            own.make("<lora:renamed:1>")
        pasted = _pasted(own, made.images[0])["Prompt"]
        assert pasted == "a photo of a cat <lora:renamed:0.8:lbw=IND>"
        assert apart(made, own.make(pasted)) == 0
    finally:
        (loras / "renamed.safetensors").rename(loras / "lierla.safetensors")
        own.call("/sdapi/v1/refresh-loras", {})

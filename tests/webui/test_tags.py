"""What tags do beyond the built-in's: block weights, steps, errors, infotext, modes, files that change."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from server import GOLDEN, WebUI, apart

HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
ONES = ",".join(["1"] * 17)
ZEROS = ",".join(["0"] * 17)
UNET_OFF = ",".join(["1"] + ["0"] * 25)


@pytest.fixture(autouse=True)
def same_settings(webui: WebUI) -> Any:
    """Every test begins and ends with our defaults and with nothing applied."""
    defaults = {"lora_ext_in_charge": "LoRA ext", "lora_ext_mode": "auto", "sd_lora": "None"}
    webui.options(**defaults)
    yield
    webui.options(**defaults)
    webui.make("")


EQUAL = {
    "all ones": (f"<lora:lierla:0.8:lbw={ONES}>", "<lora:lierla:0.8>"),
    "ALL": ("<lora:lierla:0.8:lbw=ALL>", "<lora:lierla:0.8>"),
    "all zeros": (f"<lora:lierla:0.8:lbw={ZEROS}>", ""),
    "NONE": ("<lora:lierla:0.8:lbw=NONE>", ""),
    "weight 0": ("<lora:lierla:0>", ""),
    "half a block vector": ("<lora:lierla:0.8:lbw=ALL0.5>", "<lora:lierla:0.4>"),
    "legacy place": ("<lora:lierla:0.8:IND>", "<lora:lierla:0.8:lbw=IND>"),
    "the same file twice": ("<lora:lierla:0.4> <lora:lierla:0.4>", "<lora:lierla:0.8>"),
    "stop=0": ("<lora:lierla:0.8:stop=0>", "<lora:lierla:0.8:0>"),
    "start=99": ("<lora:lierla:0.8:start=99>", "<lora:lierla:0.8:0>"),
    "step=0-99": ("<lora:lierla:0.8:step=0-99>", "<lora:lierla:0.8>"),
    "text encoder only": (f"<lora:lierla:0.8:lbw={UNET_OFF}>", "<lora:lierla:0.8:0>"),
    "element rule": ("<lora:lierla:0.8:lbwe=IN00-OUT11:attn ff proj:0>", "<lora:lierla:0.8:0>"),
    "order": ("<lora:c3lier:0.7> <lora:lierla:0.5>", "<lora:lierla:0.5> <lora:c3lier:0.7>"),
}
EXACT = {"all ones", "ALL", "all zeros", "NONE", "weight 0", "legacy place"}


@pytest.mark.parametrize("name", EQUAL)
def test_two_ways_to_say_the_same(webui: WebUI, name: str) -> None:
    one, two = (webui.make(prompt) for prompt in EQUAL[name])
    assert apart(one, two) <= (0 if name in EXACT else 1)


def test_block_weights_act(webui: WebUI) -> None:
    pictures = [webui.make(f"<lora:lierla:1:lbw={name}>") for name in ("ALL", "IND", "OUTS", "NONE")]
    assert all(apart(a, b) > 2 for i, a in enumerate(pictures) for b in pictures[:i])


def test_steps_change_the_picture_and_the_hires_pass_starts_over(webui: WebUI) -> None:
    tags = ("", ":0", ":start=1", ":stop=1")
    made = [webui.make(f"<lora:lierla:1{tag}>") for tag in tags]
    assert min(apart(a, b) for i, a in enumerate(made) for b in made[:i]) > 2
    whole, _, _, early = made
    assert apart(webui.make("<lora:lierla:1:stop=0.25>"), early) <= 1
    assert apart(webui.make("<lora:lierla:1:stop=4>", **HIRES), webui.make("<lora:lierla:1>", **HIRES)) <= 1
    assert apart(webui.make("<lora:lierla:1>"), whole) == 0


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("<lora:nowhere:1>", "nowhere"),
        ("<lora:lierla:strong>", "strong"),
        ("<lora:lierla:1:lbw=0,1,2>", "3 block weights"),
        ("<lora:lierla:1:colour=red>", "colour"),
        ("<lora:lierla:1:nan>", "nan"),
    ],
)
def test_a_bad_tag_is_told_and_disables_no_other(webui: WebUI, bad: str, told: str) -> None:
    good = webui.make("<lora:c3lier:0.8>")
    made = webui.make(f"{bad} <lora:c3lier:0.8>")
    assert apart(good, made) == 0
    assert told in made.comments
    assert webui.make("<lora:c3lier:0.8>").comments == ""
    if webui.data:
        assert "[LoRA ext]" in webui.log()


def test_a_misspelt_name_gets_the_nearest(webui: WebUI) -> None:
    assert "did you mean 'lierla'" in webui.make("<lora:lierlo:1>").comments


def test_add_network_to_prompt(webui: WebUI) -> None:
    tagged = webui.make("<lora:lierla:0.8>")
    webui.options(sd_lora="lierla", extra_networks_default_multiplier=0.8)
    for more in ({}, HIRES):
        made = webui.make("", **more)
        assert made.info["prompt"].count("<lora:lierla:0.8>") == 1
        assert "lierla" in made.told["Lora hashes"]
    assert apart(webui.make(""), tagged) == 0
    webui.options(sd_lora="None", extra_networks_default_multiplier=1.0)
    assert apart(webui.make(""), tagged) > 2  # the conditioning of before is not taken


# --- infotext


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
        pasted = _pasted(own, made.images[0])["Prompt"]
        assert pasted == "a photo of a cat <lora:renamed:0.8:lbw=IND>"
        assert apart(made, own.make(pasted)) == 0
    finally:
        (loras / "renamed.safetensors").rename(loras / "lierla.safetensors")
        own.call("/sdapi/v1/refresh-loras", {})


# --- files and modes


def test_a_file_written_over_is_taken_up(own: WebUI) -> None:
    assert own.data is not None
    path = own.data / "models" / "Lora" / "changing.safetensors"
    shutil.copyfile(GOLDEN / "lierla.safetensors", path)
    full = own.make("<lora:changing:0.8>")
    tensors = load_file(path)
    halved = {k: v / 2 if k.endswith("lora_up.weight") else v for k, v in tensors.items()}
    save_file(halved, path)
    half = own.make("<lora:changing:0.8>")
    assert apart(half, own.make("<lora:lierla:0.4>")) <= 1
    assert apart(half, full) > 2
    assert half.told["Lora hashes"] != full.told["Lora hashes"]
    text_only = {k: v for k, v in tensors.items() if k.startswith("lora_te_")}
    save_file(text_only, path)
    assert apart(own.make("<lora:changing:0.8>"), own.make("<lora:lierla:0.8:0>")) <= 1
    path.unlink()
    assert "changing" in own.make("<lora:changing:0.8>").comments


def test_a_file_added_while_running_is_found(own: WebUI) -> None:
    assert own.data is not None
    path = own.data / "models" / "Lora" / "sub" / "later.safetensors"
    path.parent.mkdir()
    shutil.copyfile(GOLDEN / "c3lier.safetensors", path)
    assert apart(own.make("<lora:later:0.8>"), own.make("<lora:c3lier:0.8>")) == 0
    shutil.rmtree(path.parent)


def test_what_does_not_fit_is_told_once(own: WebUI) -> None:
    assert own.data is not None
    path = own.data / "models" / "Lora" / "half.safetensors"
    tensors = load_file(GOLDEN / "lierla.safetensors")
    wide = {k: torch.cat([v, v], 1) if k.endswith("attn1_to_q.lora_down.weight") else v for k, v in tensors.items()}
    save_file(wide, path)
    made = own.make("<lora:half:0.8>")
    assert re.search(r"half.*\d+ of 264 layers apply; \d+ of another size", made.comments)
    assert own.make("<lora:half:0.8>", seed=7).comments == ""
    path.unlink()


@pytest.mark.parametrize("prompt", ["<lora:lierla:0.8>", "<lora:c3lier:0.8>", "<lora:lierla:0.5> <lora:c3lier:0.7>"])
def test_live_is_baked(webui: WebUI, prompt: str) -> None:
    made = {}
    for mode in ("live", "baked", "auto"):
        webui.options(lora_ext_mode=mode)
        made[mode] = webui.make(prompt)
        way = webui.call("/probe/way")
        assert bool(way["live"]) == (mode == "live") and bool(way["baked"]) == (mode != "live")
    assert apart(made["live"], made["baked"]) <= 2
    assert apart(made["auto"], made["baked"]) == 0


@pytest.mark.parametrize("mode", ["live", "baked"])
def test_everything_comes_off_bit_for_bit(webui: WebUI, mode: str) -> None:
    first, before = webui.make(""), webui.weights()
    webui.options(lora_ext_mode=mode)
    webui.make("<lora:lierla:0.8> <lora:c3lier:0.5:start=1:stop=3>")
    webui.make("<lora:c3lier:-1.5:lbw=OUTALL> <lora:nowhere:1>", **HIRES)
    assert apart(webui.make(""), first) == 0
    after = webui.weights()
    assert after["hash"] == before["hash"]
    assert after["hooks"] == before["hooks"]


def test_bundled_embeddings_come_and_go(own: WebUI) -> None:
    assert own.data is not None
    path = own.data / "models" / "Lora" / "bundled.safetensors"
    vector = torch.linspace(-1, 1, 2 * 64).reshape(2, 64)
    few = {k: v for k, v in load_file(GOLDEN / "lierla.safetensors").items() if "layers_0_mlp_fc1" in k}
    save_file({**few, "bundle_emb.zzword.string_to_param.*": vector}, path)
    own.call("/sdapi/v1/refresh-loras", {})
    without = own.make("zzword")
    made = own.make("zzword <lora:bundled:0>")
    assert own.call("/probe/embeddings") == ["zzword"]
    assert apart(made, without) > 2
    assert made.told["TI hashes"] == "zzword: bundled"
    assert apart(own.make("zzword"), without) == 0
    assert own.call("/probe/embeddings") == []
    own.options(lora_ext_in_charge="built-in")
    assert apart(own.make("zzword <lora:bundled:0>"), made) <= 1
    own.options(lora_ext_in_charge="LoRA ext")
    assert own.call("/probe/embeddings") == []
    path.unlink()
    own.call("/sdapi/v1/refresh-loras", {})


# --- the rest of the web UI


def test_cards_and_routes_of_the_builtin(webui: WebUI) -> None:
    webui.call("/sdapi/v1/refresh-loras", {})
    names = {lora["name"] for lora in webui.call("/sdapi/v1/loras")}
    assert {"lierla", "c3lier"} <= names


def test_xyz_plot_over_tags(webui: WebUI) -> None:
    weights = ["0.3", "0.9"]
    axis = [7, ", ".join(["<lora:lierla:0.1>", *(f"<lora:lierla:{w}>" for w in weights)]), []]
    nothing = [0, "", []]
    script = [*axis, *nothing, *nothing, False, False, False, False, False, False, False, 0, False]
    made = webui.make("<lora:lierla:0.1>", script_name="x/y/z plot", script_args=script)
    grid = made.pixels[0]
    assert made.pixels.shape[0] == 1
    for index, weight in enumerate(["0.1", *weights]):
        single = webui.make(f"<lora:lierla:{weight}>").pixels[0]
        cell = grid[-128:, index * 128 : (index + 1) * 128]
        assert abs(cell - single).max() == 0


def test_an_interrupted_or_failing_picture_leaves_nothing(webui: WebUI) -> None:
    first, before = webui.make(""), webui.weights()
    with pytest.raises(AssertionError):
        webui.make("<lora:lierla:0.8>", hr_upscaler="no such", enable_hr=True)
    assert apart(webui.make(""), first) == 0
    assert webui.weights() == before


def test_reload_ui(own: WebUI, tmp_path: Path) -> None:
    before = own.call("/probe/registry")
    made = own.make("<lora:lierla:0.8>")
    own.call("/probe/reload-ui", {})
    import time

    time.sleep(8)
    own.wait()
    after = own.call("/probe/registry")
    assert after == before
    assert apart(own.make("<lora:lierla:0.8>"), made) == 0
    own.make("")

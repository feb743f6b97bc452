"""Modes, files that change, bundled embeddings, and the web UI's own features."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from server import IN_FORGE, PLOT, SIDE, WebUI, apart, plot_arguments

pytestmark = pytest.mark.usefixtures("same_settings")
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}


def test_a_file_written_over_is_taken_up(own: WebUI) -> None:
    assert own.data is not None
    path = own.data / "models" / "Lora" / "changing.safetensors"
    shutil.copyfile(path.parent / "lierla.safetensors", path)
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
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(path.parent.parent / "c3lier.safetensors", path)
    assert apart(own.make("<lora:later:0.8>"), own.make("<lora:c3lier:0.8>")) == 0
    shutil.rmtree(path.parent)


def test_what_does_not_fit_is_told_once(own: WebUI) -> None:
    assert own.data is not None
    path = own.data / "models" / "Lora" / "half.safetensors"
    tensors = load_file(path.parent / "lierla.safetensors")
    wide = {k: torch.cat([v, v], 1) if k.endswith("attn1_to_q.lora_down.weight") else v for k, v in tensors.items()}
    save_file(wide, path)
    made = own.make("<lora:half:0.8>")
    assert re.search(r"half.*\d+ of \d+ layers apply; \d+ of another size", made.comments)
    assert own.make("<lora:half:0.8>", seed=7).comments == ""
    path.unlink()


@pytest.mark.parametrize("prompt", ["<lora:lierla:0.8>", "<lora:c3lier:0.8>", "<lora:lierla:0.5> <lora:c3lier:0.7>"])
def test_live_is_baked(webui: WebUI, prompt: str) -> None:
    made = {}
    for mode in ("live", "baked", "auto"):
        webui.options(lora_ext_mode=mode)
        made[mode] = webui.make(prompt)
        way = webui.call("/probe/way")
        baked = way["patched" if IN_FORGE else "baked"]
        assert bool(way["live"]) == (mode == "live") and bool(baked) == (mode != "live")
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
    width = 768 if IN_FORGE else 64
    vector = torch.linspace(-1, 1, 2 * width).reshape(2, width)
    few = {k: v for k, v in load_file(path.parent / "lierla.safetensors").items() if "layers_0_mlp_fc1" in k}
    save_file({**few, "bundle_emb.zzword.string_to_param.*": vector}, path)
    own.call("/sdapi/v1/refresh-loras", {})
    without = own.make("zzword")
    made = own.make("zzword <lora:bundled:0>")
    assert own.call("/probe/embeddings") == ["zzword"]
    assert apart(made, without) > 2
    assert made.embeddings == ("zzword" if "TI" in made.told else "zzword: bundled")
    assert apart(own.make("zzword"), without) == 0
    assert own.call("/probe/embeddings") == []
    if not IN_FORGE:  # whose own extension does not read embeddings in files
        own.options(lora_ext_in_charge="built-in")
        assert apart(own.make("zzword <lora:bundled:0>"), made) <= 1
        own.options(lora_ext_in_charge="LoRA ext")
    assert own.call("/probe/embeddings") == []
    path.unlink()
    own.call("/sdapi/v1/refresh-loras", {})


def test_cards_and_routes_of_the_builtin(webui: WebUI) -> None:
    webui.call("/sdapi/v1/refresh-loras", {})
    names = {lora["name"] for lora in webui.call("/sdapi/v1/loras")}
    assert {"lierla", "c3lier"} <= names


def test_xyz_plot_over_tags(webui: WebUI) -> None:
    weights = ["0.3", "0.9"]
    values = ", ".join(["<lora:lierla:0.1>", *(f"<lora:lierla:{w}>" for w in weights)])
    script = plot_arguments(webui, ("Prompt S/R", values))
    made = webui.make("<lora:lierla:0.1>", script_name=PLOT, script_args=script)
    grid = made.pixels[0]
    assert made.pixels.shape[0] == 1
    for index, weight in enumerate(["0.1", *weights]):
        single = webui.make(f"<lora:lierla:{weight}>").pixels[0]
        cell = grid[-SIDE:, index * SIDE : (index + 1) * SIDE]
        assert abs(cell - single).max() == 0


def test_an_interrupted_or_failing_picture_leaves_nothing(webui: WebUI) -> None:
    first, before = webui.make(""), webui.weights()
    with pytest.raises(AssertionError):
        webui.make("<lora:lierla:0.8>", hr_upscaler="no such", enable_hr=True)
    assert apart(webui.make(""), first) == 0
    assert webui.weights() == before


def test_reload_ui(own: WebUI) -> None:
    before = own.call("/probe/registry")
    made = own.make("<lora:lierla:0.8>")
    own.reload()
    after = own.call("/probe/registry")
    assert after == before
    assert apart(own.make("<lora:lierla:0.8>"), made) == 0
    own.make("")

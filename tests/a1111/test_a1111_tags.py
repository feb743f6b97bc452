"""Tags are applied to the web UI's model and removed from it, and the user is told what was done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import lora, state
from safetensors.torch import load_file
from stand_in_webui import Made, StandIn

MODES = ("auto", "live", "baked")
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6}
LAYER = "output_blocks.3.1.transformer_blocks.0.attn1.to_q"


def apart(one: Made, two: Made) -> int:
    """The greatest difference of two results, of 255."""
    assert one.pixels.shape == two.pixels.shape
    return int(np.abs(one.pixels - two.pixels).max())


def weight_of(webui: StandIn) -> torch.Tensor:
    """One layer's weight as a picture gets it."""
    from modules import shared

    weight: torch.Tensor = shared.sd_model.model.diffusion_model.get_submodule(LAYER).weight
    return weight.detach().clone()


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_a_tag_changes_the_picture_and_is_removed(webui: StandIn, mode: str) -> None:
    webui.options(lora_ext_mode=mode)
    before, none = state(webui), webui.make("a cat")
    made = webui.make("a cat <lora:one:0.8>")
    assert apart(made, none) > 3 and state(webui) != before
    again = webui.make("a cat")
    assert apart(again, none) == 0 and state(webui) == before


def test_live_and_baked_give_the_same_picture(webui: StandIn) -> None:
    made = []
    for mode in MODES:
        webui.options(lora_ext_mode=mode)
        made.append(webui.make("a cat <lora:one:0.8:lbw=OUTD> <lora:two:0.5>"))
    assert apart(made[0], made[1]) <= 1 and apart(made[1], made[2]) <= 1


def test_a_baked_weight_is_the_sum(webui: StandIn) -> None:
    plain, file = weight_of(webui), load_file(webui.data / "models" / "Lora" / "one.safetensors")
    key = f"lora_unet_{LAYER.replace('.', '_')}"
    webui.options(lora_ext_mode="baked")
    webui.make("a cat <lora:one:0.8>")
    wanted = plain + 0.8 * file[f"{key}.lora_up.weight"] @ file[f"{key}.lora_down.weight"]
    torch.testing.assert_close(weight_of(webui), wanted)
    webui.make("a cat <lora:one:0.8> <lora:one:-0.8>")
    torch.testing.assert_close(weight_of(webui), plain)


EQUAL = {
    "ALL": ("<lora:one:0.8:lbw=ALL>", "<lora:one:0.8>"),
    "NONE": ("<lora:one:0.8:lbw=NONE>", ""),
    "weight 0": ("<lora:one:0>", ""),
    "half": ("<lora:one:0.8:lbw=ALL0.5>", "<lora:one:0.4>"),
    "twice": ("<lora:one:0.4> <lora:one:0.4>", "<lora:one:0.8>"),
    "the alias": ("<lyco:one:0.8>", "<lora:one:0.8>"),
    "never": ("<lora:one:0.8:start=99>", "<lora:one:0.8:0>"),
    "until step 0": ("<lora:one:0.8:stop=0>", "<lora:one:0.8:0>"),
    "always": ("<lora:one:0.8:step=0-99>", "<lora:one:0.8>"),
    "order": ("<lora:one:0.5> <lora:two:0.7>", "<lora:two:0.7> <lora:one:0.5>"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("mode", ["live", "baked"])
def test_two_ways_to_say_the_same(webui: StandIn, name: str, mode: str) -> None:
    webui.options(lora_ext_mode=mode)
    one, two = (webui.make(f"a cat {tag}".strip()) for tag in EQUAL[name])
    assert apart(one, two) <= 1


def test_the_text_encoder_alone(webui: StandIn) -> None:
    none, text, unet = (webui.make(f"a cat{tag}") for tag in ("", " <lora:one:8:0>", " <lora:one:0:1>"))
    assert apart(text, none) > 0 and apart(unet, none) > 0 and apart(text, unet) > 0


def test_conditioning_that_is_kept_is_not_used_for_another_weight_of_the_text_encoder(webui: StandIn) -> None:
    """The web UI compares tags, not what a preset in them means: here a preset of the user's changes its meaning."""
    presets = webui.data / "lora_ext" / "presets.txt"
    presets.parent.mkdir(exist_ok=True)
    made = []
    for weight in ("0", "8"):
        presets.write_text(f"MINE:{','.join([weight] + ['0'] * 16)}\n", encoding="utf-8")
        made.append(webui.make("a cat <lora:one:1:lbw=MINE>"))
    presets.unlink()
    assert apart(*made) > 0
    assert apart(made[1], webui.make("a cat <lora:one:8:0>")) <= 1


@pytest.mark.long
@pytest.mark.parametrize("mode", ["live", "baked"])
@pytest.mark.parametrize(("sampler", "calls"), [("Euler", 4), ("Heun", 7)])
def test_a_schedule_moves_at_each_call_of_the_denoiser(webui: StandIn, mode: str, sampler: str, calls: int) -> None:
    """start=2: the weight is there from the third call on, also with Heun, which calls twice a step."""
    from modules import script_callbacks, shared

    seen: list[bool] = []
    layer = shared.sd_model.model.diffusion_model.get_submodule(LAYER)
    given = torch.ones(1, 1, layer.in_features)
    plain = layer(given)

    def look(params: Any) -> None:
        seen.append(not torch.equal(layer(given), plain))

    webui.options(lora_ext_mode=mode)
    script_callbacks.on_cfg_denoiser(look)
    try:
        webui.make("a cat <lora:one:1:start=2>", sampler_name=sampler)
    finally:
        script_callbacks.remove_callbacks_for_function(look)
    assert seen == [False] * 2 + [True] * (calls - 2)


def test_infotext(webui: StandIn) -> None:
    made = webui.make("a cat <lora:one:0.8:lbw=OUTD> <lora:two:0.5>")
    hashes = {name: webui.entry.extension.library.find(name).hash[:12] for name in ("one", "two")}
    assert made.told["Lora hashes"] == ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
    assert made.told["Lora block weights"].startswith("one:") and "Lora block seed" not in made.told
    assert made.infotexts[0].startswith("a cat <lora:one:0.8:lbw=OUTD> <lora:two:0.5>\n")
    assert "Lora hashes" not in webui.make("a cat").told


def test_hashes_can_be_left_out(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    webui.options(lora_add_hashes_to_infotext=False)
    assert "Lora hashes" not in webui.make("a cat <lora:one:1>").told
    webui.options(lora_add_hashes_to_infotext=True)
    lora(webui, "unhashed", 3)
    monkeypatch.setattr(shared.cmd_opts, "no_hashing", True)
    webui.entry.extension.library.refresh()
    assert "unhashed" not in webui.make("a cat <lora:unhashed:1>").told.get("Lora hashes", "")
    monkeypatch.undo()
    assert "unhashed" in webui.make("a cat <lora:unhashed:1>").told["Lora hashes"]


def test_random_weights_come_from_the_seed(webui: StandIn) -> None:
    tag = f"<lora:one:1:lbw={','.join(['R'] * 17)}>"
    made, again, other = webui.make(tag), webui.make(tag), webui.make(tag, seed=43)
    assert apart(made, again) == 0 and made.told["Lora block seed"] == 42
    assert made.told["Lora block weights"] == again.told["Lora block weights"] != other.told["Lora block weights"]


def test_what_is_wrong_is_told_and_the_rest_is_applied(webui: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = webui.make("a cat <lora:one:0.8>")
    made = webui.make("a cat <lora:one:0.8> <lora:onee:1> <lora:two:much>")
    assert apart(made, wanted) == 0
    assert "onee" in made.comments and "much" in made.comments
    assert "onee" in capsys.readouterr().out
    webui.options(lora_ext_warnings=["console"])
    assert not webui.make("a cat <lora:onee:1>").comments
    webui.options(lora_ext_warnings=["under the picture", "console"])


def test_a_popup(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio

    told: list[str] = []
    monkeypatch.setattr(gradio, "Warning", told.append)
    webui.options(lora_ext_warnings=["popup"])
    made = webui.make("a cat <lora:onee:1>")
    webui.options(lora_ext_warnings=["under the picture", "console"])
    assert not made.comments and any("onee" in text for text in told)


def test_a_file_that_cannot_be_loaded(webui: StandIn) -> None:
    path = webui.data / "models" / "Lora" / "broken.safetensors"
    path.write_bytes(b"nothing that can be read")
    made = webui.make("a cat <lora:broken:1> <lora:one:0.8>")
    assert "broken" in made.comments
    assert apart(made, webui.make("a cat <lora:one:0.8>")) == 0
    path.unlink()


def test_a_file_of_other_layers_is_told_once(webui: StandIn) -> None:
    lora(webui, "half", 4, parts="unet", **{"lora_unet_nowhere.lora_up.weight": torch.ones(1, 1)})
    first, second = webui.make("a cat <lora:half:1>"), webui.make("a cat <lora:half:1>")
    assert "half" in first.comments and "half" not in second.comments


def test_tags_that_the_web_ui_does_not_read(webui: StandIn) -> None:
    made = webui.make("a cat <LORA:one:1>", negative_prompt="<lora:two:1>", batch_size=2, n_iter=2)
    assert "LORA" in made.comments and "two" in made.comments
    assert len(made.p.comments) == len(set(made.p.comments))


def test_prompts_of_a_batch_with_other_tags(webui: StandIn) -> None:
    made = webui.make(["a cat <lora:one:1>", "a cat <lora:two:1>"], batch_size=2)
    assert "different" in made.comments and len(made.images) == 2


@pytest.mark.long
@pytest.mark.parametrize("mode", ["live", "baked"])
def test_a_hires_pass_of_its_own(webui: StandIn, mode: str) -> None:
    webui.options(lora_ext_mode=mode)
    both = webui.make("a cat <lora:one:1>", **HIRES)
    first = webui.make("a cat <lora:one:1>", hr_prompt="a cat", **HIRES)
    other = webui.make("a cat <lora:one:1>", hr_prompt="a cat <lora:two:1:lbw=OUTD>", **HIRES)
    assert both.pixels.shape[1:3] == (128, 128)
    assert apart(both, first) > 0 and apart(first, other) > 0 and apart(both, other) > 0
    assert "Lora block weights" not in other.told and other.told["Lora hires block weights"].startswith("two:")
    assert "two" in other.told["Lora hashes"] and "one" in other.told["Lora hashes"]
    assert "Lora hires block weights" not in both.told
    weights = {
        webui.make(f"a cat <lora:one:1:{hr}>", **HIRES).pixels.tobytes() for hr in ("hr=0", "hrte=0", "hrunet=0")
    }
    assert len({*weights, both.pixels.tobytes()}) == 4
    assert apart(webui.make("a cat <lora:one:1:hr=0>", **HIRES), first) <= 1
    unread = webui.make("a cat", hr_prompt="a cat <LORA:two:1>", **HIRES)
    assert "LORA" in unread.comments


def test_a_hires_prompt_that_is_encoded_before_the_first_pass(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --medvram, and in Forge and its kin: its encoding has the weights of the hires pass all the same."""
    from modules import processing

    late, plain = (webui.make(f"a cat <lora:one:1{hires}>", **HIRES, steps=2) for hires in (":hrte=0", ""))
    kind = processing.StableDiffusionProcessingTxt2Img
    first_pass, encode = kind.setup_conds, kind._hr_conds

    def setup_conds(self: Any) -> None:
        first_pass(self)
        encode(self)

    monkeypatch.setattr(kind, "setup_conds", setup_conds)
    monkeypatch.setattr(kind, "_hr_conds", lambda self: encode(self) if self.hr_c is None else None)
    assert apart(webui.make("a cat <lora:one:1:hrte=0>", **HIRES, steps=2), late) == 0 < apart(late, plain)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["auto", "live", "baked"])
def test_curves(webui: StandIn, mode: str) -> None:
    """A curve is the same as ranges of steps where it jumps between 0 and 1, and as the weight where it is constant."""
    webui.options(lora_ext_mode=mode)
    late = webui.make("a cat <lora:one:0:1:start=2>", steps=4)
    assert apart(webui.make("a cat <loractl:one:0:unet=0@0,1@2 step>", steps=4), late) == 0
    assert apart(webui.make("a cat <lora:one:0.8@0,0.8@1>"), webui.make("a cat <lora:one:0.8>")) == 0
    levels = "0.8@s99,0.8@s9,0@s9"  # above 9 there is the first step alone
    assert (
        apart(webui.make(f"a cat <lora:one:0:{levels}>", steps=4), webui.make("a cat <lora:one:0:0.8:stop=1>", steps=4))
        == 0
    )
    blocks = webui.make("a cat <lora:one:1:lbw=INALL@0,OUTALL@1>")
    assert apart(blocks, webui.make("a cat <lora:one:1:lbw=INALL>")) > 0
    assert blocks.told["Lora block weights"].count("@") == 2
    text = webui.make("a cat <lora:one:0.5@0,1@1>")
    assert "the text encoder has the curve's weight at the first step, 0.5" in text.comments
    assert "'x' in '1@0,2@x'" in webui.make("a cat <lora:one:1@0,2@x>").comments
    assert apart(webui.make("a cat"), webui.make("a cat <lora:one:0@0,0@1>")) == 0


@pytest.mark.long
def test_the_weights_that_acted_are_shown_on_request(webui: StandIn) -> None:
    prompt = "a cat <lora:one:0:0@0,0.9@3:hrunet=0.5@0,0@1> <lora:two:0.5>"
    assert "U-Net calls" not in webui.make(prompt, steps=4).comments
    webui.options(lora_ext_show_curve=True)
    comments = webui.make(prompt, steps=4, **HIRES).comments
    first, second = (line for line in comments.splitlines() if "U-Net calls" in line)
    assert first.endswith("one: weight at each of 4 U-Net calls ▁▃▆█ 0, 0.3, 0.6, 0.9")
    assert second.startswith("one: weight at each of 4 U-Net calls █") and second.endswith(", 0")
    webui.options(lora_ext_show_curve=False)


@pytest.mark.long
def test_image_to_image_and_batches(webui: StandIn) -> None:
    start = webui.make("a cat")
    more: dict[str, Any] = {"kind": "Img2Img", "init_images": list(start.images), "denoising_strength": 0.7}
    assert apart(webui.make("a cat", **more), webui.make("a cat <lora:one:1>", **more)) > 3
    batch = webui.make("a cat <lora:one:1>", batch_size=2, n_iter=2)
    alone = [webui.make("a cat <lora:one:1>", seed=seed) for seed in (42, 43, 44, 45)]
    assert max(int(np.abs(batch.pixels[i] - one.pixels[0]).max()) for i, one in enumerate(alone)) <= 1

"""What tags do beyond the built-in's: block weights, steps, errors."""

from __future__ import annotations

import pytest
from server import CAT, REQUEST, Made, WebUI, apart

pytestmark = pytest.mark.usefixtures("same_settings")
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
ONES = ",".join(["1"] * 17)
ZEROS = ",".join(["0"] * 17)
UNET_OFF = ",".join(["1"] + ["0"] * 25)


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
    "a curve that jumps": ("<loractl:lierla:0.8:unet=0@0,0.8@2 step>", "<lora:lierla:0.8:start=2>"),
    "a curve that stays": ("<lora:lierla:0.8@0,0.8@1>", "<lora:lierla:0.8>"),
    "blocks that jump": (f"<lora:lierla:0.8:lbw={ONES}@0;NONE@2 step>", "<lora:lierla:0.8:stop=2>"),
    "in turn": (
        "<lora:lierla:0.8:compose=switch/2> <lora:c3lier:0.7>",
        "<lora:lierla:0.8:stop=2> <lora:c3lier:0.7:start=2>",
    ),
    "each by itself": (
        "<lora:lierla:te=0:unet=0.8:compose=composite> <lora:lierla:te=0:unet=0.8>",
        "<lora:lierla:te=0:unet=0.8>",
    ),
    "order": ("<lora:c3lier:0.7> <lora:lierla:0.5>", "<lora:lierla:0.5> <lora:c3lier:0.7>"),
}
EXACT = {
    "a curve that jumps",
    "a curve that stays",
    "blocks that jump",
    "all ones",
    "ALL",
    "all zeros",
    "NONE",
    "weight 0",
    "legacy place",
}


@pytest.mark.parametrize("name", EQUAL)
def test_two_ways_to_say_the_same(webui: WebUI, name: str) -> None:
    one, two = (webui.make(prompt) for prompt in EQUAL[name])
    assert apart(one, two) <= (0 if name in EXACT else 1)


def test_block_weights_act(webui: WebUI) -> None:
    pictures = [webui.make(f"<lora:lierla:1:lbw={name}>") for name in ("ALL", "IND", "OUTS", "NONE")]
    assert all(apart(a, b) > 2 for i, a in enumerate(pictures) for b in pictures[:i])


def test_files_in_turn_and_each_by_itself_are_not_the_sum(webui: WebUI) -> None:
    other = " <lora:c3lier:1>"
    made = [webui.make(f"<lora:lierla:1{tag}>{other}") for tag in ("", ":compose=switch", ":compose=composite")]
    assert min(apart(a, b) for i, a in enumerate(made) for b in made[:i]) > 2
    assert "compose" not in made[1].comments + made[2].comments


def test_composite_as_one_batch_is_a_call_for_each_file(webui: WebUI) -> None:
    """Live predictions are rows of one batch; baked files have a call each."""
    prompt = "<lora:lierla:te=0:unet=0.8:compose=composite> <lora:c3lier:te=0:unet=0.7>"
    live = webui.make(prompt, batch_size=2)
    webui.options(lora_ext_mode="baked")
    assert apart(live, webui.make(prompt, batch_size=2)) <= 1


def test_steps_change_the_picture_and_the_hires_pass_starts_over(webui: WebUI) -> None:
    tags = ("", ":0", ":start=1", ":stop=1")
    made = [webui.make(f"<lora:lierla:1{tag}>") for tag in tags]
    assert min(apart(a, b) for i, a in enumerate(made) for b in made[:i]) > 2
    whole, _, _, early = made
    assert apart(webui.make("<lora:lierla:1:stop=0.25>"), early) <= 1
    assert apart(webui.make("<lora:lierla:1:stop=4>", **HIRES), webui.make("<lora:lierla:1>", **HIRES)) <= 1
    assert apart(webui.make("<lora:lierla:1>"), whole) == 0


STEPS_OF_CURVES = {  # request, and for each pass (U-Net calls, calls that the web UI counts)
    "Euler": ({}, [(4, 4)]),
    "Heun": ({"sampler_name": "Heun"}, [(7, 8)]),
    "DPM2": ({"sampler_name": "DPM2"}, [(7, 8)]),
    "DDIM": ({"sampler_name": "DDIM"}, [(3, 4)]),
    "UniPC": ({"sampler_name": "UniPC"}, [(4, 4)]),
    "hires": ({**HIRES, "hr_second_pass_steps": 3}, [(4, 4), (3, 3)]),
    "img2img": ({"denoising_strength": 0.5, "steps": 6}, [(4, 4)]),
    "prompt editing": ({"prompt_too": "a [cat:dog:0.5] [big|small]"}, [(4, 4)]),
}


def curve_weights(made: Made) -> list[list[float]]:
    """For each pass the weights that a comment lists, call by call."""
    lines = [line.split("U-Net calls ")[1] for line in made.comments.splitlines() if "U-Net calls" in line]
    return [[float(number) for number in line.split(" ", 1)[1].split(", ")] for line in lines]


@pytest.mark.parametrize("name", STEPS_OF_CURVES)
def test_a_curve_keeps_the_step(webui: WebUI, name: str) -> None:
    """As really applied, told below the picture on request: from 0 at the first call of each pass on."""
    request, passes = STEPS_OF_CURVES[name]
    request = dict(request)
    prompt = f"{request.pop('prompt_too', '')} <lora:lierla:0@0,0.9@1>"
    if name == "img2img":
        request["init_images"] = [webui.make("").images[0]]
    webui.options(lora_ext_show_curve=True)
    try:
        made = webui.make(prompt, **request)
    finally:
        webui.options(lora_ext_show_curve=False)
    weights = curve_weights(made)
    assert [len(row) for row in weights] == [calls for calls, _ in passes]
    for row, (_, total) in zip(weights, passes, strict=True):
        assert row == pytest.approx([0.9 * call / (total - 1) for call in range(len(row))], abs=5e-4)
    assert curve_weights(webui.make(prompt)) == []


@pytest.mark.parametrize(("sampler", "first"), [("Euler", 0.0), ("DDIM", 0.17), ("UniPC", 0.0)])
def test_a_curve_over_noise_levels(webui: WebUI, sampler: str, first: float) -> None:
    """DDIM and UniPC call with a timestep; its noise level counts."""
    webui.options(lora_ext_show_curve=True)
    try:
        (weights,) = curve_weights(webui.make("<lora:lierla:0:0@s15,1@s0.02>", sampler_name=sampler))
    finally:
        webui.options(lora_ext_show_curve=False)
    assert weights == sorted(weights) and weights[0] == pytest.approx(first, abs=0.08)
    assert 0.3 < weights[-1] < 1 and len(set(weights)) == len(weights)


def check_weights_of_the_hires_pass(webui: WebUI) -> None:
    """Asserts that `hr=`, `hrte=` and `hrunet=` act in the hires pass, its prompt's encoding counted."""
    plain, none = webui.make("<lora:lierla:1>", **HIRES), webui.make("<lora:lierla:1:hr=0>", **HIRES)
    assert apart(none, webui.make("<lora:lierla:1>", hr_prompt=CAT, **HIRES)) <= 1
    others = [plain, none, *(webui.make(f"<lora:lierla:1:{one}=0>", **HIRES) for one in ("hrte", "hrunet"))]
    assert min(apart(a, b) for i, a in enumerate(others) for b in others[:i]) > 0
    for one, weights in (("hrte", "0:1"), ("hrunet", "1:0")):
        made = webui.make(f"<lora:lierla:1:{one}=0>", **HIRES)
        given = webui.make("<lora:lierla:1>", hr_prompt=f"{CAT} <lora:lierla:{weights}>", **HIRES)
        assert apart(made, given) <= 1, one
    assert apart(webui.make("<lora:lierla:1>", **HIRES), plain) == 0


def test_weights_of_the_hires_pass(webui: WebUI) -> None:
    check_weights_of_the_hires_pass(webui)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("<lora:nowhere:1>", "nowhere"),
        ("<lora: lierla:1>", "' lierla'; did you mean 'lierla'"),  # neither does the web UI find it
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


@pytest.mark.parametrize(
    ("prompt", "negative", "says"),
    [
        ("<lora:lierla:1:step=9-2>", "", "U-Net part never acts, because it starts at step 9 and stops before step 2"),
        ("<lora:lierla:1:start=99>", "", "it starts at step 99, and the image has"),
        ("<lora:lierla:0>", "", "lierla changes nothing: its weight is 0"),
        (f"<lora:lierla:1:lbw={ZEROS}>", "", "lierla changes nothing: its weight is 0 in every layer"),
        ("a [<lora:lierla:1>:2]", "", "in [… : … : 2] acts at all steps: write <lora:lierla:1:step=2->"),
        ("a", "<lora:lierla:1>", "in the negative prompt is not applied"),
        ("a <lora:lierla:1", "", "has no > at its end"),
        ("a ＜lora：lierla：1＞", "", "write <lora:lierla:1>"),
        ("<LORA:lierla:1>", "", "<LORA:lierla:1> is not applied"),
        ("<lora:lierla:1, red <lora:c3lier:1>", "", "has no > before the next <"),
    ],
)
def test_a_tag_that_does_nothing_is_told_under_the_picture(webui: WebUI, prompt: str, negative: str, says: str) -> None:
    made = webui.make(prompt, negative_prompt=negative)
    assert made.comments.count(says) == 1, made.comments
    assert webui.make("<lora:c3lier:0.8>").comments == ""


def test_what_is_said_of_such_tags_is_true(webui: WebUI) -> None:
    whole = webui.make("a <lora:lierla:1>")
    assert apart(webui.make("a [<lora:lierla:1>:2]"), whole) <= 1  # at all steps
    assert apart(webui.make("a <LORA:lierla:1>"), webui.make("a ")) == 0  # taken out, and not applied
    assert apart(webui.make("a <lora:lierla:1:step=2->"), whole) > 2


def test_a_batch_has_the_tags_of_its_first_prompt(own: WebUI) -> None:
    matrix = {"script_name": "Prompt matrix", "script_args": [False, False, "positive", "comma", 0]}
    before = own.log().count("different <lora:…> tags")
    own.call("/sdapi/v1/txt2img", {**REQUEST, "prompt": "a cat|<lora:c3lier:1>", "batch_size": 2, **matrix})
    assert own.log().count("different <lora:…> tags") == before + 1

"""LoRA files in regions of the picture, in the real web UI."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server import CAT, IN_FORGE, PLOT, SIDE, WebUI, apart, plot_arguments

pytestmark = pytest.mark.usefixtures("same_settings")
TAG = "<lora:lierla:0.8>"
LEFT, RIGHT = (f"{TAG[:-1]}:at={side}>" for side in ("left", "right"))
NEGATIVE = {"negative_prompt": "blurry"}
HIRES = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}


def check_halves_are_the_whole(webui: WebUI, tag: str, halves: str, more: dict[str, Any]) -> None:
    """Both halves are the picture with the tag everywhere, and differ from the one without."""
    everywhere, both = webui.make(tag, **more), webui.make(halves, **more)
    assert apart(both, everywhere) <= 1 and not both.comments
    assert apart(everywhere, webui.make("", **more)) > 2


@pytest.mark.parametrize("more", [NEGATIVE, {**NEGATIVE, **HIRES}, {**NEGATIVE, "batch_size": 2}])
def test_regions_add_up_to_the_whole_picture(webui: WebUI, more: dict[str, Any]) -> None:
    """Also in the hires pass, whose masks have its own resolution."""
    check_halves_are_the_whole(webui, TAG, LEFT + RIGHT, more)


def test_img2img(webui: WebUI) -> None:
    picture = webui.make("").images[0]
    check_halves_are_the_whole(
        webui, TAG, LEFT + RIGHT, {**NEGATIVE, "init_images": [picture], "denoising_strength": 0.75}
    )


def test_the_negative_prompt_keeps_free_of_the_file(webui: WebUI) -> None:
    without = "".join(f"{tag[:-1]}:neg=0>" for tag in (LEFT, RIGHT))
    check_halves_are_the_whole(webui, f"{TAG[:-1]}:neg=0>", without, NEGATIVE)
    assert apart(webui.make(LEFT, **NEGATIVE), webui.make(f"{LEFT[:-1]}:neg=0>", **NEGATIVE)) > 2


@pytest.mark.parametrize("option", ["", "pad_cond_uncond", "pad_cond_uncond_v0", "batch_cond_uncond"])
def test_a_longer_prompt(webui: WebUI, option: str) -> None:
    """The web UI pads the shorter text, or makes two calls."""
    if IN_FORGE and option:
        pytest.skip("not in Forge: it repeats the shorter text, and has no settings for it")
    options = {option: option != "batch_cond_uncond"} if option else {}
    long = ", ".join(["a photo of a cat on a mat"] * 12)
    webui.options(**options)
    try:
        for more in ({}, NEGATIVE):
            check_halves_are_the_whole(webui, f"{long} {TAG}", f"{long} {LEFT}{RIGHT}", more)
    finally:
        webui.options(**{name: not value for name, value in options.items()})


def test_together_with_and(webui: WebUI) -> None:
    end = " AND a dog :0.6"
    everywhere = webui.make(f"{CAT} {TAG}{end}", **NEGATIVE)
    both = webui.make(f"{CAT} {LEFT}{RIGHT}{end}", **NEGATIVE)
    assert apart(both, everywhere) <= 1 and not both.comments
    own = [f"{CAT} {tags}{end}" for tags in (f"{TAG[:-1]}:part=own>", f"{LEFT[:-1]}:part=own>{RIGHT[:-1]}:part=own>")]
    one, two = (webui.make(prompt, **NEGATIVE) for prompt in own)
    assert apart(one, two) <= 1 and apart(one, everywhere) > 2


def test_a_half_is_free_of_the_file_and_nothing_is_left(webui: WebUI) -> None:
    plain = webui.make("", **NEGATIVE)
    half, other = webui.make(LEFT, **NEGATIVE), webui.make(RIGHT, **NEGATIVE)
    assert apart(half, other) > 2
    assert apart(webui.make(f"{TAG[:-1]}:at=0-1;0-1>", **NEGATIVE), webui.make(TAG, **NEGATIVE)) == 0
    assert apart(webui.make("", **NEGATIVE), plain) == 0


def test_composition_in_regions(webui: WebUI) -> None:
    tags = [f"{tag[:-1]}:compose=composite>" for tag in (TAG, LEFT, "<lora:c3lier:0.7>")]
    plain, made = webui.make("", **NEGATIVE), webui.make(tags[1] + tags[2], **NEGATIVE)
    assert apart(made, webui.make(tags[0] + tags[2], **NEGATIVE)) > 2 and not made.comments
    assert apart(webui.make("", **NEGATIVE), plain) == 0


def test_xyz_plot(webui: WebUI) -> None:
    """Prompt S/R over regions: each cell is the picture of its prompt."""
    script = plot_arguments(webui, ("Prompt S/R", "at=left, at=right, at=0-1;0-1"))
    grid = webui.make(LEFT, script_name=PLOT, script_args=script).pixels[0]
    for index, tag in enumerate((LEFT, RIGHT, TAG)):
        cell = grid[-SIDE:, index * SIDE : (index + 1) * SIDE]
        assert abs(cell - webui.make(tag).pixels[0]).max() <= (1 if tag == TAG else 0)


def test_masks(own: WebUI) -> None:
    """A mask is a region like others, in both ways; a white one acts everywhere in both."""
    assert own.data is not None
    folder = own.data / "lora_ext" / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    white = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    Image.fromarray(white).save(folder / "everywhere.png")
    white[:, SIDE // 2 :] = 0
    Image.fromarray(white).save(folder / "left side.png")
    half, everywhere = (f"{TAG[:-1]}:at={name}>" for name in ("left side", "everywhere"))
    for more in (NEGATIVE, {**NEGATIVE, **HIRES}):
        made = own.make(half, **more)
        assert apart(made, own.make(LEFT, **more)) <= 1 and "left side: " in made.told["Region masks"]
    assert apart(own.make(everywhere, **NEGATIVE), own.make(TAG, **NEGATIVE)) <= 1
    output = [own.make(f"{tag[:-1]}:way=output>", **NEGATIVE) for tag in (half, LEFT, everywhere)]
    assert apart(output[0], output[1]) <= 1 and not output[0].comments
    assert apart(output[2], own.make(TAG, **NEGATIVE)) <= 1
    assert apart(output[0], output[2]) > 2


def test_words(webui: WebUI) -> None:
    """Regional Prompter's words without that extension: each region has its text and its files."""
    left = webui.make(LEFT, **NEGATIVE)
    made = webui.make(f"{CAT} {TAG} ADDCOL {CAT}", **NEGATIVE)
    assert apart(made, left) <= 1 and not made.comments and "Region ratios" not in made.told
    assert apart(webui.make(f"{CAT} {TAG} ADDROW {CAT} {TAG}", **NEGATIVE), webui.make(TAG, **NEGATIVE)) <= 1
    two = webui.make(f"{CAT} ADDCOMM in a garden ADDCOL a dog {TAG}", batch_size=2, **NEGATIVE)
    one = webui.make(f"{CAT}, in a garden ADDCOL {CAT}, a dog {TAG}", batch_size=2, **NEGATIVE)
    assert apart(one, two) == 0 and apart(one, webui.make(TAG, batch_size=2, **NEGATIVE)) > 2
    words = f"{CAT} {TAG} BREAK {CAT}"
    ratios = {"lora_ext_region_ratios": "1,3"}
    given = webui.make(words, override_settings=ratios, **NEGATIVE, **HIRES)
    assert apart(given, webui.make(f"{TAG[:-1]}:at=0-0.25;0-1>", **NEGATIVE, **HIRES)) <= 1
    assert given.told["Region ratios"] == "1,3"
    assert apart(webui.make(words, **NEGATIVE), webui.make(words, override_settings=ratios, **NEGATIVE)) > 2
    half = webui.make(f"{CAT} {TAG} ADDBASE {CAT} ADDCOL {CAT}", override_settings={"lora_ext_base_ratio": 0.5})
    assert half.told["Base ratio"] == "0.5" and "Base ratio" not in given.told
    assert apart(webui.make(CAT), webui.make("")) == 0


def test_a_mask_is_written_beside_the_picture_and_found_when_its_infotext_is_pasted(own: WebUI) -> None:
    assert own.data is not None
    folder = own.data / "lora_ext" / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    mask.save(folder / "of this picture.png")
    made = own.make(f"{TAG[:-1]}:at=of this picture>", do_not_save_samples=False, save_images=True)
    digest = made.told["Region masks"].removeprefix("of this picture: ")
    assert [path for path in own.data.rglob(f"masks/{digest}.png") if {"outputs", "output"} & set(path.parts)]
    image = {"image": made.images[0]}
    assert ":at=of this picture>" in own.call("/sdapi/v1/png-info", image)["parameters"]["Prompt"]
    Image.new("L", (8, 8), 255).save(folder / "of this picture.png")
    pasted = own.call("/sdapi/v1/png-info", image)["parameters"]["Prompt"]
    assert f":at={digest}>" in pasted and apart(own.make(pasted), made) == 0


def test_interrupt_in_the_middle(webui: WebUI) -> None:
    plain, before = webui.make("", **NEGATIVE), webui.weights()
    for tag in (LEFT, f"{LEFT[:-1]}:way=output>"):
        made: list[Any] = []
        work = threading.Thread(target=lambda tag=tag, made=made: made.append(webui.make(tag, steps=150, **NEGATIVE)))
        work.start()
        while (
            work.is_alive() and webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"] < 3
        ):
            time.sleep(0.05)
        webui.call("/sdapi/v1/interrupt", {})
        work.join()
        assert 3 <= webui.call("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"] < 150 or made
        assert apart(webui.make("", **NEGATIVE), plain) == 0
    after = webui.weights()
    assert after["hash"] == before["hash"]

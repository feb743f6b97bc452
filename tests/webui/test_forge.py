"""In a running Forge: every part of a tag acts, plain tags as Forge's own extension applies them; sheets and training.

LORA_EXT_FORGE: the folder of Forge, reForge, Forge Classic or Forge Neo, with a checkpoint it accepts in
models/Stable-diffusion; it is started on a throw-away data folder, on the CPU. Or the URL of one that runs, started by
`forge_server.start` on the data folder in LORA_EXT_WEBUI_DATA.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forge_server import FP8_FLAGS, KINDS, defined_flags, start
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from server import CAT, PLOT, REQUEST, WebUI, apart, files_as_before, picture, plot_arguments

from lora_ext import cli

SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 3}
TAG = "<lora:noise:1>"


FORGE = os.environ.get("LORA_EXT_FORGE", "")


@pytest.fixture(scope="module")
def folder() -> Path:
    if not FORGE or FORGE.startswith("http"):
        pytest.skip("LORA_EXT_FORGE gives no folder of a Forge")
    return Path(FORGE)


@pytest.fixture(scope="module")
def forge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    if FORGE.startswith("http"):
        data = Path(os.environ["LORA_EXT_WEBUI_DATA"])
        with files_as_before(data):
            yield WebUI(FORGE, data)
        return
    webui = start(request.getfixturevalue("folder"), tmp_path_factory.mktemp("forge"))
    yield webui
    webui.stop()


def built_in(webui: WebUI, prompt: str, **more: Any) -> Any:
    """The picture as Forge's own extension makes it."""
    webui.options(lora_ext_in_charge="built-in")
    made = webui.make(prompt, **{**SMALL, **more})
    webui.options(lora_ext_in_charge="LoRA ext")
    return made


def test_it_starts_and_we_apply_the_tags(forge: WebUI) -> None:
    assert "Traceback" not in forge.log()
    assert forge.call("/lora-ext/v1/jobs")["applied_by"] == ""
    assert set(KINDS) <= {row["name"] for row in forge.call("/lora-ext/v1/library")["rows"]}


@pytest.mark.parametrize(
    "prompt",
    [f"<lora:{name}:1>" for name in KINDS]
    + ["<lora:noise:-0.7>", "<lora:noise:0.6><lora:conv:0.5>", "<lora:noise:te=0:unet=1>", "<lora:noise:te=1:unet=0>"],
)
def test_plain_tags_are_those_of_the_built_in(forge: WebUI, prompt: str) -> None:
    """Baked through Forge's own patcher, which is what "auto" chooses here, and live."""
    clean = forge.make("", **SMALL)
    asked = built_in(forge, prompt)
    if "dora" in prompt and apart(asked, clean) == 0:
        pytest.skip("the extension of this web UI ignores DoRA")
    assert apart(asked, clean) > 5
    for mode in ("auto", "live"):
        forge.options(lora_ext_mode=mode)
        made = forge.make(prompt, **SMALL)
        way = forge.call("/probe/way")
        assert (way["patched"] > 50, way["live"] > 50, way["baked"]) == (mode == "auto", mode == "live", 0)
        assert made.comments == "[]" or made.comments == ""
        assert apart(made, asked) <= 1, mode
        assert apart(forge.make("", **SMALL), clean) == 0
    forge.options(lora_ext_mode="auto")


def test_every_part_of_a_tag_acts(forge: WebUI) -> None:
    assert forge.data is not None
    clean, plain = forge.make("", **SMALL), forge.make(TAG, **SMALL)
    loras = forge.data / "models" / "Lora"
    source = loras / "noise.safetensors"
    for name, options in (("outs", ["--lbw", "OUTALL"]), ("rule", ["--lbwe", "IN05-OUT05:attn:0"])):
        assert (
            cli.main(["reweight", "--model", str(source), "--save_to", str(loras / f"{name}.safetensors"), *options])
            == 0
        )
    thin = {key: t[:2] if "lora_down" in key else t[:, :2] if "lora_up" in key else t / 2
            for key, t in load_file(source).items()}  # fmt: skip
    save_file({key: t.contiguous() for key, t in thin.items()}, loras / "thin.safetensors")
    for tag, same in (
        ("1:lbw=OUTALL", "<lora:outs:1>"),
        ("1:OUTALL", "<lora:outs:1>"),
        ("1:lbwe=IN05-OUT05:attn:0", "<lora:rule:1>"),
        ("1:dyn=2", "<lora:thin:1>"),
        ("te=1:unet=1:start=0", TAG),
        ("0.5><lora:noise:0.5", TAG),
        ("te=1:unet=1:start=3", "<lora:noise:te=1:unet=0>"),
    ):
        made = forge.make(f"<lora:noise:{tag}>", **SMALL)
        assert apart(made, built_in(forge, same)) <= 1, tag
        forge.options(lora_ext_mode="live")
        assert apart(forge.make(f"<lora:noise:{tag}>", **SMALL), made) <= 1, tag
        forge.options(lora_ext_mode="auto")
    assert apart(forge.make("<lyco:noise:1>", **SMALL), plain) == 0
    some = forge.make("<lora:noise:1:step=1-2>", **SMALL)
    assert apart(some, plain) > 1 and apart(some, clean) > 1
    told = forge.make("<lora:noise:1><lora:nowhere:1>", **SMALL)
    assert apart(told, plain) == 0 and "nowhere" in told.comments
    assert apart(forge.make("", **SMALL), clean) == 0
    assert "Traceback" not in forge.log()


def test_hires_image_to_image_and_batches(forge: WebUI) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    hires |= {"hr_second_pass_steps": 2, "hr_additional_modules": ["Use same choices"]}
    for more in (hires, {"init_images": forge.make("", **SMALL).images, "denoising_strength": 0.7}, {"batch_size": 2}):
        clean = forge.make("", **SMALL, **more)
        made = forge.make(TAG, **SMALL, **more)
        assert apart(made, clean) > 5
        assert apart(made, built_in(forge, TAG, **more)) <= 1
        assert apart(forge.make("", **SMALL, **more), clean) == 0


def ended(forge: WebUI, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A job of the tab, once it has ended."""
    job = forge.call(f"/lora-ext/v1{path}", body)
    while (now := forge.call(f"/lora-ext/v1/jobs/{job['id']}"))["state"] in ("waiting", "running"):
        time.sleep(0.2)
    return dict(now)


def pixels_of(forge: WebUI, name: str) -> np.ndarray:
    """A picture that the tab has made."""
    assert forge.data is not None
    with Image.open(forge.data / "lora_ext" / "outputs" / name) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


@pytest.mark.parametrize("batch", [8, 1])
@pytest.mark.parametrize(
    ("tag", "axes"),
    [("", {"x": "file:noise,conv", "y": "weight:0.5,1"}), ("", {"lora": "noise", "x": "te:0,1", "y": "unet:0,0.8"}),
     ("<lora:noise:4>", {"x": "preset:ALL,OUTALL,IND", "y": "stop:1,none"})],
)  # fmt: skip
def test_cells_of_a_sheet_are_those_drawn_by_hand(forge: WebUI, tag: str, axes: dict[str, str], batch: int) -> None:
    clean = forge.make("", **SMALL)
    asked = {**SMALL, "cfg": 7, "sampler": "Euler", "seed": 42, "batch": batch, "prompt": f"{CAT} {tag}".strip()}
    made = ended(forge, "/compare", {**asked, **axes})
    assert made["state"] == "done" and made["result"]["complete"], made
    cells = made["result"]["cells"]
    for cell in cells:
        hand = forge.make(cell["prompt"], **SMALL)
        assert abs(pixels_of(forge, cell["file"]) - hand.pixels[0]).max() <= (1 if batch > 1 else 0), cell["prompt"]
    assert len({pixels_of(forge, cell["file"]).tobytes() for cell in cells}) == len(cells)
    assert made["result"]["suggested"]["reason"]
    assert apart(forge.make("", **SMALL), clean) == 0


def test_clip_skip_acts_in_the_cells_of_a_batch(forge: WebUI) -> None:
    """Also where it was chosen since the last image: Forge passes the setting to its model when it encodes."""
    before = forge.call("/sdapi/v1/options")["CLIP_stop_at_last_layers"]
    forge.options(CLIP_stop_at_last_layers=1)
    plain = forge.make(TAG, **SMALL)
    forge.options(CLIP_stop_at_last_layers=3)
    asked = {**SMALL, "cfg": 7, "sampler": "Euler", "seed": 42, "prompt": CAT, "lora": "noise", "x": "weight:0.5,1"}
    made = ended(forge, "/compare", {**asked, "batch": 2})
    assert made["state"] == "done", made
    cell, hand = pixels_of(forge, made["result"]["cells"][1]["file"]), forge.make(TAG, **SMALL)
    assert abs(cell - hand.pixels[0]).max() <= 1 < apart(hand, plain)
    forge.options(CLIP_stop_at_last_layers=before)


def test_blocks_are_measured_by_images(forge: WebUI) -> None:
    asked = {**SMALL, "lora": "noise", "way": "lowered", "layout": "12", "batch": 8, "prompt": CAT}
    made = ended(forge, "/compare/blocks", asked)
    assert made["state"] == "done", made
    found = made["result"]
    assert len(found["pictures"]) == 13 and len({pixels_of(forge, p).tobytes() for p in found["pictures"].values()}) > 4


TRAINING = {
    "train_data_dir": "shapes", "resolution": "64", "min_bucket_reso": 64, "network_dim": 4, "learning_rate": 0.001,
}  # fmt: skip


def test_training_on_the_chosen_checkpoint(forge: WebUI) -> None:
    """Forge's own model cannot learn: a copy does, and Forge's next images are the same bit for bit."""
    assert forge.data is not None
    before = forge.log().count("Traceback")  # one is written for each request that is refused
    clean, plain = forge.make("", **SMALL), forge.make(TAG, **SMALL)
    settings = {**TRAINING, "output_name": "mine", "max_train_steps": 3, "sample_every_n_steps": 3}
    looked = ended(forge, "/train/preflight", {"settings": settings})
    assert looked["state"] == "done" and looked["result"]["report"]["steps"] == 3, looked
    job = ended(forge, "/train", {"settings": settings, "prompts": "a red disc --w 64 --h 64 --s 3 --d 1"})
    assert job["state"] == "done" and job["result"]["files"] == ["mine"], job
    assert pixels_of(forge, job["live"]["samples"][0]).shape == (64, 64, 3)
    assert apart(forge.make("", **SMALL), clean) == 0
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    made = forge.make("<lora:mine:1>", **SMALL)
    assert apart(made, clean) > 1 and "mine" in made.told["Lora hashes"] and not json.loads(made.comments or "[]")
    assert forge.log().count("Traceback") == before


def test_training_is_stopped_by_interrupt_and_resumed(forge: WebUI) -> None:
    before = forge.log().count("Traceback")
    clean = forge.make("", **SMALL)
    job = forge.call("/lora-ext/v1/train", {"settings": {**TRAINING, "output_name": "halt", "max_train_steps": 4000}})
    while not (now := forge.call(f"/lora-ext/v1/jobs/{job['id']}"))["live"].get("rows"):
        assert now["state"] in ("waiting", "running"), now
        time.sleep(0.2)
    forge.call("/sdapi/v1/interrupt", {})
    while (now := forge.call(f"/lora-ext/v1/jobs/{job['id']}"))["state"] in ("waiting", "running"):
        time.sleep(0.2)
    result = now["result"]
    assert result["stopped"] and 0 < result["steps"] < 4000, now
    steps = result["steps"] + 1
    more = {**TRAINING, "output_name": "halt", "max_train_steps": steps, "resume": result["state"]}
    resumed = ended(forge, "/train", {"settings": more})
    assert resumed["state"] == "done" and resumed["result"]["steps"] == steps, resumed
    assert apart(forge.make("", **SMALL), clean) == 0
    assert forge.log().count("Traceback") == before


def drawn_plot(forge: WebUI, axis: str, values: str) -> list[Any]:
    """Draws an X/Y/Z plot over two values and asserts that its images differ; returns the script's arguments."""
    args = plot_arguments(forge, (axis, values), single=True)
    body = {**REQUEST, **SMALL, "prompt": TAG, "script_name": PLOT, "script_args": args}
    images = [picture(image) for image in forge.call("/sdapi/v1/txt2img", body)["images"]]
    one, two = (image for image in images if image.shape[:2] == (64, 64))
    assert abs(one - two).max() > 0, axis
    return args


def test_axes_act_and_are_refused_where_they_could_not(forge: WebUI) -> None:
    for axis, values in (("LoRA block preset", "IND,ALL"), ("LoRA stop step", "1,3"), ("LoRA rank (DyLoRA)", "2,4")):
        args = drawn_plot(forge, axis, values)
        forge.options(lora_ext_in_charge="built-in")
        with pytest.raises(AssertionError, match=re.escape(f"{axis} would change nothing: the built-in")):
            forge.make(TAG, **SMALL, script_name=PLOT, script_args=args)
        forge.options(lora_ext_in_charge="LoRA ext")


def test_the_built_in_says_what_has_no_effect(forge: WebUI) -> None:
    for text, part in (("1:lbw=OUTALL", "lbw=OUTALL"), ("1:step=1-2", "step=1-2"), ("1:dyn=2", "dyn=2")):
        told = built_in(forge, f"<lora:noise:{text}>")
        assert f"{part} has no effect: the built-in Lora extension applies" in told.comments


@pytest.fixture
def second(forge: WebUI) -> Iterator[str]:
    """Another checkpoint beside the first: its weights, times 1.03.

    The first one is chosen by its name: until then Classic takes whichever comes first in the folder.
    """
    assert forge.data is not None
    folder = forge.data / "models" / "Stable-diffusion"
    (first,) = folder.glob("*.safetensors")
    forge.options(sd_model_checkpoint=first.name)
    save_file(
        {name: (t.float() * 1.03).to(t.dtype) for name, t in load_file(first).items()}, folder / "second.safetensors"
    )
    forge.call("/sdapi/v1/refresh-checkpoints", {})
    yield "second.safetensors"
    forge.options(sd_model_checkpoint=first.name)
    forge.make("", **SMALL)
    (folder / "second.safetensors").unlink()
    forge.call("/sdapi/v1/refresh-checkpoints", {})


def test_two_checkpoints_back_and_forth(forge: WebUI, second: str) -> None:
    """Also where one was chosen and not loaded yet: sheets and training take the chosen one."""
    assert forge.data is not None
    before = forge.log().count("Traceback")  # one is written for each request that is refused
    first = forge.call("/sdapi/v1/options")["sd_model_checkpoint"]
    clean, plain = forge.make("", **SMALL), forge.make(TAG, **SMALL)
    forge.options(sd_model_checkpoint=second)
    asked = {**SMALL, "cfg": 7, "sampler": "Euler", "seed": 42, "prompt": CAT, "lora": "noise", "x": "weight:0.5,1"}
    made = ended(forge, "/compare", asked)
    assert made["state"] == "done", made
    with Image.open(forge.data / "lora_ext" / "outputs" / made["result"]["cells"][1]["file"]) as image:
        assert "Model: second" in str(image.info["parameters"])
    other = forge.make(TAG, **SMALL)
    assert abs(pixels_of(forge, made["result"]["cells"][1]["file"]) - other.pixels[0]).max() <= 1
    assert apart(other, plain) > 1 and apart(built_in(forge, TAG), other) <= 1
    forge.options(sd_model_checkpoint=first)
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    assert apart(forge.make("", **SMALL), clean) == 0
    forge.options(sd_model_checkpoint=second)
    job = ended(forge, "/train", {"settings": {**TRAINING, "output_name": "other", "max_train_steps": 1}})
    assert job["state"] == "done", job
    with safe_open(str(forge.data / "models" / "Lora" / "other.safetensors"), "pt") as file:
        assert file.metadata()["ss_sd_model_name"] == second
    forge.options(sd_model_checkpoint=first)
    assert apart(forge.make("", **SMALL), clean) == 0
    assert forge.log().count("Traceback") == before


def test_a_refiner_gets_the_tags_and_the_curve_goes_on(forge: WebUI, second: str) -> None:
    """The refiner is another model, loaded in the midst of the image; afterwards the first one is as before."""
    if "refiner_use_steps" in forge.call("/sdapi/v1/options"):  # Neo: else the switch is at a noise level
        forge.options(refiner_use_steps=True)
    asked = {"steps": 4, "refiner_checkpoint": second, "refiner_switch_at": 0.5}
    clean = forge.make("", **SMALL)
    plain, ours = forge.make("", **{**SMALL, **asked}), forge.make(TAG, **{**SMALL, **asked})
    assert "Refiner" in ours.told and apart(ours, plain) > 5
    assert apart(ours, forge.make(TAG, **{**SMALL, "steps": 4})) > 1
    assert apart(built_in(forge, TAG, **asked), ours) <= 1
    late = forge.make("<lora:noise:te=0:unet=10:start=2>", **{**SMALL, **asked})  # late steps change little in Neo
    assert apart(late, plain) > 1, "it acts on the refiner alone"
    for curve, same in (("0@0,10@2 step", "10:start=2"), ("10@0,0@2 step", "10:stop=2")):
        made, hand = (forge.make(f"<lora:noise:te=0:unet={text}>", **{**SMALL, **asked}) for text in (curve, same))
        assert apart(made, hand) <= 1 < apart(made, plain), curve
    forge.options(lora_ext_show_curve=True)
    curve = forge.make("<lora:noise:1@0,0@1>", **{**SMALL, **asked})
    forge.options(lora_ext_show_curve=False)
    assert re.search(r"noise: weight at each of 4 U-Net calls \S+ 1, 0\.667, 0\.333, 0$", curve.comments, re.MULTILINE)
    steps = ("te=1:unet=1:stop=1", "te=0:unet=0.6667:start=1:stop=2", "te=0:unet=0.3333:start=2:stop=3")
    hand = "".join(f"<lora:noise:{step}>" for step in steps)
    assert apart(forge.make(hand, **{**SMALL, **asked}), curve) <= 1
    assert apart(forge.make("", **SMALL), clean) == 0


def test_curves_are_the_sum_of_their_steps(forge: WebUI) -> None:
    """A curve that stays is the plain weight; one that rises is its weights step by step, each in a tag of its own."""
    before = forge.log().count("Traceback")
    clean, plain = forge.make("", **SMALL), forge.make("<lora:noise:0.8>", **SMALL)
    assert apart(forge.make("<lora:noise:0.8@0,0.8@1>", **SMALL), plain) <= 1
    rising = forge.make("<lora:noise:te=0:unet=0.5@0,2@1>", **SMALL)
    hand = "".join(f"<lora:noise:te=0:unet={w}:start={step}:stop={step + 1}>" for step, w in enumerate((0.5, 1.25, 2)))
    assert apart(forge.make(hand, **SMALL), rising) <= 1
    for weight in (0.5, 1.25, 2):
        assert apart(forge.make(f"<lora:noise:te=0:unet={weight}>", **SMALL), rising) > 0
    blocks = forge.make("<lora:noise:te=0:unet=1:lbw=INALL@0,OUTALL@1 step>", **SMALL)
    hand = "<lora:noise:te=0:unet=1:lbw=INALL:stop=2><lora:noise:te=0:unet=1:lbw=OUTALL:start=2>"
    assert apart(forge.make(hand, **SMALL), blocks) <= 1 < apart(blocks, clean)
    assert apart(forge.make("", **SMALL), clean) == 0
    assert forge.log().count("Traceback") == before


def test_interrupt_stops_a_sheet_and_leaves_nothing(forge: WebUI) -> None:
    clean = forge.make("", **SMALL)
    asked = {**SMALL, "steps": 40, "prompt": f"{CAT} {TAG}", "x": "seed:1,2,3,4,5,6", "batch": 1}
    job = forge.call("/lora-ext/v1/compare", asked)
    while not forge.call("/sdapi/v1/progress")["state"]["sampling_step"]:
        time.sleep(0.1)
    forge.call("/sdapi/v1/interrupt", {})
    while (now := forge.call(f"/lora-ext/v1/jobs/{job['id']}"))["state"] in ("waiting", "running"):
        time.sleep(0.2)
    assert not now["result"] or not now["result"]["complete"], now
    assert apart(forge.make("", **SMALL), clean) == 0


def test_switching_and_reload_ui_throw_nothing(forge: WebUI) -> None:
    clean, plain = forge.make("", **SMALL), forge.make(TAG, **SMALL)
    before = forge.log().count("Traceback")
    assert apart(built_in(forge, TAG), plain) <= 1
    assert apart(built_in(forge, ""), clean) == 0
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    forge.reload()
    assert apart(forge.make(TAG, **SMALL), plain) == 0
    assert apart(forge.make("", **SMALL), clean) == 0
    drawn_plot(forge, "LoRA stop step", "1,3")
    assert forge.log().count("Traceback") == before


def test_fp8_storage(folder: Path, tmp_path: Path) -> None:
    flags = defined_flags(folder, FP8_FLAGS)
    if not flags:
        pytest.skip("this web UI has no option that stores the U-Net in fp8")
    webui = start(folder, tmp_path, *flags)
    try:
        clean = webui.make("", **SMALL)
        made = webui.make(TAG, **SMALL)
        assert apart(made, clean) > 5
        way = webui.call("/probe/way")  # the U-Net is live, the text encoder is baked
        assert way["patched"] > 50 and way["live"] > 50
        assert apart(webui.make("<lora:noise:1:start=0:stop=3>", **SMALL), made) <= 1
        webui.options(lora_ext_mode="baked")
        assert apart(webui.make(TAG, **SMALL), clean) > 5
        assert webui.call("/probe/way")["live"] == 0
        assert apart(webui.make("", **SMALL), clean) == 0
        assert "Traceback" not in webui.log()
    finally:
        webui.stop()

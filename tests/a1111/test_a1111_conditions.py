"""Tags that act on one AND part alone, or not on the negative prompt, in the web UI."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import state
from PIL import Image
from stand_in_webui import Made, StandIn

ONE, TWO = "<lora:one:0.9>", "<lora:two:0.7>"


@pytest.fixture(autouse=True)
def defaults(webui: StandIn) -> Any:
    yield
    webui.options(
        lora_ext_and_parts="all parts", lora_ext_on_negative=True, lora_ext_region_ratios="", lora_ext_base_ratio=0.2
    )


def apart(one: Made, two: Made) -> int:
    assert one.pixels.shape == two.pixels.shape
    return int(np.abs(one.pixels - two.pixels).max())


class Rows:
    """Records the U-Net's outputs of the first step, row by row."""

    def __init__(self, webui: StandIn, prompt: str, **request: Any) -> None:
        from modules import shared

        found: list[torch.Tensor] = []
        unet = shared.sd_model.model.diffusion_model
        handle = unet.register_forward_hook(lambda module, args, out: found.append(out.detach().clone()))
        try:
            self.made = webui.make(prompt, **request)
        finally:
            handle.remove()
        self.first = found[0]


@pytest.mark.long
def test_a_prompt_with_and_is_as_before_unless_asked(webui: StandIn) -> None:
    """The web UI's meaning is the default: a tag acts on all parts, and is written nowhere."""
    everywhere = webui.make(f"a cat {ONE} AND a dog {TWO}")
    assert apart(everywhere, webui.make(f"a cat {ONE}{TWO} AND a dog")) == 0
    assert not any(key.startswith("Lora ") and key != "Lora hashes" for key in everywhere.told)
    webui.options(lora_ext_and_parts="own part")
    made = webui.make(f"a cat {ONE} AND a dog {TWO}")
    assert apart(made, everywhere) > 3 and made.told["Lora AND"] == "own part" and not made.comments
    assert apart(made, webui.make(f"a cat {ONE[:-1]}:part=own> AND a dog {TWO[:-1]}:part=own>")) == 0
    assert apart(everywhere, webui.make(f"a cat {ONE[:-1]}:common> AND a dog {TWO[:-1]}:part=all>")) == 0
    assert "Lora AND" not in webui.make(f"a cat {ONE}").told


@pytest.mark.long
@pytest.mark.parametrize("batch", [1, 2])
def test_each_row_is_as_if_its_part_were_the_prompt(webui: StandIn, batch: int) -> None:
    """The row of each part, with its text encoding, is that of the part alone, the negative one without."""
    webui.options(lora_ext_and_parts="own part")
    request = {"batch_size": batch, "negative_prompt": "blurry", "seed": 5}
    rows = Rows(webui, f"a cat {ONE} AND a dog {TWO} AND a bird", **request).first
    assert len(rows) == 4 * batch
    alone = [Rows(webui, prompt, **request).first for prompt in (f"a cat {ONE}", f"a dog {TWO}", "a bird")]
    for image in range(batch):
        for part, other in enumerate(alone):
            torch.testing.assert_close(rows[3 * image + part], other[image], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(rows[3 * batch + image], alone[2][batch + image], atol=1e-5, rtol=1e-4)


def test_two_parts_of_one_text_have_their_own_files(webui: StandIn) -> None:
    webui.options(lora_ext_and_parts="own part")
    rows = Rows(webui, f"a cat{ONE} AND a cat{TWO}").first
    assert (rows[0] - rows[1]).abs().max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("by", ["tag", "setting"])
def test_the_negative_prompt_without_the_file(webui: StandIn, by: str) -> None:
    webui.options(lora_ext_on_negative=by == "tag")
    tag = f"{ONE[:-1]}:neg=0>" if by == "tag" else ONE
    request = {"negative_prompt": "blurry"}
    found, plain = Rows(webui, f"a cat {tag}", **request), Rows(webui, "a cat", **request)
    webui.options(lora_ext_on_negative=True)
    both = Rows(webui, f"a cat {ONE}", **request)
    torch.testing.assert_close(found.first[1], plain.first[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.first[0], both.first[0], atol=1e-4, rtol=1e-3)
    assert (both.first[1] - plain.first[1]).abs().max() > 1e-3
    assert found.made.told.get("Lora negative prompt") == (None if by == "tag" else "False")


@pytest.mark.long
def test_conditioning_that_is_kept_knows_the_parts(webui: StandIn) -> None:
    """The web UI compares tags without their places: the same tags in other parts are another conditioning."""
    webui.options(lora_ext_and_parts="own part")
    first = Rows(webui, f"a cat {ONE} AND a dog {TWO}").first
    other = Rows(webui, f"a cat {TWO} AND a dog {ONE}").first
    again = Rows(webui, f"a cat {ONE} AND a dog {TWO}").first
    assert torch.equal(first, again) and (first - other)[:2].abs().amax((1, 2, 3)).min() > 1e-3


def test_nothing_is_left(webui: StandIn) -> None:
    before = state(webui)
    webui.options(lora_ext_and_parts="own part")
    made = webui.make(f"a cat {ONE} AND a dog {TWO}")
    assert state(webui) != before
    none = webui.make("a cat AND a dog")
    assert state(webui) == before and "get_conds_with_caching" not in vars(none.p)
    assert "get_conds_with_caching" in vars(made.p)


@pytest.mark.long
def test_hires_pass(webui: StandIn) -> None:
    webui.options(lora_ext_and_parts="own part")
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.6}
    made = webui.make(f"a cat {ONE} AND a dog {TWO}", **hires)
    other = webui.make(f"a cat {ONE} AND a dog {TWO}", hr_prompt=f"a cat {TWO} AND a dog {ONE}", **hires)
    assert apart(made, other) > 0 and not made.comments


def test_a_pasted_infotext_means_what_it_meant(webui: StandIn) -> None:
    """Pictures from before, or with the defaults, say nothing of the settings: the defaults are meant."""
    paste = webui.entry.extension.on_infotext_pasted
    webui.options(lora_ext_and_parts="own part", lora_ext_on_negative=False)
    old: dict[str, Any] = {"Prompt": f"a cat {ONE} AND a dog"}
    paste("", old)
    assert (old["Lora AND"], old["Lora negative prompt"]) == ("all parts", "True")
    new: dict[str, Any] = {"Prompt": f"a cat {ONE} AND a dog", "Lora AND": "own part", "Lora negative prompt": "False"}
    paste("", new)
    assert (new["Lora AND"], new["Lora negative prompt"]) == ("own part", "False")
    plain: dict[str, Any] = {"Prompt": "a cat AND a dog"}
    paste("", plain)
    assert plain == {"Prompt": "a cat AND a dog"}


def test_a_batch_that_others_have_changed(webui: StandIn) -> None:
    """Rows that cannot be told from each other: all files act on all of them, and a comment says so."""
    webui.options(lora_ext_and_parts="own part")
    found = webui.module("prompt_conditions").PassConditions((2, 1))
    assert [row.part for row in found.rows(7)] == [0, 1, 0, None, None, None, None]  # InstructPix2Pix
    by_part = webui.module("region_prompts").BatchRegions(by_part=True)
    latent = webui.module("prompt_conditions").PassConditions((2, 2), batch_regions=by_part)
    assert [row.part for row in latent.rows(6)] == [0, 0, 1, 1, None, None]  # Regional Prompter's mode "Latent"
    extension = webui.entry.extension
    apply_tags = extension.apply_tags

    def another_script(p: Any, *args: Any) -> None:
        apply_tags(p, *args)
        extension._conditions = found

    extension.apply_tags = another_script
    try:
        made = webui.make(f"a cat {ONE} AND a dog {TWO}")
    finally:
        del extension.apply_tags
    assert "another extension changes the batch" in made.comments


def test_layers_that_others_call_row_by_row(webui: StandIn) -> None:
    """Regional Prompter and Forge Couple give attention layers other rows than the U-Net's: all have the files."""
    from modules import shared

    layers = [m for name, m in shared.sd_model.model.diffusion_model.named_modules() if name.endswith("attn2")]

    def one_by_one(original: Any) -> Any:
        def forward(x: torch.Tensor, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return torch.cat([original(x[i : i + 1], context[i : i + 1], *args, **kwargs) for i in range(len(x))])

        return forward

    request, tag = {"negative_prompt": "blurry"}, "<lora:one:te=0:unet=0.9>"
    alone = webui.make(f"a cat {tag[:-1]}:neg=0>", **request)
    assert layers and not alone.comments
    for layer in layers:
        layer.forward = one_by_one(layer.forward)
    extension = webui.entry.extension
    apply_tags = extension.apply_tags
    handed_out: list[Any] = []
    extension.apply_tags = lambda *args: handed_out.append(args) or apply_tags(*args)
    try:
        everywhere, made = webui.make(f"a cat {tag}", **request), webui.make(f"a cat {tag[:-1]}:neg=0>", **request)
        step = shared.sd_model.model.diffusion_model.register_forward_hook(lambda *_: apply_tags(*handed_out[-1]))
        try:  # as reForge's port of sd-webui-loractl does
            after_each_step = webui.make(f"a cat {tag[:-1]}:neg=0>", **request)
        finally:
            step.remove()
    finally:
        del extension.apply_tags
        for layer in layers:
            del layer.forward
    assert apart(after_each_step, made) == 0
    assert apart(made, everywhere) <= 1 < apart(made, alone) and not everywhere.comments
    assert "a layer gets 1 row where the U-Net was called with 2" in made.comments
    assert "act on all rows" in made.comments
    again = webui.make(f"a cat {tag[:-1]}:neg=0>", **request)
    assert apart(again, alone) == 0 and not again.comments


def test_a_region_has_rows_of_its_own(webui: StandIn) -> None:
    """The base's row is that without the tag, the region's row that with it; negatives are put together by masks."""
    request = {"negative_prompt": "blurry"}
    left = Rows(webui, f"a cat {ONE[:-1]}:at=left>", **request)
    plain, tagged = (Rows(webui, prompt, **request).first for prompt in ("a cat", f"a cat {ONE}"))
    assert len(left.first) == 3 and not left.made.comments
    torch.testing.assert_close(left.first[:2], torch.stack([plain[0], tagged[0]]), atol=1e-4, rtol=1e-3)
    half = plain.shape[-1] // 2
    together = torch.cat([tagged[1, ..., :half], plain[1, ..., half:]], -1)
    torch.testing.assert_close(left.first[2], together, atol=1e-4, rtol=1e-3)
    assert (tagged[1] - plain[1]).abs().amax(0)[:, :half].max() > 1e-3
    without = Rows(webui, f"a cat {ONE[:-1]}:at=left:neg=0>", **request).first
    torch.testing.assert_close(without[2], plain[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(without[1], left.first[1], atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_regions_add_up_to_the_whole_picture_in_any_order(webui: StandIn) -> None:
    for end in (">", ":neg=0>"):
        halves = "".join(f"{ONE[:-1]}:at={side}{end}" for side in ("left", "right"))
        everywhere = webui.make(f"a cat {ONE[:-1]}{end}", batch_size=2, negative_prompt="blurry")
        assert apart(webui.make(f"a cat {halves}", batch_size=2, negative_prompt="blurry"), everywhere) <= 1
    assert apart(webui.make(f"a cat {ONE[:-1]}:at=0-1;0-1>"), webui.make(f"a cat {ONE}")) == 0
    one, two = f"{ONE[:-1]}:at=left>", f"{TWO[:-1]}:at=right>"
    assert apart(webui.make(f"a cat {one}{two}"), webui.make(f"a cat {two}{one}")) <= 1
    before = webui.make("a cat")
    assert apart(webui.make("a cat"), before) == 0


@pytest.mark.long
def test_regions_of_a_prompt_with_and(webui: StandIn) -> None:
    """Each region has a row for each part; part=own keeps a file to its part there too."""
    left, right = (f"{ONE[:-1]}:at={side}>" for side in ("left", "right"))
    rows = Rows(webui, f"a cat {left} AND a dog :0.5")
    parts, plain = (Rows(webui, f"a cat {tag} AND a dog :0.5").first for tag in (ONE, ""))
    assert len(rows.first) == 5 and not rows.made.comments
    torch.testing.assert_close(rows.first[:4], torch.cat([plain[:2], parts[:2]]), atol=1e-4, rtol=1e-3)
    everywhere = webui.make(f"a cat {ONE} AND a dog :0.5", batch_size=2)
    assert apart(webui.make(f"a cat {left}{right} AND a dog :0.5", batch_size=2), everywhere) <= 1
    own = Rows(webui, f"a cat {left[:-1]}:part=own> AND a dog :0.5").first
    torch.testing.assert_close(own[2:4], torch.stack([parts[0], plain[1]]), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(own[4], plain[2], atol=1e-5, rtol=1e-4)


def test_a_region_that_is_not_made_is_named(webui: StandIn) -> None:
    """A mask that is missing, or black, leaves its tag out."""
    assert "nothere" in webui.make(f"a cat {ONE[:-1]}:at=nothere>{TWO[:-1]}:at=left>").comments
    folder = webui.data / "lora_ext" / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(folder / "night.png")
    plain = webui.make("a cat")
    for name, why in (("nothere", "there is no mask 'nothere'"), ("night", "the mask 'night' is black")):
        for way in ("", ":way=output"):
            made = webui.make(f"a cat {ONE[:-1]}:at={name}{way}>")
            assert why in made.comments and "whole picture" not in made.comments and apart(made, plain) == 0
    (folder / "night.png").unlink()


@pytest.mark.long
def test_words_divide_a_prompt(webui: StandIn) -> None:
    """Each cell has its text and its files, as the prompt of the cell alone."""
    made = Rows(webui, f"a cat {ONE} ADDCOL a dog {TWO}", seed=5, negative_prompt="blurry")
    alone = [Rows(webui, prompt, seed=5, negative_prompt="blurry").first for prompt in (f"a cat {ONE}", f"a dog {TWO}")]
    torch.testing.assert_close(made.first[:2], torch.stack([alone[0][0], alone[1][0]]), atol=1e-4, rtol=1e-3)
    half = made.first.shape[-1] // 2
    negative = torch.cat([alone[0][1, ..., :half], alone[1][1, ..., half:]], -1)
    torch.testing.assert_close(made.first[2], negative, atol=1e-4, rtol=1e-3)
    assert not made.made.comments and "Region ratios" not in made.made.told
    assert apart(webui.make("a cat ADDCOL a dog"), webui.make("a cat")) > 0
    assert apart(webui.make(f"a cat {ONE} ADDROW a cat {ONE}"), webui.make(f"a cat {ONE}")) <= 1


@pytest.mark.long
def test_ratios_of_words(webui: StandIn) -> None:
    webui.options(lora_ext_region_ratios="1,3")
    narrow = webui.make(f"a cat {ONE} BREAK a cat")
    assert apart(narrow, webui.make(f"a cat {ONE[:-1]}:at=0-0.25;0-1>")) <= 1
    assert narrow.told["Region ratios"] == "1,3" and "Base ratio" not in narrow.told
    webui.options(lora_ext_region_ratios="", lora_ext_base_ratio=0.5)
    based = webui.make(f"a cat ADDBASE a dog {ONE} ADDCOL a dog")
    assert based.told["Base ratio"] == "0.5"
    webui.options(lora_ext_region_ratios="1,none")
    assert "1,none" in webui.make("a cat ADDCOL a dog").comments


def test_settings_of_words_in_a_pasted_infotext(webui: StandIn) -> None:
    """Pictures from before the settings were changed say nothing of them: the defaults are meant."""
    webui.options(lora_ext_region_ratios="1,3", lora_ext_base_ratio=0.5)
    paste = webui.entry.extension.on_infotext_pasted
    for prompt, told in (
        ("a cat ADDBASE a dog BREAK a bird", {"Region ratios": "", "Base ratio": "0.2"}),
        ("a cat BREAK a bird", {"Region ratios": ""}),
        ("a cat", {}),
    ):
        params: dict[str, Any] = {"Prompt": prompt}
        paste("", params)
        assert params == {"Prompt": prompt, **told}
    params = {"Prompt": "a cat BREAK a bird", "Region ratios": "2,1"}
    paste("", params)
    assert params["Region ratios"] == "2,1"


@pytest.mark.long
@pytest.mark.parametrize("name", ["Regional Prompter", "Forge Couple"])
def test_other_extensions_that_divide_the_picture(webui: StandIn, name: str) -> None:
    """Ours stands back and says so: the file acts everywhere, and words are not ours."""
    tagged, plain = f"a cat {ONE[:-1]}:at=left>", webui.make(f"a cat {ONE}")
    half = webui.make(tagged)
    extra: dict[str, Any] = {"RP Active": True} if name == "Regional Prompter" else {}
    find = webui.module("region_prompts").active_region_extension

    class Script:
        args_from, args_to = 1, 3

        def title(self) -> str:
            return name

    p = half.p
    assert find(p) == ""
    p.extra_generation_params.update(extra)
    p.scripts.alwayson_scripts, p.script_args = [Script()], (0, True, "Basic")
    assert find(p) == name
    p.extra_generation_params.pop("RP Active", None)
    p.script_args = (0, False, "Basic")
    assert find(p) == ""
    webui.module("region_prompts").active_region_extension = lambda p: name
    try:
        made, words = webui.make(tagged), webui.make("a cat ADDCOL a dog")
    finally:
        webui.module("region_prompts").active_region_extension = find
    assert apart(made, plain) == 0 and f"at=left is not acted on, and the file acts on the whole picture: {name}" in (
        made.comments
    )
    assert ("plain text" in words.comments) == (name == "Forge Couple")


@pytest.mark.long
def test_masks_are_written_beside_the_picture(webui: StandIn, tmp_path: Path) -> None:
    from modules import script_callbacks

    folder = webui.data / "lora_ext" / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    mask.save(folder / "half.png")
    for way in ("", ":way=output"):
        made = webui.make(f"a cat {ONE[:-1]}:at=half{way}>")
        digest = made.told["Region masks"].removeprefix("half: ")
        pictures = tmp_path / f"pictures{len(way)}"
        pictures.mkdir()
        script_callbacks.run("image_saved", SimpleNamespace(p=made.p, filename=str(pictures / "1.png")))
        assert [path.name for path in (pictures / "masks").iterdir()] == [f"{digest}.png"]
        assert Image.open(pictures / "masks" / f"{digest}.png").tobytes() == mask.tobytes()
    script_callbacks.run("image_saved", SimpleNamespace(p=webui.make("a cat").p, filename=str(tmp_path / "1.png")))
    assert not (tmp_path / "masks").exists()
    (folder / "half.png").unlink()
    params: dict[str, Any] = {"Prompt": f"a cat {ONE[:-1]}:at=half>", "Region masks": f"half: {digest}"}
    write = webui.module("region_prompts")
    saved, write._saved_masks = write._saved_masks, lambda: [tmp_path / "pictures0" / "masks"]
    try:
        webui.entry.extension.on_infotext_pasted("", params)
    finally:
        write._saved_masks = saved
    assert f"at={digest}" in params["Prompt"]
    assert apart(webui.make(params["Prompt"]), webui.make(f"a cat {ONE[:-1]}:at=left>")) <= 1

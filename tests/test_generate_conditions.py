"""`generate`: LoRAs that act on one part of a prompt with AND, or not on the negative prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lora_ext.compare.image_spec import ImageSpec
from lora_ext.embedded import CHECKPOINT
from lora_ext.errors import PromptError
from lora_ext.generate import Settings, generate
from lora_ext.generate.image_renderer import _has_several_conditions
from lora_ext.generate.pipeline import GenerationReport, load_settings_model
from lora_ext.host.standalone.model import StandaloneModel

if not Path(CHECKPOINT).is_file():
    pytest.skip("no embedded model in this installation", allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> StandaloneModel:
    return load_settings_model(Settings(device="cpu"))


def image(model: StandaloneModel, prompt: str, **more: object) -> np.ndarray:
    settings = Settings(prompt=prompt, **{"steps": 2, "cfg": 4.0, "seed": 3, "sampler": "Euler", **more})  # type: ignore[arg-type]
    return np.asarray(generate(settings, model=model)[0], int)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


def test_a_file_on_a_part_of_weight_0_acts_nowhere(model: StandaloneModel) -> None:
    plain = image(model, "a red circle AND a blue square :0")
    assert apart(plain, image(model, "a red circle AND a blue square <lora:framed:1:part=own> :0")) <= 1
    assert apart(plain, image(model, "a red circle <lora:framed:1:part=own> AND a blue square :0")) > 8


@pytest.mark.long
def test_all_parts_are_what_a_tag_means_that_says_nothing(model: StandaloneModel) -> None:
    plain = image(model, "a red circle <lora:framed:1> AND a blue square")
    assert apart(plain, image(model, "a red circle AND a blue square <lora:framed:1:part=all>")) <= 1
    own = image(model, "a red circle <lora:framed:1:part=own> AND a blue square")
    both = "a red circle <lora:framed:1:part=own:neg=1> AND a blue square <lora:framed:1:part=own:neg=1>"
    assert apart(plain, own) > 8 and apart(own, image(model, both)) > 8


@pytest.mark.long
def test_the_negative_prompt_without_the_file(model: StandaloneModel) -> None:
    """At guidance 1 there is no negative prompt, so that nothing is to be left out of it."""
    tag, without = "a red circle <lora:framed:1>", "a red circle <lora:framed:1:neg=0>"
    assert apart(image(model, tag), image(model, without)) > 8
    assert apart(image(model, tag, cfg=1.0), image(model, without, cfg=1.0)) <= 1
    two = image(model, without, batch=2)
    assert apart(two, image(model, without)) <= 1


def test_what_cannot_act_is_told(model: StandaloneModel) -> None:
    with pytest.raises(PromptError, match="need the mode auto or live"):
        image(model, "a circle <lora:framed:1:neg=0>", mode="baked")
    report = GenerationReport()
    prompt = "a circle <lora:framed:1:part=own> ADDCOL a square"
    generate(Settings(prompt=prompt, steps=1, seed=3, sampler="Euler"), model=model, report=report)
    assert "<lora:framed>: part=own acts on all parts in a prompt that words divide" in report.notes


@pytest.mark.parametrize(
    ("prompt", "several"),
    [("a cat <lora:framed:1>", False), ("a cat AND a dog", True), ("a [cat:dog:0.5]", True),
     ("a cat <lora:framed:1:neg=0>", True), ("a cat <lora:framed:1:at=left>", True)],
)  # fmt: skip
def test_cells_of_a_sheet_that_no_batch_takes(prompt: str, several: bool) -> None:
    assert _has_several_conditions(ImageSpec(prompt=prompt, seed=1, steps=4)) is several


@pytest.mark.parametrize("way", ["", pytest.param(":way=output", marks=pytest.mark.long)])
def test_the_negative_prompt_in_regions(model: StandaloneModel, way: str) -> None:
    """A region over everything is no region; in a half the tag decides whether the file acts on the negative prompt."""
    plain = "a red circle <lora:framed:1:neg=0>"
    everywhere, left = (
        f"a red circle <lora:framed:1:neg=0:at=0-1;0-1{way}>",
        f"a red circle <lora:framed:1:at=left{way}>",
    )
    assert apart(image(model, everywhere, batch=2), image(model, plain, batch=2)) <= 1
    without = left.replace(":at", ":neg=0:at")
    assert apart(image(model, left), image(model, without)) > 8
    assert apart(image(model, left, cfg=1.0), image(model, without, cfg=1.0)) <= 1


@pytest.mark.long
def test_parts_in_regions(model: StandaloneModel) -> None:
    """A part of weight 0 has no effect with its files; a tag that stands twice acts twice."""
    plain = "a red circle <lora:framed:1:at=left> AND a blue square :0"
    zero = "a red circle <lora:framed:1:at=left:neg=1:part=own> AND a blue square <lora:striped:1:at=left:part=own> :0"
    assert apart(image(model, plain), image(model, zero)) <= 1
    twice = "a red circle <lora:framed:0.5:at=left:neg=0><lora:framed:0.5:at=left:neg=0>"
    assert apart(image(model, twice), image(model, "a red circle <lora:framed:1:at=left:neg=0>")) <= 1

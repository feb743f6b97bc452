"""What strangers write takes linear time: texts that took seconds, found by fuzzing and by looking for their like."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

import pytest

from lora_ext.bounded_matching import is_bounded_expression, split_outside_brackets
from lora_ext.compare.axes import parse_axis
from lora_ext.compare.axis_kinds import AxisContext
from lora_ext.compare.image_spec import ImageSpec
from lora_ext.errors import TrainError
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.kohya_prompt_line import parse_prompt_line
from lora_ext.prompt_parts import split_prompt_parts, without_network_tags
from lora_ext.train.config.layer_choice import parse_layer_numbers
from lora_ext.train.config.recipe_metadata import settings_from_metadata


def prompt_axis(text: str) -> object:
    return parse_axis(f"prompt:{text}", AxisContext(LoraLibrary([]), ImageSpec(prompt="a")))


LONG: dict[str, tuple[Callable[[str], object], str]] = {
    "prompts of an axis": (prompt_axis, "a " + "|t " * 9_000),
    "lists of a file's metadata": (lambda text: settings_from_metadata({"ss_optimizer_args": text}), "a," * 12_000),
    "tags without an end": (split_prompt_parts, "<lora:" * 9_000),
    "tags without an end, removed": (without_network_tags, "<lora:" * 9_000),
    "blanks of a prompt line": (parse_prompt_line, "a" + " " * 30_000 + "b"),
}


@pytest.mark.parametrize("name", LONG)
def test_it_takes_no_second(name: str) -> None:
    work, text = LONG[name]
    begun = time.process_time()
    work(text)
    assert time.process_time() - begun < 1


def test_split_outside_brackets() -> None:
    rng = random.Random(1)
    for brackets, old in (("[{]}", r"\|(?![^\[\]{}]*[\]}])"), ("([)]", r"\|(?![^(\[]*[)\]])")):
        for _ in range(2000):
            text = "".join(rng.choice(f"a|{brackets}") for _ in range(rng.randint(0, 12)))
            assert split_outside_brackets(text, "|", brackets) == re.split(old, text)


def test_expressions() -> None:
    for text in ("attn2.*to_k", r".*up_blocks_\d_.*to_[qk].*", "(down|up)_blocks_[01]", "^.*ff$", r"blocks_\d+_attn"):
        assert is_bounded_expression(text), text
    for text in ("(a+)+", "(.*)*x", "a{2,9}", "a.*b.*c.*d", r"(a)\1", "(?=a)b", "x" * 300, "|".join("abcdefgh")):
        assert not is_bounded_expression(text), text
        with pytest.raises(TrainError, match="could take long"):
            parse_layer_numbers(f"{text}=4".replace(",", ";"))
    with pytest.raises(TrainError, match="at most 200"):
        parse_layer_numbers("attn=4," * 201)

"""Tags: a table of what people write, and that a bad tag never disables the others."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import PromptError
from lora_ext.lora_tags import LoraTag, parse_lora_tags, parse_tag_items

TABLE = {
    "<lora:a>": LoraTag("a"),
    "<lora:a:0.8>": LoraTag("a", 0.8, 0.8),
    "<lyco:a:0.8>": LoraTag("a", 0.8, 0.8),
    "<lora:a:0.3:0.9>": LoraTag("a", 0.3, 0.9),
    "<lora:a:1:1:4>": LoraTag("a", 1, 1, dyn=4),
    "<lora:a:te=0.2:unet=0.7:dyn=8>": LoraTag("a", 0.2, 0.7, dyn=8),
    "<lora:a:unet=0.7>": LoraTag("a", 1, 0.7),
    "<lora:a:-0.5>": LoraTag("a", -0.5, -0.5),
    "<lora:a:0.8:lbw=OUTALL>": LoraTag("a", 0.8, 0.8, lbw="OUTALL"),
    "<lora:a:1:FACE>": LoraTag("a", lbw="FACE"),
    "<lora:a:1:0,0,1>": LoraTag("a", lbw="0,0,1"),
    "<lora:a:1:FACE:0.5>": LoraTag("a", lbw="FACE", x=0.5),
    "<lora:a:1:FACE:ATTNDEEPOFF>": LoraTag("a", lbw="FACE", lbwe="ATTNDEEPOFF"),
    "<lora:a:1:1:FACE>": LoraTag("a", lbw="FACE"),
    "<lora:a:lbw=R:x=0.5>": LoraTag("a", lbw="R", x=0.5),
    "<lora:a:1:lbwe=IN05-OUT05:attn:0:start=3>": LoraTag("a", lbwe="IN05-OUT05:attn:0", start=3),
    "<lora:a:1:lbwe=IN01:attn1:0,OUT03:ff:0.5>": LoraTag("a", lbwe="IN01:attn1:0,OUT03:ff:0.5"),
    "<lora:a:lbwe=ATTNDEEPOFF:0.8>": LoraTag("a", 0.8, 0.8, lbwe="ATTNDEEPOFF"),
    "<lora:a:1:step=3-10>": LoraTag("a", start=3, stop=10),
    "<lora:a:1:step=0.25-0.75>": LoraTag("a", start=0.25, stop=0.75),
    "<lora:a:1:step=0.5-1>": LoraTag("a", start=0.5, stop=1.0),
    "<lora:a:1:start=5>": LoraTag("a", start=5),
    "<lora:a:1:stop=0.5>": LoraTag("a", stop=0.5),
    "<lora:a:w=FACE>": LoraTag("a", lbw="FACE"),
    "<lora:a:>": LoraTag("a"),
    "<lora:a:1:lbwe=NOT IN05:attn:0>": LoraTag("a", lbwe="NOT IN05:attn:0"),
    "<lora:a:lbwe=IN05:start=3:0.8>": LoraTag("a", 0.8, 0.8, lbwe="IN05", start=3),
    "<lora:a:lbwe=IN05:0.8:start=3>": LoraTag("a", 0.8, 0.8, lbwe="IN05", start=3),
    "<lora:a:lbwe=IN01:attn:0:0.8:0.5>": LoraTag("a", 0.8, 0.5, lbwe="IN01:attn:0"),
    "<lora:a:lbwe=ATTNDEEPOFF:0.8:0.5>": LoraTag("a", 0.8, 0.5, lbwe="ATTNDEEPOFF"),
    "<lora:a:dyn=1>": LoraTag("a", dyn=1),
    "<lora:a:0.8:common>": LoraTag("a", 0.8, 0.8, part="all"),
    "<lora:a:1:FACE:part=own:neg=0>": LoraTag("a", lbw="FACE", part="own", neg=False),
    "<lora:a:part=all:neg=1>": LoraTag("a", part="all", neg=True),
    "<lora:a:start=0:stop=1>": LoraTag("a", start=0, stop=1),
    "<lora:a:start=0.0:stop=1.0>": LoraTag("a", start=0.0, stop=1.0),
    "<lora:a:start=2.0:stop=5.0>": LoraTag("a", start=2, stop=5),
    "<lora:sub/dir/name with (blanks): 0.5>": LoraTag("sub/dir/name with (blanks)", 0.5, 0.5),
    "<lora: a :1>": LoraTag(" a "),
}


@pytest.mark.parametrize("tag", TABLE)
def test_table(tag: str) -> None:
    text, requests, errors = parse_lora_tags(f"a photo {tag}of a cat")
    assert (text, requests, errors) == ("a photo of a cat", [TABLE[tag]], [])
    steps = [type(value) for value in (requests[0].start, requests[0].stop)]
    assert steps == [type(TABLE[tag].start), type(TABLE[tag].stop)], "1 is a step, 1.0 is all of them"
    assert parse_lora_tags(requests[0].format_tag())[1] == requests


@pytest.mark.parametrize(
    ("tag", "says"),
    [("<lora:>", "no file"), ("<lora:a:x=y=z>", "not a number"), ("<lora:a:wight=1>", "did you mean 'unet'|unknown"),
     ("<lora:a:te=nan>", "not finite"), ("<lora:a:1:1:1:1>", "takes te, unet and dyn"),
     ("<lora:a::0.5>", "not a number"), ("<lora:a:step=3--10>", "neither a whole number"), ("<lora:a:dyn=0>", "rank"),
     ("<lora:a:neg=0.5>", "write 0 or 1"), ("<lora:a:part=2>", "own or all"),
     ("<lora:a:te=0.5:te=0.9>", "gives te twice"), ("<lora:a:1:MIDD:lbw=INALL>", "gives lbw twice"),
     ("<lora:a:quality=1>", "known: te, unet"), ("<lora:a:step=5>", "range"), ("<lora:a:start=-1>", "step"),
     ("<lora:a:start=1.5>", "step")],
)  # fmt: skip
def test_a_bad_tag_is_named_and_the_others_stay(tag: str, says: str) -> None:
    _, requests, errors = parse_lora_tags(f"<lora:good:0.5> {tag} <lora:fine>")
    assert requests == [LoraTag("good", 0.5, 0.5), LoraTag("fine")]
    assert len(errors) == 1 and re.search(says, str(errors[0]))


@pytest.mark.parametrize(("length", "whole"), [(120, True), (121, False)])
def test_long_tags_are_quoted_in_part(length: int, whole: bool) -> None:
    tag = "<lora:a" + "a" * (length - len("<lora:a:dyn=0>")) + ":dyn=0>"
    _, _, (error,) = parse_lora_tags(tag)
    quoted = str(error)
    assert len(tag) == length and (tag in quoted) == whole and ("…" in quoted) == (not whole)
    assert whole or tag[:119] + "…" in quoted


@given(st.text(alphabet=st.sampled_from("<>:=,-.la rox019teunilbw\n\0é")))
def test_any_text_parses(text: str) -> None:
    clean, _, errors = parse_lora_tags(f"<lora:a>{text}")
    assert "<lora:a>" not in clean or ">" not in text
    assert all(len(str(e)) < 600 for e in errors)


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_items_give_a_request_or_a_prompt_error(items: list[str]) -> None:
    with contextlib.suppress(PromptError):
        parse_tag_items(items)


def test_absurd_prompts_are_quick_and_short() -> None:
    _, _, errors = parse_lora_tags("<lora:" + "a=" * 100_000 + ">" + "<lora:" * 10_000 + "<lora:a:" + "9" * 5_000 + ">")
    assert errors and all(len(str(error)) < 1_000 for error in errors)

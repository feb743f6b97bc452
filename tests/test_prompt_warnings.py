"""Tags that do not do what they seem to: one sentence each, and none about what is right."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import PromptError
from lora_ext.lora_tags import parse_tag_items
from lora_ext.prompt_warnings import bracketed_tag_warnings, unread_tag_warnings


@pytest.mark.parametrize(
    ("prompt", "negative", "says"),
    [
        ("a circle", "bad <lora:striped:1>", "<lora:striped:1> in the negative prompt is not applied"),
        ("a circle", "bad ＜lora：striped：1＞", "in the negative prompt is not applied"),
        ("a circle <lora:striped:1", "", "has no > at its end: it is read as text, and nothing is applied: write"),
        ("a <lora:striped:1, red, <lora:b:1>", "", "has no > at its end"),
        ("a circle ＜lora：striped：1＞", "", "＞ is read as text, and nothing is applied: write <lora:striped:1>"),
        ("〈lora:x:０.５〉", "", "write <lora:x:0.5>"),
        ("《LoRA：x：1》", "", "write <lora:x:1>"),
        ("<lora：x：1>", "", "write <lora:x:1>"),
        ("< lora:x:1>", "", "write <lora:x:1>"),
        ("<lora :x:1>", "", "write <lora:x:1>"),
        ("<lora=x:1>", "", "write <lora:x:1>"),
        ("&lt;lora:x:1&gt;", "", "write <lora:x:1>"),
        ("(lora:x:1)", "", "write <lora:x:1>"),
        ("{lyco:x:0.8}", "", "write <lyco:x:0.8>"),
        ("<loar:x:1>", "", "did you mean 'lora'"),
        ("<hypernet:x:1>", "", "tags begin with <lora: or <lyco:"),
    ],
)  # fmt: skip
def test_read_as_text(prompt: str, negative: str, says: str) -> None:
    (said,) = unread_tag_warnings(prompt, negative)
    assert says in said and "\n" not in said


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a circle [<lora:striped:1>:10]", "in [… : … : 10] acts at all steps: write <lora:striped:1:step=10->"),
        ("[a:b <lora:striped:1>:0.5]", "write <lora:striped:1:step=0.5->"),
        ("[<lora:striped:1>::10]", "write <lora:striped:1:step=-10>"),
        ("[a <lora:striped:1> b:(c:1.2):10]", "write <lora:striped:1:step=-10>"),
        ("[<lora:striped:1>|b]", "in [… | …] acts at all steps"),
        ("(<lora:striped:1>:1.3)", "its weight is the number in the tag"),
        ("[ <lora:striped:1> ]", "its weight is the number in the tag"),
    ],
)
def test_acts_elsewhere(prompt: str, says: str) -> None:
    (said,) = bracketed_tag_warnings(prompt)
    assert says in said and unread_tag_warnings(prompt) == []


def test_what_is_written_instead_is_right() -> None:
    for tag, range_ in (("a:1:step=10-", (10, None)), ("a:1:step=-0.5", (None, 0.5)), ("a:1:step=-10", (None, 10))):
        request = parse_tag_items(tag.split(":"))
        assert (request.start, request.stop) == range_


@pytest.mark.parametrize(
    "prompt",
    ["a <lora:x:1> b", "<LYCO:x:1:lbw=OUTALL>", "[cat:dog:10] <lora:x:1>", "(a girl, <lora:x:1>:1.2)",
     "[cat|dog] <lora:x:1>", r"\[a <lora:x:1>:10\]", "<s1> <3 a:b <", "lora: a rope", "a > b", "[lora:10]", ""],
)  # fmt: skip
def test_nothing_to_say(prompt: str) -> None:
    assert unread_tag_warnings(prompt, "bad, (ugly:1.3), [x:3]") == [] and bracketed_tag_warnings(prompt) == []


def test_as_the_web_ui_reads() -> None:
    """Names in small letters; what it left of the prompt is what stands there as text."""
    (said,) = unread_tag_warnings(
        "<LORA:x:1> <hypernet:y:1>", "", ["lora", "hypernet"], remaining_text=" ", lowercase_only=True
    )
    assert said.startswith("<LORA:x:1> is not applied") and "write <lora:…>" in said
    assert unread_tag_warnings("a <lora:x:1, b <lora:y:1>", "", remaining_text="a ") == []
    with pytest.raises(PromptError, match="has no > before the next <"):
        parse_tag_items("x:1, b <lora:y:1".split(":"))


@given(st.text(alphabet="<>[](){}|:\\ lora＜：1.,&;\n", max_size=60))
def test_any_text(text: str) -> None:
    assert all(
        isinstance(said, str) and len(said) < 400
        for said in (*unread_tag_warnings(text, text), *bracketed_tag_warnings(text))
    )


def test_absurd_prompts_are_quick() -> None:
    began = time.monotonic()
    for text in ("(" * 20_000, "<lora:" * 5_000, "<" + " " * 20_000, "[" * 9_000 + "<lora:a:1>" + ":1]" * 9_000):
        unread_tag_warnings(text, text)
        bracketed_tag_warnings(text)
    bracketed_tag_warnings("[<lora:a:1>:1]" * 1_500)
    assert time.monotonic() - began < 20

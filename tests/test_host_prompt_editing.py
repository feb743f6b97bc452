"""Prompt editing and AND, as the web UI reads them (the expected rows were seen in web UI 1.10.1)."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_host_samplers import LEVELS, Exact

from lora_ext.host.standalone.prompt_editing import PassSteps, parse_and_prompts, parse_prompt_editing
from lora_ext.host.standalone.prompt_encoding import parse_emphasis
from lora_ext.host.standalone.sampling import CfgDenoiser, Conditioning, ConditioningSchedule

ROWS = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3 ]": [(3, "a "), (10, "a b")],
    "[a::3] c": [(3, "a c"), (10, " c")],
    "[a:b:0.5]": [(5, "a"), (10, "b")],
    "[a:b:.25] c": [(2, "a c"), (10, "b c")],
    "[a:b:1.5]": [(10, "a")],
    "[a:b:0]": [(10, "b")],
    "[a:b:20]": [(10, "a")],
    "a [[b]:2]": [(2, "a "), (10, "a [b]")],
    "a[b:[c:d:4]:2]e": [(2, "abe"), (4, "ace"), (10, "ade")],
    "([a:b:2]:1.3)": [(2, "(a:1.3)"), (10, "(b:1.3)")],
    r"\[a:b:2\]": [(10, r"\[a:b:2\]")],
    "[a:b:c:2]": [(10, "[a:b:c:2]")],
    "(emphasis:1.2) [less]": [(10, "(emphasis:1.2) [less]")],
    "x [a:b": [(10, "x [a:b")],
    "x ]a[": [(10, "x ]a[")],
    "a|b [c:d:2]": [(10, "a|b [c:d:2]")],
}


@pytest.mark.parametrize("prompt", ROWS)
def test_rows(prompt: str) -> None:
    assert parse_prompt_editing(prompt, PassSteps(10)) == ROWS[prompt]


def test_turns() -> None:
    assert parse_prompt_editing("[a|b]", PassSteps(4)) == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]
    assert parse_prompt_editing("[fe|]male", PassSteps(3)) == [(1, "female"), (2, "male"), (3, "female")]


def test_the_hires_pass_counts_on() -> None:
    """Shares go from 1 to 2 there, steps from the first pass's last; what happened in the first pass has happened."""
    passes = PassSteps(6, first_pass_steps=10)
    assert parse_prompt_editing("[a:b:0.5]", passes) == [(6, "b")]
    assert parse_prompt_editing("[a:b:1.5]", passes) == [(3, "a"), (6, "b")]
    assert parse_prompt_editing("[a:b:12]", passes) == [(2, "a"), (6, "b")]


@given(st.text(alphabet="ab []():|\\2.5", max_size=30), st.integers(1, 12))
def test_any_text_is_read(prompt: str, steps: int) -> None:
    rows = parse_prompt_editing(prompt, PassSteps(steps))
    ends = [end for end, _ in rows]
    assert ends == sorted(set(ends)) and ends[-1] == steps
    if not set("[|") & set(prompt):
        assert rows == [(steps, prompt)]


def test_deep_brackets_end() -> None:
    assert parse_prompt_editing("[" * 2000 + "a" + "]" * 2000, PassSteps(4))[-1][0] == 4
    assert parse_prompt_editing("[" * 500, PassSteps(4)) == [(4, "[" * 500)]


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [
        ("a", [("a", 1)]),
        ("a AND b", [("a", 1), (" b", 1)]),
        ("a :0.5 AND b:2", [("a", 0.5), (" b", 2)]),
        ("a AND b :-1.2 AND", [("a", 1), (" b", -1.2), ("", 1)]),
        ("SAND ANDy", [("SAND ANDy", 1)]),
    ],
)
def test_and(prompt: str, rows: list[tuple[str, float]]) -> None:
    assert parse_and_prompts(prompt) == rows


class Echo(torch.nn.Module):
    """A U-Net whose guess of the noise is its text's first number, everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, *, encoder_hidden_states: torch.Tensor, **_: object) -> Exact:
        self.calls.append(len(x))
        self.sample = encoder_hidden_states[:, 0, 0].view(-1, 1, 1, 1).expand_as(x) * self.one.detach()
        return self  # type: ignore[return-value]


def say(number: float, length: int = 1) -> Conditioning:
    return Conditioning(torch.full((1, length, 2), number))


@pytest.mark.parametrize("length", [1, 2])
def test_several_texts_pull_each_with_its_weight(length: int) -> None:
    """u + cfg·Σ wᵢ(cᵢ − u), in one batch where the texts are equally long."""
    unet = Echo()
    guide = CfgDenoiser(unet, LEVELS, "epsilon", say(1), say(0.5), 2.0, weight=0.5, more_conds=[(say(3, length), -1.0)])
    noise = guide.predict_noise(torch.zeros(2, 4, 1, 1), 10)
    assert torch.allclose(noise, torch.full_like(noise, 0.5 + 2 * (0.5 * (1 - 0.5) - (3 - 0.5))))
    assert unet.calls == ([6] if length == 1 else [2, 2, 2])


def test_texts_change_while_a_picture_is_made() -> None:
    """As in the web UI, whose guesses count from 0 and rows from 1: a row that ends at 2 serves three guesses."""
    guide = CfgDenoiser(Echo(), LEVELS, "epsilon", ConditioningSchedule(((2, say(1)), (4, say(2)))), say(0), 1.0)
    seen = [float(guide.predict_noise(torch.zeros(1, 4, 1, 1), 10).mean()) for _ in range(6)]
    assert seen == [1, 1, 1, 2, 2, 2]


def test_many_blanks_take_linear_time() -> None:
    text = "a" + " " * 20_000 + "b"
    begun = time.process_time()
    parse_emphasis(text)
    assert parse_and_prompts(text) == [(text, 1.0)]
    parse_prompt_editing(text, PassSteps(20))
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "prompt",
    ["(a" * 8000, "[a" * 8000, "(a" * 8000 + ")" * 4000, "[(|" * 6000, "([)" * 6000, "(a:1" * 4000 + ":1)" * 4000],
)
def test_many_brackets_take_linear_time(prompt: str) -> None:
    """From every bracket to the end they took 2 to 4 seconds."""
    begun = time.process_time()
    parse_prompt_editing(prompt, PassSteps(10))
    parse_emphasis(prompt)
    assert time.process_time() - begun < 1


def test_a_bar_beside_a_bracket_that_nothing_closes_makes_plain_text() -> None:
    assert parse_prompt_editing("[a ( b|c]", PassSteps(2)) == [(2, "[a ( b|c]")]
    assert parse_prompt_editing("(a [b|c)", PassSteps(2)) == [(2, "(a [b|c)")]
    assert parse_prompt_editing("( a [b|c]", PassSteps(2)) == [(1, "( a b"), (2, "( a c")]

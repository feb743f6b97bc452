"""Emphasis, chunks, and the encoder's states."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lora_ext.host.standalone.prompt_encoding import (
    CHUNK_TOKENS,
    COMMA_BACKTRACK,
    PromptSegment,
    TextEncoder,
    apply_emphasis,
    parse_emphasis,
    tokenize_prompt,
)


class WordTokenizer:
    """A word is its length; a comma is 1."""

    start_id, end_id, comma_id = 62, 63, 1

    def encode(self, text: str) -> list[int]:
        return [min(len(word), 61) for word in text.replace(",", " , ").split()]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1)]),
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(a:1.3)b", [("a", 1.3), ("b", 1)]),
        ("(a: 1.3 )", [("a", 1.3)]),
        ("((a)) [b]", [("a", 1.1**2), (" ", 1), ("b", 1 / 1.1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[open", [("open", 1 / 1.1)]),
        ("closed) ]", [("closed) ]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (r"\(literal\] \\ lone\x", [(r"(literal] \ lonex", 1)]),
        ("no weight:1.2)", [("no weight:1.2)", 1)]),
        ("(a:1.2.3)", [("a:1.2.3)", 1.1)]),
        ("(a:-0.5)", [("a", -0.5)]),
        ("([a)b]", [("a", 1.1 / 1.1), ("b", 1 / 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [("a ", 1), ("house", 1.3 * 1.1 * 1.1), (" ", 1.1), ("on", 1), (" a ", 1.1), ("hill", 0.55)]
            + [(", sun, ", 1.1), ("sky", 1.1**4), (".", 1.1)],
        ),
        ("a BREAK b", [("a", 1), (None, 1), ("b", 1)]),
        ("a BREAK BREAK b", [("a", 1), (None, 1), ("", 1), (None, 1), ("b", 1)]),
        ("(a BREAK b)", [("a", 1.1), (None, 1), ("b", 1.1)]),
        ("BREAKFAST", [("BREAKFAST", 1)]),
    ],
)
def test_emphasis(prompt: str, expected: list[tuple[str | None, float]]) -> None:
    segments = parse_emphasis(prompt)
    assert [segment.text for segment in segments] == [text for text, _ in expected]
    assert [segment.weight for segment in segments] == pytest.approx([weight for _, weight in expected])


def test_an_empty_prompt_is_one_empty_chunk() -> None:
    (chunk,) = tokenize_prompt("", WordTokenizer())
    assert chunk.tokens == (62, *[63] * 76) and set(chunk.weights) == {1.0} and len(chunk.weights) == 77


def test_weights_follow_their_tokens() -> None:
    (chunk,) = tokenize_prompt("aa (bbb:2) c", WordTokenizer())
    assert chunk.tokens[:5] == (62, 2, 3, 1, 63) and chunk.weights[:5] == (1, 1, 2, 1, 1)


def test_overflow_starts_a_chunk() -> None:
    first, second = tokenize_prompt("aa " * (CHUNK_TOKENS + 1), WordTokenizer())
    assert first.tokens == (62, *[2] * CHUNK_TOKENS, 63) and second.tokens[:3] == (62, 2, 63)
    assert len(tokenize_prompt("aa " * CHUNK_TOKENS, WordTokenizer())) == 1


def test_overflow_after_a_near_comma() -> None:
    first, second = tokenize_prompt("aa " * 70 + ", " + "bbb " * 5, WordTokenizer())
    assert first.tokens.count(3) == 0 and second.tokens[:7] == (62, 3, 3, 3, 3, 3, 63)
    far = "aa " * (CHUNK_TOKENS - COMMA_BACKTRACK - 2) + ", " + "bbb " * (COMMA_BACKTRACK + 5)
    assert tokenize_prompt(far, WordTokenizer())[0].tokens.count(3) == COMMA_BACKTRACK + 1


def test_break_fills_up_the_chunk() -> None:
    first, second = tokenize_prompt("aa BREAK bbb", WordTokenizer())
    assert first.tokens[:3] == (62, 2, 63) and second.tokens[:3] == (62, 3, 63)
    assert [c.tokens[1] for c in tokenize_prompt("BREAK aa", WordTokenizer())] == [63, 2]


def test_emphasis_keeps_the_mean() -> None:
    states = torch.randn(1, 77, 8) + 1
    weights = torch.ones(1, 77)
    assert apply_emphasis(states, weights) is states
    weights[0, 3] = 1.5
    out = apply_emphasis(states, weights)
    assert torch.allclose(out.mean(), states.mean())
    assert torch.allclose(out[0, 3] / out[0, 4], 1.5 * states[0, 3] / states[0, 4])


def test_emphasis_without_a_mean() -> None:
    states = torch.cat([torch.ones(1, 1, 8), -torch.ones(1, 1, 8)], dim=1)
    assert torch.equal(apply_emphasis(states, torch.tensor([[1.0, 2.0]]))[0, 1], torch.full((8,), -2.0))


@pytest.fixture(scope="module")
def clip() -> CLIPTextModelWithProjection:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        projection_dim=8,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval().requires_grad_(False)


def test_clip_skip_is_a_shorter_encoder(clip: CLIPTextModelWithProjection) -> None:
    parts = tokenize_prompt("aa (bbb:1.3)", WordTokenizer())
    whole = TextEncoder(clip)
    skipped, _ = whole.encode_each_prompt([parts], 63, clip_skip=2)
    layers = clip.text_model.encoder.layers
    clip.text_model.encoder.layers = layers[:-1]
    try:
        shorter, _ = whole.encode_each_prompt([parts], 63)
    finally:
        clip.text_model.encoder.layers = layers
    assert torch.equal(skipped, shorter)
    assert not torch.allclose(skipped, whole.encode_each_prompt([parts], 63)[0])


def test_padding_and_pooling_of_open_clip(clip: CLIPTextModelWithProjection) -> None:
    """With 0 after the end token, the pooled state is the end token's, whatever follows it."""
    encoder = TextEncoder(clip, "penultimate", 0, pooled=True)
    state, pooled = encoder.encode_each_prompt([tokenize_prompt("aa BREAK bbb", WordTokenizer())], 63)
    tokens = torch.tensor([[62, 2, 63, *[0] * 74]])
    out = clip(tokens, output_hidden_states=True)
    assert state.shape == (1, 154, 16) and torch.equal(state[:, :77], out.hidden_states[-2])
    assert pooled is not None and torch.allclose(pooled, clip.text_projection(out.last_hidden_state[:, 2]))


def test_segments_are_values() -> None:
    assert PromptSegment("a") == PromptSegment("a", 1.0)

"""Block weights: layouts, presets, special values, ranges, element rules, and errors that help."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.block_weights import (
    BLOCK_PRESETS,
    ElementRule,
    parse_block_presets,
    parse_block_weights,
    parse_element_rules,
)
from lora_ext.blocks import BLOCK_LABELS, BLOCK_LAYOUTS, parse_block_range
from lora_ext.errors import BlockError

NUMBERS = st.floats(-2, 2).map(lambda v: round(v, 3))


@given(st.data(), st.sampled_from(sorted(BLOCK_LAYOUTS)))
def test_a_vector_gives_each_label_its_value(data: st.DataObject, size: int) -> None:
    values = data.draw(st.lists(NUMBERS, min_size=size, max_size=size))
    blocks = parse_block_weights(",".join(map(str, values)))
    layout = BLOCK_LAYOUTS[size]
    assert blocks.vector(layout) == tuple(values)
    absent = 1.0 if size == 25 else 0.0
    assert all(blocks.weight_of(name) == absent for name in BLOCK_LABELS if name not in layout.labels)
    assert blocks.weight_of("") == 1.0
    assert parse_block_weights(blocks.format_weights()).vector() == blocks.vector()


def test_presets_users_know() -> None:
    out = parse_block_weights("OUTALL")
    assert [name for name in BLOCK_LABELS if out.weight_of(name)] == ["BASE", *(f"OUT{i:02}" for i in range(3, 12))]
    assert parse_block_weights("outall") == out
    middle = [name for name in BLOCK_LABELS if parse_block_weights("MIDD").weight_of(name)]
    assert middle == "BASE IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06".split()
    assert all(len(values.split(",")) == 17 for values in BLOCK_PRESETS.values())
    assert parse_block_weights("ALL0.5").weight_of("MID") == 0.5


def test_special_values() -> None:
    drawn = iter([0.12345, 1.49999])
    text = ",".join(["R", "U", "X", "X+0.25", "X-1", *["0"] * 7])
    blocks = parse_block_weights(text, x=0.5, random_uniform=lambda low, high: next(drawn))
    assert blocks.vector(BLOCK_LAYOUTS[12])[:5] == (0.123, 1.5, 0.5, 0.75, -0.5)
    for _ in range(50):
        blocks = parse_block_weights(",".join(["R"] * 6 + ["U"] * 6))
        assert all(0 <= v <= 1 for v in blocks.vector(BLOCK_LAYOUTS[12])[:6])
        assert all(-0.5 <= v <= 1.5 for v in blocks.vector(BLOCK_LAYOUTS[12])[6:])


@pytest.mark.parametrize(
    ("text", "first", "last", "count"),
    [("IN04-OUT05", "IN04", "OUT05", 15), ("OUT05-IN04", "IN04", "OUT05", 15), ("m00", "MID", "MID", 1),
     ("IN", "IN00", "IN11", 12), ("in1 OUT3", "IN01", "OUT03", 2), ("ALL", "BASE", "OUT11", 26)],
)  # fmt: skip
def test_ranges(text: str, first: str, last: str, count: int) -> None:
    found = parse_block_range(text)
    assert (found[0], found[-1], len(found)) == (first, last, count)


def test_element_rules() -> None:
    blocks = parse_block_weights("ALL")
    (rule,) = parse_element_rules("IN05-OUT05:attn2:0")
    assert rule == ElementRule(parse_block_range("IN05-OUT05"), ("attn2",), 0.0)
    ruled = type(blocks)(blocks.weights, parse_element_rules("IN05-OUT05:attn2:0,NOT BASE:to_q:0.5, :proj:2"))
    assert ruled.weight_of("IN05", ["x_attn2_to_k"]) == 0.0
    assert ruled.weight_of("IN05", ["x_attn2_to_q"]) == 0.5
    assert ruled.weight_of("BASE", ["self_attn_to_q"]) == 1.0
    assert ruled.weight_of("BASE", ["q_proj"]) == 2.0
    assert parse_element_rules("ATTNDEEPOFF") == parse_element_rules("IN05-OUT05:attn:0")
    assert parse_element_rules(":NOT attn:0")[0].elements_not


@pytest.mark.parametrize(
    ("text", "says"),
    [("OUTAL", "OUTALL"), ("1,2,3", "3 block weights.*12, 17, 20, 25, 26"), ("1,a" + ",0" * 10, "'a'"),
     ("nan" + ",0" * 11, "not finite"), ("", "preset"), (",".join(["1e999"] * 12), "not finite")],
)  # fmt: skip
def test_bad_vectors_say_what_fits(text: str, says: str) -> None:
    with pytest.raises(BlockError, match=says):
        parse_block_weights(text)


@pytest.mark.parametrize("text", ["IN05:attn", "IN99:attn:1", "IN05:attn:x", "NOSUCH", "IN05-:a:1"])
def test_bad_rules_are_refused(text: str) -> None:
    with pytest.raises(BlockError):
        parse_element_rules(text)


def test_presets_file() -> None:
    text = "# my presets\nFACE:1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1\n\nBAD LINE\n X : R,U\n"
    assert list(parse_block_presets(text)) == ["FACE", "X"]
    assert parse_block_weights("FACE", presets=parse_block_presets(text)).weight_of("OUT03") == 1

"""Block weights: layouts, presets, special values, ranges, element rules, and errors that help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.block_weights import (
    BLOCK_PRESETS,
    BlockWeights,
    ElementRule,
    parse_block_presets,
    parse_block_weights,
    parse_element_rules,
    parse_finite_number,
)
from lora_ext.blocks import BLOCK_LABELS, BLOCK_LAYOUTS, parse_block_label, parse_block_range
from lora_ext.errors import BlockError

SHARED = json.loads((Path(__file__).parent / "data" / "block_weights.json").read_text(encoding="utf-8"))
"""Texts and what they are read as, by the page too (tests/javascript/block_weights.test.mjs)."""
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


@pytest.mark.parametrize("text", ["[1, 0, 0.5, -1, 1, 1, 1, 1, 1, 1, 1, 1]", " [1,0,.5,-1" + ",1" * 8 + "]"])
def test_a_list_in_brackets_is_the_list(text: str) -> None:
    """kohya's `--lbws` takes JSON lists."""
    assert parse_block_weights(text) == parse_block_weights("1,0,0.5,-1" + ",1" * 8)


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
     (",".join("1" * 61), "61 block weights are for Flux"), ("[]", "preset"),
     ("0.6", "'0.6' is a single number"), (".6", "12, 17, 20, 25, 26 values"),
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


def _names(text: str) -> list[str]:
    return [name for name in BLOCK_LABELS if parse_block_weights(text).weight_of(name) == 1]


@pytest.mark.parametrize(
    ("preset", "blocks"),
    [
        ("NONE", ""),
        ("ALL", "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"),
        ("INS", "BASE IN01 IN02 IN04"),
        ("IND", "BASE IN05 IN07 IN08"),
        ("INALL", "BASE IN01 IN02 IN04 IN05 IN07 IN08"),
        ("MIDD", "BASE IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06"),
        ("OUTD", "BASE OUT03 OUT04 OUT05 OUT06"),
        ("OUTS", "BASE OUT07 OUT08 OUT09 OUT10 OUT11"),
        ("OUTALL", "BASE OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"),
    ],
)
def test_each_preset_s_blocks(preset: str, blocks: str) -> None:
    assert _names(preset) == blocks.split()
    assert set(parse_block_weights(preset).vector()) <= {0.0, 1.0}


def test_the_layouts_of_both_families() -> None:
    """kohya's and the block-weight extension's lists, written out."""
    down, up = "IN01 IN02 IN04 IN05 IN07 IN08", "OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
    written = {
        12: "BASE IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
        17: f"BASE {down} MID {up}",
        20: "BASE " + " ".join([f"IN0{i}" for i in range(9)] + ["MID"] + [f"OUT0{i}" for i in range(9)]),
        25: " ".join([f"IN{i:02}" for i in range(12)] + ["MID"] + [f"OUT{i:02}" for i in range(12)]),
    }
    written[26] = "BASE " + written[25]
    assert {size: layout.labels for size, layout in BLOCK_LAYOUTS.items()} == {
        size: tuple(labels.split()) for size, labels in written.items()
    }


@pytest.mark.parametrize(
    ("text", "label"),
    [("m00", "MID"), ("M0", "MID"), ("Middle", "MID"), ("mid", "MID"), ("in4", "IN04"), (" OUT05 ", "OUT05"),
     ("out11", "OUT11"), ("base", "BASE")],
)  # fmt: skip
def test_labels_as_people_write_them(text: str, label: str) -> None:
    assert parse_block_label(text) == label


@pytest.mark.parametrize(("text", "says"), [("IN12", "IN1"), ("IN004", "IN0"), ("XIN04", "IN04"), ("OUT", "")])
def test_labels_that_are_none(text: str, says: str) -> None:
    with pytest.raises(BlockError, match=f"unknown block '{text}'.*{says}"):
        parse_block_label(text)


def test_sets_of_blocks_are_exact() -> None:
    assert parse_block_range("in") == tuple(f"IN{i:02}" for i in range(12))
    assert parse_block_range("Out") == tuple(f"OUT{i:02}" for i in range(12))
    assert parse_block_range("all") == BLOCK_LABELS
    assert parse_block_range("OUT01-IN10 base") == ("BASE", "IN10", "IN11", "MID", "OUT00", "OUT01")
    assert parse_block_range("") == ()


@pytest.mark.parametrize("blocks", ["", "IN04 MID", "NOT IN04 MID"])
@pytest.mark.parametrize("elements", ["", "attn1 ff", "NOT attn1 ff"])
def test_which_layers_a_rule_is_for(blocks: str, elements: str) -> None:
    rule = ElementRule.parse(f"{blocks}:{elements}:0.5")
    for block in ("IN04", "MID", "OUT03", ""):
        for names in (("x_attn1_to_q", "y"), ("x", "x_ff_net"), ("x_attn2", "y"), ()):
            here = not blocks or (block in ("IN04", "MID")) != blocks.startswith("NOT")
            named = any(part in name for part in ("attn1", "ff") for name in names)
            meant = not elements or named != elements.startswith("NOT")
            assert rule.applies_to(block, names) == (here and meant), (block, names)


def test_the_last_rule_that_applies_counts() -> None:
    rules = parse_element_rules("ALL:attn:0.5\n:attn1:0.25, , NOT IN04:ff:3")
    assert len(rules) == 3
    blocks = BlockWeights({"IN04": 0.1}, rules)
    layers = {"x_attn1": 0.25, "x_attn2": 0.5, "x_ff": 0.1, "x": 0.1}
    assert {name: blocks.weight_of("IN04", [name]) for name in layers} == layers
    assert blocks.weight_of("MID", ["x_ff"]) == 3 and blocks.weight_of("MID", ["x"]) == 1
    assert blocks.weight_of("", ["x_attn1"]) == 0.25 and BlockWeights({"": 0.3}).weight_of("") == 1
    names = iter(["x_attn1"])  # read once for all rules
    assert blocks.weight_of("IN04", names) == 0.25


@pytest.mark.parametrize(
    ("preset", "rule"),
    [("ATTNDEEPON", "IN05-OUT05:attn:1"), ("ATTNDEEPOFF", "IN05-OUT05:attn:0"), ("PROJDEEPOFF", "IN05-OUT05:proj:0")],
)
def test_element_presets(preset: str, rule: str) -> None:
    assert parse_element_rules(preset) == (ElementRule.parse(rule),)
    assert parse_element_rules(" mine ", {"mine": "MID:ff:2"}) == (ElementRule(("MID",), ("ff",), 2.0),)
    with pytest.raises(BlockError, match="did you mean 'ATTNDEEPON'"):
        parse_element_rules("ATTNDEEPO")


def test_random_values_have_their_limits_and_three_digits() -> None:
    asked = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.123456

    blocks = parse_block_weights("r,u,x," + ",".join(["0"] * 9), random_uniform=uniform)
    assert asked == [(0.0, 1.0), (-0.5, 1.5)]
    assert blocks.vector(BLOCK_LAYOUTS[12])[:3] == (0.123, 0.123, 1.0)
    more = parse_block_weights("x5,X-2,x+1e1," + ",".join(["0"] * 9), x=0.5)
    assert more.vector(BLOCK_LAYOUTS[12])[:3] == (5.5, -1.5, 10.5)
    assert more.labels == BLOCK_LAYOUTS[12].labels, "which blocks the vector is about is reported"
    assert more == BlockWeights(more.weights), "but the weights are what counts"


def test_weights_are_written_in_the_shortest_layout_that_holds_them() -> None:
    for size, layout in BLOCK_LAYOUTS.items():
        values = [0.5 + number / 100 for number in range(size)]
        text = ",".join(format(value, "g") for value in values)
        assert parse_block_weights(text).format_weights() == text, layout.name
    assert BlockWeights({}).format_weights() == ",".join(["1"] * 25)
    assert BlockWeights({"MID": 0.25}).vector() == tuple(0.25 if name == "MID" else 1 for name in BLOCK_LABELS)


def test_a_preset_by_its_exact_name_comes_first() -> None:
    presets = {"face": ",".join(["0"] * 17), "FACE": ",".join(["1"] * 17), "für": ",".join(["0.5"] * 17)}
    for name, weight in (("face", 0), ("FACE", 1), ("Face", 1), ("für", 0.5), ("FÜR", 0.5), ("fu\u0308r", 0.5)):
        assert parse_block_weights(f" {name} ", presets=presets).weight_of("MID") == weight, name
    assert parse_block_presets(" fu\u0308r : 1,2:3 \n  # x:y\n") == {"für": "1,2:3"}


@pytest.mark.parametrize("text", ["-inf", "inf", "nan", "1e999", "x1", ""])
def test_numbers_that_are_not_finite_are_refused(text: str) -> None:
    with pytest.raises(BlockError, match="of it all"):
        parse_finite_number(text, "of it all")
    assert parse_finite_number(" -1e3 ", "") == -1000


def test_the_layouts_that_the_page_is_tested_with() -> None:
    assert {size: " ".join(layout.labels) for size, layout in BLOCK_LAYOUTS.items()} == {
        int(size): labels for size, labels in SHARED["layouts"].items()
    }


@pytest.mark.parametrize("case", SHARED["cases"], ids=lambda case: repr(case["text"]))
def test_the_page_reads_the_same(case: dict[str, Any]) -> None:
    """R, U and X are read as numbers here, and kept as they are by the page."""

    def draw(low: float, high: float) -> float:
        return {(0.0, 1.0): 100.0, (-0.5, 1.5): 200.0}[low, high]

    def number(value: float | str) -> float:
        if isinstance(value, str) and value[0] == "X":
            return 1000.0 + float(value[1:] or 0)
        return {"R": 100.0, "U": 200.0}[value] if isinstance(value, str) else float(value)

    if case["size"] is None:
        with pytest.raises(BlockError):
            parse_block_weights(case["text"], presets=SHARED["presets"])
        return
    found = parse_block_weights(case["text"], presets=SHARED["presets"], x=1000.0, random_uniform=draw)
    layout = BLOCK_LAYOUTS[case["size"]]
    assert found.labels == layout.labels
    assert found.vector(layout) == tuple(map(number, case["values"]))

"""Captions: kohya's results with the same random numbers, and what holds for every caption."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import TrainError
from lora_ext.train.data.captions import (
    CaptionRules,
    load_caption,
    longest_token_count,
    replace_wildcards,
    vary_caption,
)

GOLDEN = json.loads((Path(__file__).parent / "data" / "kohya" / "captions.json").read_text(encoding="utf-8"))
TAGS = st.lists(st.text("abc é", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=8)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: " ".join(row[4]) or "plain")
def test_a_caption_s_fate_is_kohya_s(row: list) -> None:
    caption, seed, step, epoch, options, result = row
    assert (
        vary_caption(caption, CaptionRules(**options), random.Random(seed), epoch=epoch, step=step, steps=100) == result
    )


@given(TAGS, st.integers(0, 4), st.integers())
def test_shuffling_keeps_the_tags_and_the_first_ones_in_place(tags: list[str], keep: int, seed: int) -> None:
    rules = CaptionRules(shuffle_caption=True, keep_tokens=keep)
    shuffled = vary_caption(", ".join(tags), rules, random.Random(seed)).split(", ")
    assert sorted(shuffled) == sorted(tags) and shuffled[:keep] == tags[:keep]


@given(TAGS, st.integers(0, 4), st.floats(0, 1), st.integers())
def test_tag_dropout_spares_the_kept_and_the_order(tags: list[str], keep: int, rate: float, seed: int) -> None:
    tags = list(dict.fromkeys(tags))
    rules = CaptionRules(caption_tag_dropout_rate=rate, keep_tokens=keep)
    left = [tag for tag in vary_caption(", ".join(tags), rules, random.Random(seed)).split(", ") if tag]
    assert left[: min(keep, len(tags))] == tags[:keep] and left == [tag for tag in tags if tag in left]


@pytest.mark.long
@given(st.floats(0.05, 0.95))
def test_dropout_s_share(rate: float) -> None:
    rules = CaptionRules(caption_dropout_rate=rate)
    empty = sum(not vary_caption("a", rules, random.Random(seed)) for seed in range(2000))
    assert abs(empty / 2000 - rate) < 0.06


def test_wildcards() -> None:
    seen = {replace_wildcards("{a|b} and {{c}} }", random.Random(seed)) for seed in range(20)}
    assert seen == {"a and {c} }", "b and {c} }"}
    lines = {vary_caption("one\ntwo", CaptionRules(enable_wildcard=True), random.Random(seed)) for seed in range(20)}
    assert lines == {"one", "two"}


def test_fixed_captions_are_known_as_such() -> None:
    assert CaptionRules(keep_tokens=2, caption_prefix="x").fixed
    assert not CaptionRules(shuffle_caption=True).fixed and not CaptionRules(caption_dropout_rate=0.1).fixed


def test_where_captions_are_found(tmp_path: Path) -> None:
    picture = tmp_path / "a.b.png"
    assert load_caption(picture) is None
    (tmp_path / "a.b.png.txt").write_text("beside the whole name", encoding="utf-8")
    assert load_caption(picture) == "beside the whole name"
    (tmp_path / "a.b.txt").write_text("\ufeff a cat \r\nor two  \n", encoding="utf-8")
    assert load_caption(picture) == "a cat\nor two"
    (tmp_path / "a.b.caption").write_text("first", encoding="utf-8")
    assert load_caption(picture) == "first" and load_caption(picture, "txt") == "a cat\nor two"
    (tmp_path / "a.b.tags").write_bytes("café".encode("latin-1"))
    with pytest.raises(TrainError, match=r"a\.b\.tags is not UTF-8"):
        load_caption(picture, ".tags")


def test_the_longest_a_caption_can_be() -> None:
    def words(text: str) -> int:
        return len(text.split())

    rules = CaptionRules(enable_wildcard=True, caption_prefix="pre fix")
    assert longest_token_count("a {cat|big old dog}\nb c d e f g", rules, words) == 6
    assert longest_token_count("a b\nc d e", CaptionRules(), words) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"caption_dropout_rate": 1.5}, "from 0 to 1"),
        ({"caption_separator": ""}, "comma"),
        ({"shuffle_caption": True, "keep_tokens": -1}, "negative"),
    ],
)
def test_rules_that_cannot_be_say_why(words: dict, says: str) -> None:
    with pytest.raises(TrainError, match=says):
        CaptionRules(**words)

"""Regions: what people write, masks at any resolution, weights that sum to 1, and prompts divided into rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_ext.errors import PromptError
from lora_ext.lora_tags import LoraTag, parse_lora_tags
from lora_ext.prompt_regions import RegionalPrompt, split_by_region
from lora_ext.regions import Region, combine_masks, divide_prompt, parse_region

PLACES = {  # text -> left, right, top, bottom
    "left": (0, 0.5, 0, 1),
    "Right": (0.5, 1, 0, 1),
    "top": (0, 1, 0, 0.5),
    "bottom": (0, 1, 0.5, 1),
    "top left": (0, 0.5, 0, 0.5),
    "center": (0.25, 0.75, 0.25, 0.75),
    "centre": (0.25, 0.75, 0.25, 0.75),
    "col 2/4": (0.25, 0.5, 0, 1),
    "col2/4": (0.25, 0.5, 0, 1),
    "row 1/2": (0, 1, 0, 0.5),
    "row 2/2 col 1/2": (0, 0.5, 0.5, 1),
    "0-0.25;0.5-1": (0, 0.25, 0.5, 1),
    " .25 - 1 ; 0 - 1 ": (0.25, 1, 0, 1),
}


@pytest.mark.parametrize("text", PLACES)
def test_places(text: str) -> None:
    region = parse_region(text)
    assert region == Region(*PLACES[text])
    assert parse_region(region.format_region()) == region


@pytest.mark.parametrize(
    "text",
    ["", "0-2;0-1", "0.5-0.5;0-1", "1-0;0-1", "0-1;0", "0-1", "col 3/2", "col 0/2", "col 2", "left right"],
)
def test_what_is_no_region(text: str) -> None:
    with pytest.raises(PromptError, match=r"at="):
        parse_region(text)


def test_other_names_are_masks() -> None:
    region = parse_region("my face", 0.1)
    assert (region.mask_name, region.feather, region.format_region()) == ("my face", 0.1, "my face")
    with pytest.raises(PromptError, match="not loaded"):
        region.mask(2, 2)
    pixels = torch.zeros(4, 4)
    pixels[:, :2] = 1
    assert region.with_pixels(pixels).mask(2, 2).tolist() == [[1, 0], [1, 0]]
    white = parse_region("white", 0.5).with_pixels(torch.ones(30, 50))
    assert bool((white.mask(7, 9) == 1).all())


def test_soft_edges_rise_over_their_width() -> None:
    row = parse_region("right", 0.5).mask(1, 8)[0]
    assert row.tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    pixels = torch.zeros(80, 80)
    pixels[:, 40:] = 1
    soft = parse_region("painted", 0.5).with_pixels(pixels).mask(1, 8)[0]
    assert (soft - row).abs().max() < 0.02, "a mask's edge is as soft as a rectangle's"


SIZES = st.integers(1, 20)
FEATHERS = st.sampled_from([0.0, 0.1, 0.3, 1.0])


@given(st.integers(1, 5), FEATHERS, SIZES, SIZES)
def test_columns_add_up_to_one_everywhere(count: int, feather: float, height: int, width: int) -> None:
    masks = torch.stack([parse_region(f"col {i + 1}/{count}", feather).mask(height, width) for i in range(count)])
    assert bool((masks.sum(0) == 1).all()) and bool((masks >= 0).all())


@given(st.lists(st.sampled_from([*PLACES]), min_size=1, max_size=4), FEATHERS, SIZES, SIZES, st.booleans())
def test_weights_sum_to_one_in_any_order(names: list[str], feather: float, height: int, width: int, base: bool) -> None:
    masks = torch.stack([parse_region(name, feather).mask(height, width) for name in names])
    weights = combine_masks(masks, 0.2 if base else 0.0, with_base=base)
    torch.testing.assert_close(weights.sum(0), torch.ones(height, width), rtol=0, atol=1e-6)
    turned = combine_masks(masks.flip(0), 0.2 if base else 0.0, with_base=base)
    assert torch.equal(weights[int(base) :].flip(0), turned[int(base) :])


def test_a_region_over_everything_has_all_the_weight() -> None:
    assert combine_masks(Region().mask(3, 5)[None])[1].tolist() == [[1.0] * 5] * 3


def test_a_white_mask_of_any_size_is_one_in_every_layer() -> None:
    """Bilinear resizing of additional-networks gives numbers just below 1, as at 520x768."""
    for feather in (0.0, 0.1):
        white = Region(mask_name="white", feather=feather).with_pixels(torch.ones(100, 130))
        for height, width in ((64, 64), (65, 96), (75, 125), (38, 63), (19, 32), (1, 1), (300, 333)):
            assert bool((white.mask(height, width) == 1).all())


def test_tags() -> None:
    tag = "<lora:a:0.8:at=top left:feather=0.1:way=output>"
    _, tags, errors = parse_lora_tags(tag + "<lora:b:1:at=0-2;0-1><lora:c:at=left>")
    assert [one.name for one in tags] == ["a", "c"], "a bad region disables its own tag only"
    assert len(errors) == 1 and "at=0-2;0-1" in str(errors[0])
    assert tags[0] == LoraTag("a", 0.8, 0.8, at="top left", feather=0.1, way="output") and tags[0].format_tag() == tag


@pytest.mark.parametrize("items", ["feather=0.1", "way=output", "at=left:way=outptu", "at=left:feather=2", "at="])
def test_wrong_places_of_tags(items: str) -> None:
    _, tags, errors = parse_lora_tags(f"<lora:a:1:{items}>")
    assert not tags and len(errors) == 1


WORDS = {  # prompt, ratios -> (region, text) of each cell, as Regional Prompter divides it
    ("a ADDCOL b", ""): [("0-0.5;0-1", "a"), ("0.5-1;0-1", "b")],
    ("a ADDROW b", ""): [("0-1;0-0.5", "a"), ("0-1;0.5-1", "b")],
    ("a ADDCOL b", "1,3"): [("0-0.25;0-1", "a"), ("0.25-1;0-1", "b")],
    ("a ADDROW b", "1,3"): [("0-1;0-0.25", "a"), ("0-1;0.25-1", "b")],
    ("a BREAK b", "1,1"): [("0-0.5;0-1", "a"), ("0.5-1;0-1", "b")],
    ("a BREAK b", "1;1"): [("0-1;0-0.5", "a"), ("0-1;0.5-1", "b")],
    ("a BREAK b BREAK c", "1,1,1;1"): [("0-0.5;0-0.5", "a"), ("0.5-1;0-0.5", "b"), ("0-1;0.5-1", "c")],
    ("a BREAK b BREAK c", "1,1"): [("0-0.5;0-1", "a"), ("0.5-1;0-1", "b BREAK c")],
    ("a ADDCOL b BREAK c", ""): [("0-0.5;0-1", "a"), ("0.5-1;0-1", "b BREAK c")],
    ("a ADDCOL b ADDROW c", "1,2,2;1"): [("0-0.5;0-0.5", "a"), ("0.5-1;0-0.5", "b"), ("0-1;0.5-1", "c")],
    ("a ADDCOL b ADDROW c", "3,1,3;1,5"): [("0-0.25;0-0.75", "a"), ("0.25-1;0-0.75", "b"), ("0-1;0.75-1", "c")],
    ("a ADDCOMM b ADDCOL c", ""): [("0-0.5;0-1", "a, b"), ("0.5-1;0-1", "a, c")],
    ("a ADDCOMM x ADDBASE b ADDCOL c", ""): [("0-0.5;0-1", "a, b"), ("0.5-1;0-1", "a, c")],
}


@pytest.mark.parametrize(("prompt", "ratios"), WORDS)
def test_words(prompt: str, ratios: str) -> None:
    divided = divide_prompt(prompt, ratios)
    assert divided is not None
    assert [(region.format_region(), text) for region, text in divided.regions] == WORDS[prompt, ratios]
    assert divided.base == ("a, x" if "ADDBASE" in prompt else None)


def test_prompts_without_words_are_not_divided() -> None:
    assert divide_prompt("a BREAK b, PADDCOL, addcol") is None
    for ratios in ("1,x", "0,1", "-1", "nan"):
        with pytest.raises(PromptError, match="ratios"):
            divide_prompt("a ADDCOL b", ratios)
    with pytest.raises(PromptError, match="up to 64"):
        divide_prompt("a ADDCOL " * 64)


def _rows(prompt: RegionalPrompt) -> list[tuple[str, str, list[str]]]:
    """(place, text, names of tags) of each row."""
    return [
        (row.region.format_region() if row.region else "", row.text.strip(), [tag.name for tag in row.tags])
        for row in prompt.rows
    ]


ROWS = {
    "cats <lora:c:1>": [("", "cats", ["c"])],
    "cats <lora:c:1><lora:c:1>": [("", "cats", ["c", "c"])],
    "cats <lora:a:1:at=left>": [("", "cats", []), ("0-0.5;0-1", "cats", ["a"])],
    "cats <lora:c:1><lora:a:1:at=left><lora:b:1:at=0-0.5;0-1>": [
        ("", "cats", ["c"]),
        ("0-0.5;0-1", "cats", ["c", "a", "b"]),
    ],
    "<lora:b:1:at=right>cats<lora:a:1:at=left>": [("0-0.5;0-1", "cats", ["a"]), ("0.5-1;0-1", "cats", ["b"])],
    "cats <lora:a:1:at=left:way=output>": [("", "cats", ["a"])],
    "<lora:c:1> two ADDCOMM cat <lora:a:1> ADDCOL dog <lora:b:1>": [
        ("0-0.5;0-1", "two, cat", ["c", "a"]),
        ("0.5-1;0-1", "two, dog", ["c", "b"]),
    ],
    "all <lora:o:1> ADDBASE cat <lora:a:1> ADDCOL dog": [
        ("", "all", ["o"]),
        ("0-0.5;0-1", "cat", ["a"]),
        ("0.5-1;0-1", "dog", []),
    ],
    "two<lora:x:1:at=top> ADDCOMM cat ADDCOL dog": [
        ("0-0.5;0-1", "two, cat", []),
        ("0-1;0-0.5", "two", ["x"]),
        ("0.5-1;0-1", "two, dog", []),
    ],
}


@pytest.mark.parametrize("prompt", ROWS)
def test_rows_of_a_prompt(prompt: str) -> None:
    made = split_by_region(prompt)
    assert (_rows(made), made.errors) == (ROWS[prompt], ())
    assert made.has_regions == (len(made.rows) > 1)
    total = made.weights(6, 10).sum(0)
    torch.testing.assert_close(total, torch.ones(6, 10), rtol=0, atol=1e-6)


def test_base_share() -> None:
    made = split_by_region("all ADDBASE cat ADDCOL dog", base_share=0.25)
    assert made.weights(1, 2).tolist() == [[[0.25, 0.25]], [[0.75, 0.0]], [[0.0, 0.75]]]


def test_a_mask_that_is_missing_disables_its_own_tag_only() -> None:
    def load_mask(region: Region) -> Region:
        if region.mask_name != "face":
            raise PromptError(f"no mask {region.mask_name!r}; did you mean 'face'?")
        return region.with_pixels(torch.eye(2))

    prompt = "x <lora:a:1:at=face><lora:b:1:at=fase><lora:c:1:at=left>"
    made = split_by_region(prompt, load_mask=load_mask)
    assert [row[2] for row in _rows(made)] == [[], ["c"], ["a"]]
    assert [str(error) for error in made.errors] == ["<lora:b:1:at=fase>: no mask 'fase'; did you mean 'face'?"]
    assert made.weights(2, 2)[2].tolist() == [[0.5, 0.0], [0.0, 1.0]], "left and the mask share the first pixel"
    assert len(split_by_region(prompt).errors) == 2


@settings(max_examples=30)
@given(st.permutations(["<lora:a:1:at=left>", "<lora:b:1:at=right>", "<lora:c:1:at=center:feather=0.2>"]))
def test_the_order_of_tags_does_not_matter(tags: list[str]) -> None:
    first, other = (
        split_by_region("x <lora:a:1:at=left><lora:b:1:at=right><lora:c:1:at=center:feather=0.2>"),
        (split_by_region(f"x {''.join(tags)}")),
    )
    assert _rows(first) == _rows(other)
    assert torch.equal(first.weights(8, 8), other.weights(8, 8))

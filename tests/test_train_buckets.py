"""Buckets: kohya's numbers, and what holds for every picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import TrainError
from lora_ext.train.data.buckets import BucketRules, bucket_sizes, fit_to_bucket

GOLDEN = json.loads((Path(__file__).parent / "data" / "kohya" / "buckets.json").read_text(encoding="utf-8"))
SIDES = st.integers(1, 6000)
SIZES = st.tuples(SIDES, SIDES)


@pytest.mark.parametrize("case", GOLDEN["buckets"])
def test_the_grid_is_kohya_s(case: str) -> None:
    width, height, low, high, step = (int(n) for n in re.findall(r"\d+", case))
    sizes = bucket_sizes(BucketRules((width, height), True, low, high, step))
    assert [list(size) for size in sizes] == GOLDEN["buckets"][case]


@pytest.mark.parametrize("case", ["select", "select_no_upscale"])
def test_a_picture_s_bucket_is_kohya_s(case: str) -> None:
    rules = BucketRules((512, 512), True, bucket_no_upscale=case.endswith("upscale"))
    for size, (bucket, resized, _) in GOLDEN[case]:
        assert fit_to_bucket(tuple(size), rules) == (tuple(bucket), tuple(resized))


@given(SIZES, st.booleans(), st.booleans(), st.sampled_from([8, 32, 64]))
def test_the_scaled_picture_covers_its_bucket(size: tuple[int, int], bucketed: bool, small: bool, step: int) -> None:
    rules = BucketRules((512, 640), bucketed, bucket_reso_steps=step, bucket_no_upscale=small)
    bucket, resized = fit_to_bucket(size, rules)
    assert resized[0] >= bucket[0] and resized[1] >= bucket[1]
    assert bucket[0] % 8 == bucket[1] % 8 == 0 and min(bucket) > 0
    if not bucketed:
        assert bucket == (512, 640)
    elif small and min(size) >= step:
        assert resized[0] <= size[0] and resized[1] <= size[1]
    # without upscaling kohya's scripts round a scaled side to whole pixels before it is cut to a step
    assert bucket[0] * bucket[1] <= 512 * 640 + (max(bucket) if small else 0)
    if not small:  # nothing of a picture is cut off on both sides
        assert resized[0] <= bucket[0] or resized[1] <= bucket[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"resolution": (510, 512)}, "504x512"),
        ({"resolution": (4, 4)}, "too small"),
        ({"enable_bucket": True, "bucket_reso_steps": 10}, "multiple of 8"),
        ({"enable_bucket": True, "min_bucket_reso": 600}, "give 512 or less"),
        ({"enable_bucket": True, "max_bucket_reso": 256}, "give 512 or more"),
        ({"resolution": (512, 4)}, "too small"),
        ({"resolution": (7, 512)}, "too small"),
        ({"resolution": (512, 510)}, "512x504"),
        ({"enable_bucket": True, "bucket_reso_steps": 4}, "multiple of 8"),
        ({"enable_bucket": True, "resolution": (256, 512), "min_bucket_reso": 300}, "give 256 or less"),
        ({"enable_bucket": True, "resolution": (512, 1088)}, "give 1088 or more"),
        ({"enable_bucket": True, "bucket_no_upscale": True, "bucket_reso_steps": 520}, "above the resolution"),
    ],
)
def test_sizes_that_cannot_be_say_what_to_give(words: dict, says: str) -> None:
    with pytest.raises(TrainError, match=says):
        BucketRules(**words)


@pytest.mark.parametrize(
    "words",
    [
        {"resolution": (8, 8)},
        {"enable_bucket": True, "resolution": (256, 1024)},
        {"enable_bucket": True, "min_bucket_reso": 512, "max_bucket_reso": 512},
        {"enable_bucket": True, "bucket_no_upscale": True, "bucket_reso_steps": 512},
        {"enable_bucket": True, "bucket_reso_steps": 8},
        # without upscaling these two are not asked for
        {"enable_bucket": True, "bucket_no_upscale": True, "min_bucket_reso": 600, "max_bucket_reso": 100},
        {"resolution": (512, 512), "min_bucket_reso": 600, "bucket_reso_steps": 10},
    ],
)
def test_sizes_at_the_limits_are_taken(words: dict) -> None:
    BucketRules(**words)


def test_the_grid_ends_at_its_largest_side_and_holds_multiples_of_8_only() -> None:
    """The smallest side need not lie on the steps; what it makes of the others then has no mirror image of its own."""
    for largest, there in ((1032, True), (1031, False)):
        sizes = bucket_sizes(BucketRules((1024, 1024), True, 264, largest, 64))
        assert ((1032, 960) in sizes) == there and max(map(max, sizes)) <= largest
    assert all(w % 8 == h % 8 == 0 for w, h in bucket_sizes(BucketRules((512, 512), True, 260, 1024, 64)))


@pytest.mark.parametrize("size", [(0, 64), (64, 0)])
@pytest.mark.parametrize("bucketed", [False, True])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int], bucketed: bool) -> None:
    with pytest.raises(TrainError, match="cannot be trained"):
        fit_to_bucket(size, BucketRules(enable_bucket=bucketed))


@pytest.mark.parametrize(
    ("size", "bucket", "resized"),
    [
        ((60, 100), (56, 96), (60, 100)),  # as large as may be: it stays as it is
        ((4, 100), (8, 96), (8, 200)),  # thinner than a step
        ((100, 4), (96, 8), (200, 8)),
        ((4, 9000), (8, 744), (8, 18000)),
        ((9000, 4), (744, 8), (18000, 8)),  # so wide that it would have no row left
    ],
)
def test_without_upscaling(size: tuple[int, int], bucket: tuple[int, int], resized: tuple[int, int]) -> None:
    rules = BucketRules((60, 100), True, bucket_reso_steps=8, bucket_no_upscale=True)
    assert fit_to_bucket(size, rules) == (bucket, resized)

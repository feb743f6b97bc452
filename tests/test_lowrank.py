"""Laws of U·diag(g)·D."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import FitError, ToolError
from lora_ext.lowrank import LowRank, clamped, concat, mean_factors
from lora_ext.rank_reduction import DYNAMIC_RANK_METHODS, RankRule, approximate_delta, reduce_rank

SHAPES = st.sampled_from([(6, 5), (4, 6, 1, 1), (5, 3, 3, 3)])


@st.composite
def lowranks(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> LowRank:
    shape = shape or draw(SHAPES)
    rank = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    up, gain, down = (
        torch.from_numpy(rng.normal(size=s)).float() for s in ((shape[0], rank), rank, (rank, *shape[1:]))
    )
    return LowRank(up, gain, down)


def numpy_delta(low: LowRank) -> np.ndarray:
    up, gain, down = (t.double().numpy() for t in (low.up, low.gain, low.down))
    return np.einsum("or,r,r...->o...", up, gain, down)


def close(a: torch.Tensor, b: torch.Tensor | np.ndarray) -> bool:
    return torch.allclose(a.double(), torch.as_tensor(b).double(), rtol=1e-5, atol=1e-5)


@given(lowranks())
def test_delta_is_the_sum_over_ranks(low: LowRank) -> None:
    assert close(low.delta(), numpy_delta(low))
    assert tuple(low.delta().shape) == low.shape


@given(lowranks(), st.floats(-2, 2, width=32))
def test_weights_only_touch_the_gain(low: LowRank, factor: float) -> None:
    scaled = low.times(factor)
    assert scaled.up is low.up and scaled.down is low.down
    assert close(scaled.delta(), factor * numpy_delta(low))


@given(st.data(), SHAPES)
def test_concat_is_the_sum(data: st.DataObject, shape: tuple[int, ...]) -> None:
    parts = data.draw(st.lists(lowranks(shape), min_size=1, max_size=4))
    assert close(concat(parts).delta(), sum(numpy_delta(p) for p in parts))
    assert concat(parts).rank == sum(p.rank for p in parts)


@given(lowranks())
def test_cut_at_full_rank_is_the_whole_and_prefixes_add_up(low: LowRank) -> None:
    assert close(low.truncated(low.rank).delta(), numpy_delta(low))
    one = LowRank(low.up[:, 1:], low.gain[1:], low.down[1:])
    assert close(low.truncated(1).delta() + one.delta(), numpy_delta(low))


@given(lowranks())
def test_frobenius_is_the_norm_of_delta(low: LowRank) -> None:
    assert low.frobenius() == pytest.approx(np.linalg.norm(numpy_delta(low)), rel=1e-5, abs=1e-5)


@given(st.data(), SHAPES)
def test_a_batched_gain_is_one_delta_a_picture(data: st.DataObject, shape: tuple[int, ...]) -> None:
    low = data.draw(lowranks(shape))
    weights = torch.tensor([0.0, 0.5, -1.0])
    batched = low.times(weights.unsqueeze(-1))
    assert close(batched.delta(), np.stack([w * numpy_delta(low) for w in weights.tolist()]))
    joined = concat([batched, low])
    assert close(joined.delta(), np.stack([(w + 1) * numpy_delta(low) for w in weights.tolist()]))


def test_tucker_core_folds_into_down() -> None:
    torch.manual_seed(0)
    up, down, mid = torch.randn(5, 2, 1, 1), torch.randn(2, 4, 1, 1), torch.randn(2, 2, 3, 3)
    low = LowRank.from_factors(up, down, alpha=1.0, mid=mid)
    expected = np.einsum("on,nmkl,mi->oikl", *(t.squeeze().double().numpy() for t in (up, mid, down))) / 2
    assert close(low.delta(), expected)


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(FitError, match="share one rank"):
        LowRank(torch.zeros(4, 3), torch.zeros(2), torch.zeros(2, 5))
    with pytest.raises(FitError, match=r"\(4, 5\).*\(4, 6\)"):
        LowRank(torch.zeros(4, 2), torch.zeros(2), torch.zeros(2, 5)).reshaped((4, 6))


@given(lowranks(), st.sampled_from([None, 0.5, 3.0, 8.0]))
def test_stored_factors_are_the_same_delta(low: LowRank, alpha: float | None) -> None:
    stored = low.to_tensors(alpha)
    up, down = stored["lora_up.weight"], stored["lora_down.weight"]
    assert float(stored["alpha"]) == (low.rank if alpha is None else alpha)
    assert up.shape == (low.shape[0], low.rank, *[1] * (len(low.shape) - 2)) and down.shape == (
        low.rank,
        *low.shape[1:],
    )
    assert up.is_contiguous() and down.is_contiguous() and up.dtype == down.dtype == torch.float32
    again = LowRank.from_factors(up, down, alpha=float(stored["alpha"]))
    assert close(again.delta(), numpy_delta(low)) and close(again.gain, np.full(low.rank, again.gain[0]))
    # the gain is shared out evenly between the two, its sign lies on the left
    share = (low.gain.double() * low.rank / float(stored["alpha"])).abs().sqrt()
    assert close(down.flatten(1), low.down.flatten(1) * share[:, None])
    assert close(up.flatten(1), low.up * share * low.gain.sign())


def test_ranks_without_a_gain_are_stored_as_zeros() -> None:
    low = LowRank(torch.ones(4, 2), torch.tensor([0.0, -2.0]), torch.ones(2, 5))
    stored = low.to_tensors()
    assert all(bool(tensor.isfinite().all()) for tensor in stored.values())
    assert close(LowRank.from_factors(stored["lora_up.weight"], stored["lora_down.weight"]).delta(), low.delta())


@given(lowranks(), st.sampled_from([0.5, 1.0, 3.0]))
def test_factors_that_need_no_gain_are_stored_as_they_are(low: LowRank, alpha: float) -> None:
    plain = LowRank.from_factors(low.up, low.down, alpha=alpha)
    assert torch.equal(plain.gain, torch.full((low.rank,), alpha / low.rank))
    stored = plain.to_tensors(alpha)
    assert torch.equal(stored["lora_up.weight"].flatten(1), low.up) and torch.equal(
        stored["lora_down.weight"], low.down
    )
    assert torch.equal(LowRank.from_factors(low.up, low.down).gain, torch.ones(low.rank))


def test_a_kernel_of_1x1_is_added_and_dropped() -> None:
    low = LowRank(torch.randn(4, 2), torch.randn(2), torch.randn(2, 5))
    conv = low.reshaped([4, 5, 1, 1])
    assert conv.shape == (4, 5, 1, 1) and torch.equal(conv.delta().flatten(1), low.delta())
    assert LowRank(torch.randn(4, 1), torch.ones(1), torch.randn(1, 5)).reshaped([4, 5, 1, 1]).shape == (4, 5, 1, 1)
    assert conv.reshaped((4, 5)).shape == (4, 5) and low.reshaped((4, 5)) is low
    for shape in ((3, 5), (4, 6), (5, 4), (4, 5, 3, 3)):
        with pytest.raises(FitError, match="the layer's weight"):
            low.reshaped(shape)


def test_joined_factors_of_several_dtypes() -> None:
    one = LowRank(torch.randn(4, 2).half(), torch.ones(2), torch.randn(2, 5).half())
    two = LowRank(torch.randn(4, 1), torch.ones(1), torch.randn(1, 5))
    both = concat([one, one])
    assert both.up.dtype == both.down.dtype == torch.float16 and both.up.shape == (4, 4)
    mixed = concat([one, two])
    assert mixed.up.dtype == mixed.down.dtype == torch.float32
    assert close(mixed.delta(), numpy_delta(one) + numpy_delta(two)) and concat([one]) is one
    with pytest.raises(FitError, match="cannot concatenate"):
        concat([one, LowRank(torch.randn(4, 2), torch.ones(2), torch.randn(2, 6))])


@given(st.data(), SHAPES)
def test_means_of_factors_have_cross_terms(data: st.DataObject, shape: tuple[int, ...]) -> None:
    one = data.draw(lowranks(shape))
    parts = [one, LowRank(one.up.flip(0) * 2, one.gain, one.down.flip(1) + 1)]
    scales = [0.7, -1.5]
    up = sum(abs(s) * part.up.double().numpy() for s, part in zip(scales, parts, strict=True))
    down = sum(s * part.down.flatten(1).double().numpy() for s, part in zip(scales, parts, strict=True))
    assert close(mean_factors(parts, scales).delta().flatten(1), up @ down)
    with pytest.raises(ValueError):
        mean_factors(parts, [1.0])


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.9, 0.99, 1.0])
def test_entries_are_clipped_at_their_quantile(quantile: float) -> None:
    torch.manual_seed(1)
    low = LowRank(torch.randn(7, 3), torch.tensor([2.0, -1.0, 0.5]), torch.randn(3, 4, 3, 3) - 0.2)
    up, down = (low.up * low.gain).double().numpy(), low.down.double().numpy()
    bound = abs(np.quantile(np.concatenate([up.ravel(), down.ravel()]), quantile))
    found = clamped(low, quantile)
    assert torch.equal(found.gain, torch.ones(3))
    assert close(found.up, up.clip(-bound, bound)) and close(found.down, down.clip(-bound, bound))


def _kept(values: np.ndarray, method: str, param: float, size: int) -> int:
    """How many a method keeps, counted one by one."""
    if method == "sv_ratio":
        index = sum(value > values[0] / param for value in values)
    else:
        powers = values if method == "sv_cumulative" else values**2
        wanted = param if method == "sv_cumulative" else param**2
        index, total = 0, 0.0
        while index < len(values) and total < wanted * (1 - 1e-6):
            total += powers[index] / powers.sum()
            index += 1
        index = max(index, 1)
    return max(1, min(index, size - 1)) + 1


@pytest.mark.parametrize("method", DYNAMIC_RANK_METHODS)
@pytest.mark.parametrize("share", [0.31, 0.6, 0.9, 0.97])
def test_dynamic_ranks_are_their_definition(method: str, share: float) -> None:
    param = 1 / (1 - share) if method == "sv_ratio" else share
    for count in (1, 2, 3, 8):
        values = np.array([7.0, 5.0, 3.5, 2.0, 1.1, 0.6, 0.2, 0.05])[:count]
        for size in (count, count + 3):
            for rank in (1, 2, 4, 20):
                wanted = min(_kept(values, method, param, size), rank, count)
                found = RankRule(rank, method, param).choose_rank(torch.from_numpy(values), size)
                assert found == wanted, (count, size, rank)
        assert RankRule(5, method, param).choose_rank(torch.from_numpy(values)) == min(
            _kept(values, method, param, count), 5, count
        )
    for tiny in (0.0, 1e-6):
        assert RankRule(5, method, param).choose_rank(torch.full((4,), tiny)) == 1
    assert RankRule(3).choose_rank(torch.tensor([2.0, 1.0])) == 2 and RankRule(1).choose_rank(torch.ones(2)) == 1
    assert RankRule(3).choose_rank(torch.zeros(4)) == 1 and RankRule(3).choose_rank(torch.full((4,), 1e-9)) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [((0,), "at least 1"), ((-1, "sv_fro", 0.5), "at least 1"), ((4, "sv_fr", 0.5), "did you mean 'sv_fro'"),
     ((4, "sv_ratio", 1.0), "above 1"), ((4, "sv_fro", 0.0), "between 0 and 1"), ((4, "sv_fro", 1.01), "between"),
     ((4, "sv_cumulative", -0.5), "between"), ((4, "sv_ratio"), "above 1")],
)  # fmt: skip
def test_rules_that_cannot_be_meant_are_refused(words: tuple, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        RankRule(*words)
    assert RankRule(1, "sv_fro", 1.0).rank == RankRule(1, "sv_ratio", 1.5).rank == 1


@given(lowranks(), st.integers(1, 5))
def test_the_best_of_a_rank_is_the_svd_s(low: LowRank, rank: int) -> None:
    """From the factors and from ΔW itself: error, norm, share and singular values; orthonormal vectors."""
    matrix = numpy_delta(low).reshape(low.shape[0], -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    norm = float(np.linalg.norm(matrix))
    for found in (reduce_rank(low, rank), approximate_delta(torch.from_numpy(numpy_delta(low)), rank)):
        kept = found.low_rank.rank
        assert kept == min(rank, *matrix.shape, low.rank) or kept == min(rank, *matrix.shape)
        best = float(np.sqrt((values[kept:] ** 2).sum()))
        error = float(np.linalg.norm(found.low_rank.delta().double().numpy().reshape(matrix.shape) - matrix))
        assert error == pytest.approx(best, rel=1e-3, abs=2e-4 * norm)
        assert found.low_rank.shape == low.shape and found.norm == pytest.approx(norm, rel=1e-4)
        assert found.kept == pytest.approx(np.sqrt((values[:kept] ** 2).sum()) / norm, rel=1e-4)
        assert np.allclose(found.low_rank.gain, values[:kept], rtol=1e-3, atol=2e-3 * values[0])
        assert torch.equal(found.values[:kept], found.low_rank.gain)
        real = int((values[:kept] > 1e-2 * values[0]).sum())
        for side in (found.low_rank.up[:, :real].T, found.low_rank.down.flatten(1)[:real]):
            assert torch.allclose(side @ side.T, torch.eye(real), atol=1e-3)


def test_a_rank_above_the_layer_s_sides() -> None:
    torch.manual_seed(2)
    for shape in ((4, 6), (6, 4)):
        low = LowRank(torch.randn(shape[0], 9), torch.rand(9) + 0.5, torch.randn(9, shape[1]))
        for found in (reduce_rank(low, 9), approximate_delta(low.delta(), 9)):
            assert found.low_rank.rank == len(found.values) == 4 and found.kept == pytest.approx(1)
            assert close(found.low_rank.delta(), low.delta())


def test_a_change_of_zero_and_one_that_is_no_number() -> None:
    low = LowRank(torch.ones(6, 2), torch.zeros(2), torch.ones(2, 5))
    for found in (reduce_rank(low, 2), approximate_delta(torch.zeros(6, 5), 2)):
        assert (found.low_rank.rank, found.norm, found.kept) == (1, 0, 1) and not found.low_rank.delta().any()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ToolError, match="NaN"):
            reduce_rank(LowRank(torch.full((6, 2), bad), torch.ones(2), torch.ones(2, 5)), 1)
        with pytest.raises(ToolError, match="NaN"):
            approximate_delta(torch.full((6, 5), bad), 1)

"""Laws of U·diag(g)·D."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_ext.errors import FitError
from lora_ext.lowrank import LowRank, concat

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

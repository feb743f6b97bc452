"""Leading eigenvectors and thin factors of every sort of spectrum: as near to the best as promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_ext import singular_values
from lora_ext.errors import ToolError
from lora_ext.lowrank import LowRank
from lora_ext.rank_reduction import RankRule, _grams, _quick_cores, approximate_delta, reduce_rank, reduce_ranks
from lora_ext.singular_values import TRACE_TOLERANCE, _proven, _ritz, eigen, frobenius, leading_eigenpairs

SPECTRA: dict[str, np.ndarray] = {
    "flat": np.ones(256),
    "clustered at the cut": np.r_[np.full(30, 2.0), 1 + 1e-4 * np.linspace(1, 0, 20), np.full(206, 0.5)],
    "a step at the cut": np.r_[np.ones(32), np.full(224, 0.3)],
    "a step beyond reach": np.r_[np.ones(70), np.full(186, 0.02)],
    "slowly falling": np.linspace(1, 0.4, 256),
    "falling": np.logspace(0, -1.5, 256),
    "falling to 1e-6": np.logspace(0, -6, 256),
    "one large": np.r_[1.0, np.full(255, 1e-3)],
    "of rank 20": np.r_[np.linspace(1, 0.5, 20), np.zeros(236)],
    "of rank 32, nearly": np.r_[np.linspace(1, 0.5, 32), np.full(224, 1e-5)],
    "zero": np.zeros(256),
}


def turned(values: np.ndarray, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, float64."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    return torch.from_numpy((basis * values) @ basis.T)


def thin(values: np.ndarray, spread: float, seed: int = 0) -> LowRank:
    """Factors (300, r), (r, 400) of a ΔW with these singular values; their own reach over 10^spread."""
    rng, r = np.random.default_rng(seed), len(values)
    left, right = (np.linalg.qr(rng.normal(size=(size, r)))[0] for size in (300, 400))
    mix = np.linalg.qr(rng.normal(size=(r, r)))[0] * np.logspace(0, -spread, r)
    up, down = (left * values) @ mix, np.linalg.inv(mix) @ right.T
    return LowRank(torch.from_numpy(up).float(), torch.ones(r), torch.from_numpy(down).float())


def check(low: LowRank, rank: int) -> None:
    exact = (low.up.double() * low.gain.double()) @ low.down.double()
    values = torch.linalg.svdvals(exact)
    best = reduce_rank(low, rank)
    found = (best.low_rank.up.double() * best.low_rank.gain.double()) @ best.low_rank.down.double()
    # beside the promise, float32's own part: the factors' sizes, not their product's, are what it rounds
    reach = float(low.up.double().norm(dim=0) @ low.down.double().norm(dim=1))
    assert float((found - exact).norm()) <= 1.001 * float(values[rank:].norm()) + 1e-6 * reach
    assert best.norm == pytest.approx(float(values.norm()), rel=1e-5, abs=1e-6 * reach)
    if best.norm:
        assert best.kept == pytest.approx(float(values[:rank].norm() / values.norm()), abs=1e-4)


@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("name", SPECTRA)
def test_thin_factors_of_any_spectrum(name: str, spread: float) -> None:
    check(thin(SPECTRA[name], spread), 32)


def test_layers_together_are_as_they_are_alone() -> None:
    """Of ranks and spectra for each of the ways, one of them steep; the broken one is told at its turn."""
    spectra = [np.ones(256), np.logspace(0, -1, 200), np.logspace(0, -6, 256), np.ones(40), np.linspace(2, 1, 256)]
    lows = [thin(values, 0.0, seed) for seed, values in enumerate(spectra)]
    together = list(reduce_ranks(lows, [32, 32, 32, 8, 32]))
    for low, rank, found in zip(lows, [32, 32, 32, 8, 32], together, strict=True):
        alone = reduce_rank(low, rank)
        assert found.kept == pytest.approx(alone.kept, rel=1e-5) and found.norm == pytest.approx(alone.norm, rel=1e-6)
        missed = [float((low.delta() - best.low_rank.delta()).norm()) for best in (found, alone)]
        assert missed[0] == pytest.approx(missed[1], rel=1e-4, abs=1e-5)
    lows[1].down[3, 5] = float("nan")
    rest = reduce_ranks(lows, [32] * 5)
    assert next(rest).kept == pytest.approx(together[0].kept)
    with pytest.raises(ToolError, match="NaN"):
        next(rest)


def test_large_flat_layers_are_within_one_in_a_hundred_thousand_of_the_best() -> None:
    torch.manual_seed(0)
    low = LowRank(torch.randn(640, 256), torch.ones(256), torch.randn(256, 1280))
    values = torch.linalg.svdvals(low.delta().double())
    missed = float((low.delta().double() - reduce_rank(low, 32).low_rank.delta()).norm())
    assert missed <= (1 + 1e-5) * float(values[32:].norm())


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.floats(-7, 0)), min_size=1, max_size=6),
    st.integers(1, 60),
    st.floats(0, 4),
    st.integers(0, 99),
)
def test_thin_factors_of_random_steps(steps: list[tuple[int, float]], rank: int, spread: float, seed: int) -> None:
    values = np.sort(np.concatenate([np.full(n, 10.0**level) for n, level in steps])[:256])[::-1]
    check(thin(values, spread, seed), rank)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_leading_is_what_it_promises(name: str, dtype: torch.dtype) -> None:
    values = SPECTRA[name]
    gram = turned(values).to(dtype)
    found, vectors = leading_eigenpairs(gram, 32)
    vectors = vectors[:, :32].double()
    assert torch.allclose(vectors.T @ vectors, torch.eye(32, dtype=torch.float64), atol=2e-5)
    kept = float((vectors * (gram.double() @ vectors)).sum())
    assert kept >= values[:32].sum() - TRACE_TOLERANCE * values[32:].sum() - 1e-5 * values.sum()
    assert float(found[:32].double().sum()) == pytest.approx(kept, rel=1e-5, abs=1e-6)


def test_large_flat_matrices_are_not_solved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it quick: only small matrices reach the dense solver, for spectra as files have them."""
    sizes = []

    def counted(gram: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(gram.shape[-1])
        return eigen(gram)

    monkeypatch.setattr(singular_values, "eigen", counted)
    for name in ("flat", "slowly falling", "falling", "a step at the cut", "clustered at the cut"):
        leading_eigenpairs(turned(SPECTRA[name] ** 2).float(), 32)
    assert max(sizes) < 100


def test_a_wrong_subspace_is_not_proven() -> None:
    gram = turned(SPECTRA["falling"])
    gram = gram / gram.diagonal().sum()
    good, wrong = eigen(gram)[1][:, :56], torch.randn(256, 56, dtype=torch.float64)
    without_first = eigen(gram)[1][:, 1:57]
    assert _proven(gram, *_ritz(gram, good), 32)
    assert not _proven(gram, *_ritz(gram, wrong), 32)
    assert not _proven(gram, *_ritz(gram, without_first), 32)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4000), (1280, 9 * 1280), (11520, 320)])
def test_the_norm_is_right_however_many_numbers_there_are(shape: tuple[int, int]) -> None:
    """Against float64 NumPy, where one sum of all squares in float32 is wrong by up to 1e-3."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert frobenius(matrix) == pytest.approx(float(np.linalg.norm(matrix.double().numpy())), rel=1e-7)
    matrix[0, 0] = float("nan")
    assert not frobenius(matrix) >= 0


@pytest.mark.parametrize(
    ("method", "param", "rank"),
    [("sv_ratio", 3.0, 3), ("sv_ratio", 4.0, 3), ("sv_ratio", 4.1, 4), ("sv_ratio", 1.5, 2), ("sv_ratio", 100.0, 4),
     ("sv_cumulative", 0.5, 2), ("sv_cumulative", 0.6, 3), ("sv_cumulative", 0.9, 4), ("sv_fro", 0.8, 2),
     ("sv_fro", 0.9, 3), ("sv_fro", 0.98, 4)],
)  # fmt: skip
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_ranks_that_rules_choose(method: str, param: float, rank: int, size: float) -> None:
    """By hand for 4, 2, 1, 0.5 and the same a thousandth as large; the rules keep one rank more than they count."""
    values = torch.tensor([4.0, 2.0, 1.0, 0.5]) * size
    assert RankRule(9, method, param).choose_rank(values) == rank
    assert RankRule(2, method, param).choose_rank(values) == min(rank, 2)


@pytest.mark.parametrize("shape", [(520, 640), (640, 520), (30, 20)])
def test_a_fixed_rank_of_a_dense_delta(shape: tuple[int, int]) -> None:
    """Few ranks of a large matrix come without the other singular values; a small one has all of them."""
    values = np.r_[np.linspace(2, 1, 4), np.full(min(shape) - 4, 1e-3)]
    left, right = (
        np.linalg.qr(np.random.default_rng(n).normal(size=(size, min(shape))))[0] for n, size in enumerate(shape)
    )
    delta = torch.from_numpy((left * values) @ right.T).float()
    best = approximate_delta(delta, 4)
    assert best.low_rank.rank == 4 and best.low_rank.shape == shape
    assert len(best.values) == (4 if min(shape) > 500 else min(shape))
    assert torch.allclose(best.values[:4], torch.from_numpy(values[:4]).float(), rtol=1e-4)
    assert float((best.low_rank.delta() - delta).norm()) <= 1.001 * float(np.linalg.norm(values[4:])) + 1e-5


@pytest.mark.parametrize("shape", [(768, 768), (512, 1500), (2000, 640)])
@pytest.mark.parametrize("directions", [1, 4, 16, 30, 60])
@pytest.mark.parametrize("seed", range(3))
def test_a_large_delta_of_few_directions(shape: tuple[int, int], directions: int, seed: int) -> None:
    """A merged LoRA that is extracted again: all that is left beside its directions is the rounding of W."""
    generator = torch.Generator().manual_seed(seed)
    up, down, weight = (
        torch.randn(size, generator=generator) for size in ((shape[0], directions), (directions, shape[1]), shape)
    )
    weight, change = weight * 0.02, up @ down * 0.005
    delta = (weight + change) - weight
    best = approximate_delta(delta, 16)
    error = float(torch.linalg.vector_norm((best.low_rank.delta() - delta).double()))
    squares = torch.linalg.svdvals(delta.double()).square()
    assert error <= float(squares[16:].sum().sqrt()) * 1.0001 + 3e-6 * float(squares.sum().sqrt())


def test_small_singular_values_of_a_dense_delta_are_found() -> None:
    """A ΔW of rank 4 at rank 4: nothing is lost, also where float32's Gram matrix has rounded the last value away."""
    left, right = (np.linalg.qr(np.random.default_rng(n).normal(size=(size, 4)))[0] for n, size in enumerate((30, 20)))
    values = np.array([1.0, 1e-2, 1e-3, 2e-4])
    delta = torch.from_numpy((left * values) @ right.T).float()
    best = approximate_delta(delta, 4)
    assert float((best.low_rank.delta() - delta).norm()) < 2e-6
    assert torch.allclose(best.values[:4], torch.from_numpy(values).float(), rtol=1e-2)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize(("share", "is_quick"), [(0.5, False), (2.0, True)])
def test_products_in_float32_only_where_their_rounding_is_small(scale: float, share: float, is_quick: bool) -> None:
    """The rounding, 6e-8 of (Σ‖uₖ‖‖dₖ‖)², may be 3e-4 of the squared error that rank 32 leaves: around that limit."""
    values = np.r_[np.ones(32), np.zeros(96)]
    tail = 0.0
    for _ in range(20):  # the limit depends on the tail, which the factors contain
        values[32:] = tail
        low = thin(values, 0.0)
        reach = float(low.up.double().norm(dim=0) @ low.down.double().norm(dim=1)) ** 2
        tail = share * np.sqrt(6e-8 * reach / (3e-4 * 96))
    up, down = low.up * scale, low.down
    assert (_quick_cores(_grams([up]), _grams([down.T]), 32)[0] is not None) == is_quick


def test_no_more_is_kept_than_there_is() -> None:
    """At full rank the share is 1, also where rounding makes the approximation's norm the larger one."""
    torch.manual_seed(5)
    kept = [approximate_delta(torch.randn(9, 7), 7).kept for _ in range(40)]
    assert max(kept) <= 1 and min(kept) > 1 - 1e-6

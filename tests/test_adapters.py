"""Laws of the adapter kinds: each agrees with its definition in float64, and with what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import KINDS, MAKERS, SHAPES, make, suitable_layer, suits
from reference import RANKS, arrays, reference, reference_bias
from torch import Tensor
from torch.nn import functional as F

from lora_ext.adapters import ADAPTER_SUFFIXES, ADAPTERS, Adapter, Lora, adapter_from_tensors, dora_delta
from lora_ext.errors import FitError
from lora_ext.lowrank import concat

CASES = [(kind, layer) for kind in KINDS for layer, shape in SHAPES.items() if suits(kind, shape)]
STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def is_scaled_by_alpha(kind: str) -> bool:
    """Whether ΔW is a multiple of alpha: DoRA's is not, and some stored alphas count for nothing."""
    tensors = make(kind, SHAPES[suitable_layer(kind)])
    rank = RANKS.get(kind.split("-")[0], lambda kind, t: None)(kind, arrays(tensors))
    return MAKERS[kind].has_alpha and rank is not None and "dora_scale" not in tensors


SCALED = [kind for kind in KINDS if is_scaled_by_alpha(kind)]
every_case = pytest.mark.parametrize(("kind", "layer"), CASES)
seeds = st.integers(0, 2**32 - 1)
law = settings(max_examples=10)


def drawn(
    kind: str, layer: str, seed: int = 0, dtype: torch.dtype = torch.float32, rank: int = 2
) -> tuple[dict[str, Tensor], Tensor]:
    """(tensors of a made file, a layer's weight)."""
    rng = np.random.default_rng(seed)
    tensors = make(kind, SHAPES[layer], rank, dtype, rng)
    return tensors, torch.from_numpy(rng.normal(0, 1, SHAPES[layer])).float()


def adapter(tensors: dict[str, Tensor]) -> Adapter:
    found = adapter_from_tensors(tensors)
    assert found is not None
    return found


# --- agreement with the definition -----------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGE)
@every_case
def test_agrees_with_the_definition(kind: str, layer: str, storage: str) -> None:
    tensors, weight = drawn(kind, layer, dtype=STORAGE[storage])
    found = adapter(tensors)
    delta = found.delta(weight)
    assert (delta.dtype, delta.shape, found.dtype) == (torch.float32, weight.shape, STORAGE[storage])
    np.testing.assert_allclose((weight + delta).double().numpy(), reference(kind, tensors, weight.numpy()), atol=3e-6)
    expected, shift = reference_bias(tensors), found.bias_delta()
    assert (expected is None) == (shift is None)
    if shift is not None:
        assert shift.dtype == torch.float32
        np.testing.assert_array_equal(shift.double().numpy(), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if suits(kind, SHAPES["3x3"])])
def test_acts_in_a_convolution(kind: str, stride: int) -> None:
    """A strided layer needs nothing of its own: conv(x, W) + conv(x, ΔW) = conv(x, W + ΔW)."""
    tensors, weight = drawn(kind, "3x3")
    x = torch.randn(1, weight.shape[1], 7, 7, generator=torch.Generator().manual_seed(0))
    merged = torch.from_numpy(reference(kind, tensors, weight.numpy())).float()
    got = F.conv2d(x, weight, stride=stride, padding=1) + F.conv2d(
        x, adapter(tensors).delta(weight), stride=stride, padding=1
    )
    torch.testing.assert_close(got, F.conv2d(x, merged, stride=stride, padding=1), rtol=1e-4, atol=1e-4)


LINEAR_AS_1X1 = [kind for kind in KINDS if suits(kind, SHAPES["1x1"]) and kind != "oftv2-onetrainer"]
"""OneTrainer multiplies a Linear layer by Rᵀ and a Conv2d by R."""


@pytest.mark.parametrize("kind", LINEAR_AS_1X1)
def test_same_for_linear_and_1x1(kind: str) -> None:
    """Files store a projection as Linear or as 1x1 Conv2d, and models hold either."""
    tensors, weight = drawn(kind, "1x1")
    found = adapter(tensors)
    if "dora_scale" in tensors:
        tensors = {**tensors, "dora_scale": tensors["dora_scale"].flatten(1)[:, : weight.shape[1]]}
    flat = adapter(tensors).delta(weight.flatten(1))
    torch.testing.assert_close(found.delta(weight).flatten(1), flat, rtol=0, atol=1e-6)


# --- which kind ------------------------------------------------------------------------------------------------------


@every_case
def test_exactly_one_kind_accepts(kind: str, layer: str) -> None:
    tensors, _ = drawn(kind, layer)
    names = frozenset(tensors)
    accepting = [row.kind for row in ADAPTERS if row.accepts(names)]
    assert accepting == [MAKERS[kind].kind]
    assert names <= ADAPTER_SUFFIXES


@given(names=st.sets(st.sampled_from(sorted(ADAPTER_SUFFIXES))))
def test_a_kind_needs_all_of_one_set(names: set[str]) -> None:
    expected = [row for row in ADAPTERS if any(need <= names for need in row.required_suffixes)]
    found = adapter_from_tensors({name: torch.zeros(1, 1) for name in names})
    assert type(found) is (expected[0] if expected else type(None))


def test_unknown_suffixes_stay() -> None:
    tensors, _ = drawn("lora", "linear")
    extra = {**tensors, "wavelet": torch.ones(3)}
    assert adapter(extra).tensors.keys() == extra.keys()
    assert adapter_from_tensors({"wavelet": torch.ones(3), "alpha": torch.ones(())}) is None


# --- fits ------------------------------------------------------------------------------------------------------------


@every_case
def test_fits_only_what_it_computes(kind: str, layer: str) -> None:
    """`fits` says yes exactly where `delta` gives a ΔW, over all layer shapes and some wrong ones."""
    tensors, _ = drawn(kind, layer)
    found = adapter(tensors)
    assert found.fits(torch.Size(SHAPES[layer]))
    for shape in (*SHAPES.values(), (12, 16), (12, 8, 3, 3), (4, 4), (1,), ()):
        if found.fits(shape):
            assert found.delta(torch.ones(shape)).shape == shape
        else:
            with pytest.raises(FitError, match=found.kind):
                found.delta(torch.ones(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_a_transposed_layer_does_not_fit(kind: str) -> None:
    layer = suitable_layer(kind)
    tensors, _ = drawn(kind, layer)
    out, *rest = SHAPES[layer]
    shape = (out + 2,) if not rest else (rest[0] + 1, out + 1, *rest[1:])
    assert not adapter(tensors).fits(shape)


def test_factors_of_different_rank_do_not_fit() -> None:
    for kind, name in (
        ("lora", "lora_up.weight"),
        ("loha", "hada_w1_a"),
        ("lokr", "lokr_w2_a"),
        ("glora", "b1.weight"),
    ):
        tensors, weight = drawn(kind, "linear")
        found = adapter({**tensors, name: tensors[name][:, :1]})
        assert not found.fits(weight.shape)
        with pytest.raises(FitError, match="does not fit"):
            found.delta(weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bias_indices": torch.tensor([[0, 0, 0], [0, 1, 12]])},
        {"bias_indices": torch.tensor([[0, 16, 0], [0, 1, 2]])},
        {"bias_indices": torch.tensor([[0, -1, 0], [0, 1, 2]])},
        {"bias_indices": torch.tensor([[0, 0, 0], [0, 1, -1]])},
        {"bias_size": torch.tensor([99, 99])},
        {"bias_values": torch.ones(7)},
    ],
)
def test_sparse_indices_outside_the_layer_do_not_fit(wrong: dict[str, Tensor]) -> None:
    """One thing is wrong at a time; at the limits all is well."""
    tensors, weight = drawn("lora-sparse-bias", "linear")
    assert adapter({**tensors, "bias_indices": torch.tensor([[0, 15, 0], [0, 0, 11]])}).fits(weight.shape)
    assert not adapter({**tensors, **wrong}).fits(weight.shape)


def test_an_incomplete_sparse_bias_does_not_fit() -> None:
    tensors, weight = drawn("lora-sparse-bias", "linear")
    del tensors["bias_size"]
    assert not adapter(tensors).fits(weight.shape)


@pytest.mark.parametrize(("factors", "fits"), [(1, True), (2, True), (3, False)])
def test_butterflies_reach_no_further_than_the_layer(factors: int, fits: bool) -> None:
    """Factor m pairs rows that lie n·2^(m−2) apart: 24 rows hold blocks of 8 and of 4, taken twice, but not 3 times."""
    blocks = torch.zeros(factors, 6, 4, 4)
    assert adapter({"oft_blocks": blocks}).fits((24, 5)) == fits
    for other in ((24,), (25, 5), (12, 5)):
        assert not adapter({"oft_blocks": blocks}).fits(other)
    assert not adapter({"oft_blocks": torch.zeros(1, 8, 3, 3)}).fits((24, 5)), "an odd block has no halves"
    assert adapter({"oft_blocks": torch.zeros(8, 3, 3)}).fits((24, 5))
    assert not adapter({"oft_blocks": torch.zeros(8, 3, 4)}).fits((24, 5))
    assert not adapter({"oft_blocks": torch.zeros(24)}).fits((24, 5))
    assert not adapter({"oft_blocks": torch.zeros(8, 3, 3), "rescale": torch.ones(5)}).fits((24, 5))


@every_case
def test_factors_that_agree_are_consistent(kind: str, layer: str) -> None:
    tensors, _ = drawn(kind, layer)
    assert adapter(tensors).has_consistent_factors()


@pytest.mark.parametrize(
    ("kind", "name", "axis"),
    [
        ("loha", "hada_w1_a", 1),
        ("loha", "hada_w2_b", 0),
        ("loha-tucker", "hada_t2", 0),
        ("lokr-thin", "lokr_w1_b", 0),
        ("lokr-thin", "lokr_w2_a", 1),
        ("lokr-tucker", "lokr_t2", 1),
        ("glora", "a2.weight", 0),
        ("glora", "b1.weight", 1),
    ],
)
def test_a_factor_of_another_rank_is_inconsistent(kind: str, name: str, axis: int) -> None:
    tensors, _ = drawn(kind, suitable_layer(kind))
    assert not adapter({**tensors, name: tensors[name].narrow(axis, 0, 1)}).has_consistent_factors()


@pytest.mark.parametrize("name", ["alpha", "scale", "bias_size", "bias_indices"])
def test_the_dtype_is_that_of_the_factors(name: str) -> None:
    """Numbers beside them may have another, also where they come first."""
    tensors, _ = drawn("lora-sparse-bias", "linear", dtype=torch.float16)
    tensors["scale"] = torch.tensor(0.5)
    first = {name: tensors.pop(name).float()} | tensors
    assert next(iter(first)) == name and adapter(first).dtype == torch.float16


def test_suffixes_that_few_files_have_are_known() -> None:
    assert {"bm.weight", "lokr_t2", "hada_t1", "hada_t2", "lora_mid.weight", "diff_b", "b_norm"} <= ADAPTER_SUFFIXES
    assert {"rescale", "on_input", "scale", "lora_magnitude_vector"} <= ADAPTER_SUFFIXES


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALED)
@given(seed=seeds, factor=st.sampled_from([0.0, 0.5, 3.0]))
@law
def test_linear_in_alpha(kind: str, seed: int, factor: float) -> None:
    tensors, weight = drawn(kind, suitable_layer(kind), seed)
    more = {**tensors, "alpha": tensors["alpha"] * factor}
    torch.testing.assert_close(adapter(more).delta(weight), adapter(tensors).delta(weight) * factor)


@pytest.mark.parametrize("kind", SCALED)
def test_no_alpha_is_scale_one_and_scale_wins(kind: str) -> None:
    tensors, weight = drawn(kind, suitable_layer(kind))
    bare = {name: t for name, t in tensors.items() if name != "alpha"}
    whole = adapter(bare).delta(weight)
    torch.testing.assert_close(adapter(tensors).delta(weight), whole / 2)  # made with alpha = rank/2
    torch.testing.assert_close(adapter({**tensors, "scale": torch.tensor(3.0)}).delta(weight), whole * 3)


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0])
@every_case
def test_times_scales_the_changes_of_weight_and_bias(kind: str, layer: str, factor: float) -> None:
    tensors, weight = drawn(kind, layer)
    found = adapter(tensors)
    scaled = found.times(factor)
    if scaled is None:
        assert kind.startswith(("boft", "oftv2")) or found.magnitude() is not None
        assert found.times(1.0) is found
        return
    assert type(scaled) is type(found) and (scaled is found) == (factor == 1)
    torch.testing.assert_close(scaled.delta(weight), found.delta(weight) * factor, rtol=1e-4, atol=2e-5)
    bias, before = scaled.bias_delta(), found.bias_delta()
    assert (bias is None) == (before is None)
    if bias is not None and before is not None:
        torch.testing.assert_close(bias, before * factor)


@every_case
def test_a_kind_knows_its_shape_where_it_needs_no_weight(kind: str, layer: str) -> None:
    """`delta_shape` is given exactly where ΔW is a matrix that is the same whatever the layer's weight."""
    tensors, weight = drawn(kind, layer)
    found = adapter(tensors)
    shape = found.delta_shape() if found.magnitude() is None else None
    is_free = torch.allclose(found.delta(weight), found.delta(weight + 1), atol=1e-6)
    assert (shape is not None) == (is_free and weight.dim() > 1)
    if shape is not None:
        flat = (weight.shape[0], weight[0].numel())
        assert shape == (flat if found.flattens_kernel and not kind.endswith("a-tucker") else tuple(weight.shape))


@pytest.mark.parametrize(("kind", "layer"), [("lokr-full", "3x3"), ("glora-old", "linear"), ("full", "linear")])
def test_alpha_says_nothing_here(kind: str, layer: str) -> None:
    tensors, weight = drawn(kind, layer)
    other = adapter({**tensors, "alpha": torch.tensor(7.0)})
    torch.testing.assert_close(other.delta(weight), adapter(tensors).delta(weight), rtol=0, atol=0)


@every_case
def test_zero_tensors_change_nothing(kind: str, layer: str) -> None:
    """Zero factors: ΔW = 0. DoRA, rescale and oft_diag have their neutral element elsewhere."""
    tensors, weight = drawn(kind, layer)
    kept = {"on_input", "bias_size", "bias_indices"}
    zeros = {name: t if name in kept else torch.zeros_like(t) for name, t in tensors.items()}
    for name in ("dora_scale", "rescale", "oft_diag"):
        zeros.pop(name, None)
    if zeros:
        assert not adapter(zeros).delta(weight).any()


@pytest.mark.parametrize("kind", ["oft-kohya", "oft-lycoris", "boft"])
@given(seed=seeds, layer=st.sampled_from(["linear", "square", "1x1", "3x3"]))
@law
def test_orthogonal_kinds_keep_norms(kind: str, seed: int, layer: str) -> None:
    """R is orthogonal: without `rescale` every input column of W keeps its length."""
    tensors, weight = drawn(kind, layer, seed)
    tensors.pop("rescale", None)
    turned = weight + adapter(tensors).delta(weight)
    torch.testing.assert_close(turned.norm(dim=0), weight.norm(dim=0), rtol=1e-4, atol=1e-5)


def test_constraint_bounds_the_rotation() -> None:
    tensors, weight = drawn("oft-kohya", "linear")
    free = adapter({**tensors, "alpha": torch.tensor(0.0)}).delta(weight)
    bound = adapter(tensors).delta(weight)
    loose = adapter({**tensors, "alpha": torch.tensor(100.0)}).delta(weight)
    assert bound.norm() < free.norm()
    torch.testing.assert_close(loose, free, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "layer"), [case for case in CASES if MAKERS[case[0]].is_low_rank])
def test_low_rank_is_delta(kind: str, layer: str) -> None:
    tensors, weight = drawn(kind, layer)
    found = adapter(tensors)
    low = found.low_rank()
    assert low is not None
    torch.testing.assert_close(low.delta(), found.delta(weight), rtol=0, atol=0)
    assert low.frobenius() == pytest.approx(float(found.delta(weight).norm()), rel=1e-5)
    both = concat([low, low.times(0.5)])
    torch.testing.assert_close(both.delta(), found.delta(weight) * 1.5, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not MAKERS[kind].is_low_rank])
def test_other_kinds_have_no_thin_form(kind: str) -> None:
    layer = suitable_layer(kind)
    assert adapter(drawn(kind, layer)[0]).low_rank() is None


@given(seed=seeds, cut=st.integers(1, 4))
@law
def test_cut_keeps_the_first_ranks_at_the_full_scale(seed: int, cut: int) -> None:
    tensors, weight = drawn("lora", "3x3", seed, rank=4)
    found = adapter(tensors)
    low = found.low_rank()
    assert low is not None
    torch.testing.assert_close(found.truncated(cut).delta(weight), low.truncated(cut).delta())
    torch.testing.assert_close(found.truncated(4).delta(weight), found.delta(weight), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if MAKERS[kind].kind != "LoRA" or kind == "lora-tucker"])
def test_cut_is_for_lora_alone(kind: str) -> None:
    layer = suitable_layer(kind)
    found = adapter(drawn(kind, layer)[0])
    assert found.truncated(1) is found


# --- DoRA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("kind", "layer"), [(k, la) for k, la in CASES if "dora" not in k and la != "norm"])
def test_dora_with_its_own_norm_is_delta(kind: str, layer: str, axis: int) -> None:
    """Any kind may carry DoRA; a magnitude equal to the norm of W + ΔW changes nothing."""
    tensors, weight = drawn(kind, layer)
    delta = adapter(tensors).delta(weight)
    over = [d for d in range(weight.dim()) if d != axis]
    norm = (weight + delta).pow(2).sum(dim=over, keepdim=True).sqrt()
    torch.testing.assert_close(adapter({**tensors, "dora_scale": norm}).delta(weight), delta, rtol=1e-4, atol=1e-5)
    doubled = adapter({**tensors, "dora_scale": 2 * norm}).delta(weight)
    torch.testing.assert_close(weight + doubled, 2 * (weight + delta), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["linear", "square", "1x1", "3x3"])
def test_peft_magnitude_is_per_output(layer: str) -> None:
    """PEFT's vector is (out,), for a Conv2d (1, out, 1, 1): per output also where in = out."""
    tensors, weight = drawn("lora-dora-out", layer)
    magnitude = tensors.pop("dora_scale").flatten()
    expected = adapter({**tensors, "dora_scale": magnitude.reshape(-1, *[1] * (weight.dim() - 1))}).delta(weight)
    stored = magnitude if weight.dim() == 2 else magnitude.reshape(1, -1, 1, 1)
    found = adapter({**tensors, "lora_magnitude_vector": stored})
    assert found.low_rank() is None
    torch.testing.assert_close(found.delta(weight), expected, rtol=0, atol=0)
    torch.testing.assert_close(adapter({**tensors, "dora_scale": magnitude}).delta(weight), expected, rtol=0, atol=0)


def test_dora_of_peft_on_a_model() -> None:
    """The same numbers as PEFT's own merged layers, Linear and square Conv2d."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(6, 6, 3), torch.nn.Flatten(), torch.nn.Linear(6, 6))
    weights = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0", "2"], use_dora=True, init_lora_weights=False)
    wrapped = peft.get_peft_model(net, config)
    layers = [wrapped.base_model.model[i] for i in (0, 2)]
    for layer, weight in zip(layers, weights, strict=True):
        vector = layer.lora_magnitude_vector["default"].weight
        vector.data.mul_(torch.rand_like(vector) + 0.5)
        tensors = {
            "lora_up.weight": layer.lora_B["default"].weight.detach(),
            "lora_down.weight": layer.lora_A["default"].weight.detach(),
            "lora_magnitude_vector": vector.detach().clone(),
            "alpha": torch.tensor(3.0),
        }
        layer.merge()
        got = weight + adapter(tensors).delta(weight)
        torch.testing.assert_close(got, layer.base_layer.weight.detach(), rtol=1e-5, atol=1e-6)


def test_dora_of_a_zero_row_stays_finite() -> None:
    weight = torch.ones(3, 2)
    weight[1] = 0
    delta = dora_delta(weight, torch.zeros(3, 2), torch.ones(3, 1))
    assert torch.isfinite(delta).all()
    assert not (weight + delta)[1].any()


def test_dora_magnitude_that_fits_no_axis() -> None:
    tensors, weight = drawn("lora-dora-out", "linear")
    wrong = adapter({**tensors, "dora_scale": torch.ones(5)})
    assert not wrong.fits(weight.shape)
    with pytest.raises(FitError, match="dora_scale"):
        wrong.delta(weight)
    with pytest.raises(FitError, match="dora_scale"):
        dora_delta(weight, torch.zeros_like(weight), torch.ones(5))


# --- single kinds ----------------------------------------------------------------------------------------------------


def test_glora_square_at_full_rank_reads_as_older() -> None:
    """A rank as large as a square layer fits both orientations; the web UI's reading wins."""
    tensors, weight = drawn("glora-old", "square", rank=12)
    t = {name: tensor.double() for name, tensor in tensors.items()}
    expected = t["b2.weight"] @ t["b1.weight"] + weight.double() @ t["a2.weight"] @ t["a1.weight"]
    torch.testing.assert_close(adapter(tensors).delta(weight).double(), expected, rtol=1e-5, atol=1e-5)


def test_glora_with_a_rank_above_the_inputs() -> None:
    """A 4-channel input convolution trained at rank 16."""
    rng = np.random.default_rng(0)
    shape = (8, 4, 3, 3)
    tensors = make("glora", shape, 16, torch.float32, rng)
    t = {name: tensor.double() for name, tensor in tensors.items()}
    weight = torch.from_numpy(rng.normal(0, 1, shape)).float()
    a = t["a1.weight"][..., 0, 0] @ t["a2.weight"][..., 0, 0]
    b = (t["b1.weight"].flatten(1) @ t["b2.weight"].flatten(1)).reshape(shape)
    expected = (torch.einsum("oihw,ij->ojhw", weight.double(), a) + b) / 2
    torch.testing.assert_close(adapter(tensors).delta(weight).double(), expected, rtol=1e-5, atol=1e-5)


def test_glora_with_a_tucker_core() -> None:
    """B = b1 · bm · b2 of a 3x3 convolution; the core's ranks and kernel must be the layer's."""
    torch.manual_seed(3)
    b1, core, b2 = torch.randn(6, 2), torch.randn(2, 3, 3, 3), torch.randn(3, 5, 1, 1)
    a1, a2 = torch.randn(5, 2), torch.randn(2, 5)
    tensors = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "bm.weight": core}
    found, weight = adapter(tensors), torch.randn(6, 5, 3, 3)
    assert found.fits(weight.shape)
    wanted = torch.einsum("or,rskl,si->oikl", b1, core, b2.flatten(1)) + torch.einsum("ojkl,ji->oikl", weight, a1 @ a2)
    torch.testing.assert_close(found.delta(weight), wanted, rtol=1e-4, atol=1e-4)
    for shape in ((6, 5, 1, 1), (5, 5, 3, 3), (6, 5)):
        assert not found.fits(shape)
    assert not adapter({**tensors, "bm.weight": torch.randn(3, 3, 3, 3)}).fits(weight.shape)
    assert not adapter({**tensors, "bm.weight": torch.randn(2, 2, 3, 3)}).fits(weight.shape)


def test_norm_without_bias() -> None:
    found = adapter({"w_norm": torch.ones(4)})
    assert found.bias_delta() is None
    assert torch.equal(found.delta(torch.zeros(4)), torch.ones(4))


def test_lora_cut_keeps_dora() -> None:
    tensors, weight = drawn("lora-dora-out", "linear", rank=4)
    cut = adapter(tensors).truncated(2)
    assert isinstance(cut, Lora)
    low = adapter({n: t for n, t in tensors.items() if n != "dora_scale"}).low_rank()
    assert low is not None
    expected = dora_delta(weight, low.truncated(2).delta(), tensors["dora_scale"])
    torch.testing.assert_close(cut.delta(weight), expected)


def test_makers_cover_every_kind() -> None:
    made = {variant.kind for variant in MAKERS.values()}
    assert made == {row.kind for row in ADAPTERS}

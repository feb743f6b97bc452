"""Live and baked give W + ΔW, for every kind, layer and dtype; and nothing stays behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from makers import KINDS, make, suits
from reference import reference, reference_bias
from torch import Tensor, nn

from lora_ext.adapters import Adapter, adapter_from_tensors
from lora_ext.errors import BakingMemoryError, FitError
from lora_ext.inject import (
    AUTO,
    BAKED,
    LIVE,
    MODES,
    AppliedAdapter,
    Injection,
    LayerTarget,
    MemoryBudget,
    StepWeight,
    find_layer_targets,
    weight_shape,
)
from lora_ext.inject.live_layer import LIVE_LAYERS

LAYERS_TO_TRY = {
    "linear": lambda: nn.Linear(12, 16),
    "linear-no-bias": lambda: nn.Linear(12, 12, bias=False),
    "1x1": lambda: nn.Conv2d(8, 12, 1),
    "3x3": lambda: nn.Conv2d(12, 8, 3, padding=1),
    "strided": lambda: nn.Conv2d(12, 8, 3, stride=2, padding=1),
    "dilated-circular": lambda: nn.Conv2d(12, 8, 3, padding=2, dilation=2, padding_mode="circular"),
    "grouped": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=4),
    "layernorm": lambda: nn.LayerNorm(16),
    "groupnorm": lambda: nn.GroupNorm(4, 16),
}
INPUTS = {nn.Linear: (2, 5, 12), nn.LayerNorm: (2, 5, 16), nn.GroupNorm: (2, 16, 6, 6)}
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


if torch.__version__ < "2.2":  # no fp16 arithmetic on the CPU there
    del TOLERANCE[torch.float16]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    assert len(LIVE_LAYERS) == 0


def build(
    layer: str, kind: str, dtype: torch.dtype
) -> tuple[nn.Module, LayerTarget, Adapter, dict[str, Tensor], Tensor]:
    module = LAYERS_TO_TRY[layer]().to(dtype)
    shape = weight_shape(module)
    assert shape is not None
    tensors = make(kind, shape, rank=2, dtype=dtype, rng=np.random.default_rng(7))
    adapter = adapter_from_tensors(tensors)
    assert adapter is not None
    size = INPUTS.get(type(module)) or (2, module.in_channels, 6, 6)  # type: ignore[union-attr]
    return module, LayerTarget(module, "weight", shape), adapter, tensors, torch.randn(size).to(dtype)


def exact(module: nn.Module, x: Tensor, weight: np.ndarray, bias: np.ndarray | None) -> Tensor:
    """The layer's output in float64 with the given weight and bias."""
    twin = _clone(module)
    twin.weight.data = torch.from_numpy(np.ascontiguousarray(weight)).double().view(twin.weight.shape)  # type: ignore[union-attr, operator]
    if bias is not None:
        twin.bias = nn.Parameter(torch.from_numpy(np.asarray(bias)).double().flatten())  # type: ignore[assignment]
    return twin(x.double()).detach()


def _clone(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


CASES = [(layer, kind) for layer, new in LAYERS_TO_TRY.items() for kind in KINDS if suits(kind, weight_shape(new()))]  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("layer", "kind"), CASES)
def test_live_and_baked_are_w_plus_delta(layer: str, kind: str, dtype: torch.dtype) -> None:
    module, target, adapter, tensors, x = build(layer, kind, dtype)
    weight = module.weight.detach().double().numpy()  # type: ignore[union-attr, operator]
    full, shift = reference(kind, tensors, weight), reference_bias(tensors)
    scale = 0.7
    bias = None if module.bias is None else module.bias.detach().double().numpy()  # type: ignore[union-attr]
    moved = (0 if bias is None else bias) + scale * shift.reshape(-1) if shift is not None else bias
    expected = exact(module, x, weight + scale * (full - weight), moved)
    plain = module(x).detach()
    for mode in (LIVE, BAKED):
        with Injection(mode) as injection:
            injection.apply({target: (AppliedAdapter(adapter, scale),)})
            got = module(x).detach()
        assert got.dtype == plain.dtype
        room = TOLERANCE[dtype] * float(expected.abs().max() + plain.double().abs().max() + 1)
        assert float((got.double() - expected).abs().max()) < room * 4, mode
        assert torch.equal(module(x), plain)


class Net(nn.Module):
    """A small network with every kind of place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 12)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.linear(x))
        return self.attention(x, x, x, need_weights=False)[0], self.conv(image)


def net_places(net: Net) -> dict[LayerTarget, list[Adapter]]:
    square = torch.Size((12, 12))
    places = [LayerTarget(net.linear, "weight", square), LayerTarget(net.norm, "weight", torch.Size((12,))),
                        LayerTarget(net.conv, "weight", torch.Size((4, 3, 3, 3))),
                        LayerTarget(net.attention, "out_proj.weight", square),
                        *(LayerTarget(net.attention, "in_proj_weight", square, (i * 12, i * 12 + 12))
                          for i in range(3))]  # fmt: skip
    rng = np.random.default_rng(3)

    def kinds(shape: torch.Size) -> list[str]:
        return ["full", "norm"] if len(shape) == 1 else ["lora", "loha", "full", "lora-dora-out", "lora"]

    return {p: [a for k in kinds(p.shape) if (a := adapter_from_tensors(make(k, p.shape, rng=rng)))] for p in places}


def test_attention_takes_q_k_v_and_out() -> None:
    net = Net().eval()
    places = net_places(net)
    x = torch.randn(2, 5, 12)
    reference_net = _clone(net).float()
    with torch.no_grad():
        for target, adapters in places.items():
            if target.module is net.attention:
                rows = slice(*target.rows) if target.rows else slice(None)
                layer = reference_net.attention
                weight = layer.out_proj.weight if target.slot.startswith("out") else layer.in_proj_weight  # type: ignore[union-attr]
                weight[rows] += 0.5 * adapters[0].delta(weight[rows])  # type: ignore[index]
        expected = reference_net.attention(x, x, x, need_weights=False)[0]  # type: ignore[operator]
        for mode in MODES:
            with Injection(mode) as injection:
                wanted = {t: (AppliedAdapter(a[0], 0.5),) for t, a in places.items() if t.module is net.attention}
                injection.apply(wanted)
                got = net.attention(x, x, x, need_weights=False)[0]
                assert torch.allclose(got, expected, atol=2e-6), mode
                assert injection.apply(wanted) == 0


@pytest.mark.parametrize("mode", [LIVE, BAKED])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_openclip_s_rows_are_q_k_and_v_in_that_order(kind: str, mode: str) -> None:
    """As PyTorch splits them: a change of q, k or v alone, where the attention itself computes with it."""
    attention = nn.MultiheadAttention(12, 2, batch_first=True).eval()
    root = nn.ModuleDict({"attn": attention})
    found = find_layer_targets(
        "te", nn.ModuleDict({"transformer": nn.ModuleDict({"resblocks": nn.ModuleList([root])})})
    )
    width = attention.embed_dim
    query, key, value = (attention.in_proj_weight[i * width : (i + 1) * width] for i in range(3))
    sizes = {layer_id.layer.rpartition(".")[2]: target for layer_id, target in found.items()}
    assert sizes.keys() == {"q_proj", "k_proj", "v_proj", "out_proj"}
    adapter = adapter_from_tensors(make(kind, (width, width)))
    assert adapter is not None
    more, shift = adapter.delta(query), adapter.bias_delta()
    own = dict(attention.named_parameters())
    x = torch.randn(2, 5, width)
    for name in "qkv":
        parts = [part + more * (name == which) for which, part in zip("qkv", (query, key, value), strict=True)]
        biases = [bias if shift is None else bias + shift * (name == which)
                  for which, bias in zip("qkv", attention.in_proj_bias.chunk(3), strict=True)]  # fmt: skip
        q, k, v = (nn.functional.linear(x, part, bias).unflatten(-1, (2, -1)).transpose(1, 2)
                   for part, bias in zip(parts, biases, strict=True))  # fmt: skip
        heads = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        with Injection(mode) as injection:
            injection.apply({sizes[f"{name}_proj"]: (AppliedAdapter(adapter, 1.0),)})
            got = attention(x, x, x, need_weights=False)[0]
            if mode == LIVE:  # swapped in for the time of the call alone, also of one that fails
                assert all(parameter is own[name] for name, parameter in attention.named_parameters())
                with pytest.raises(Exception):  # noqa: B017
                    attention(x[..., :5], x, x)
                assert all(parameter is own[name] for name, parameter in attention.named_parameters())
        assert torch.allclose(got, attention.out_proj(heads), atol=1e-5), name


def test_when_two_applied_adapters_are_the_same() -> None:
    """The weight may be one number or one for each image; other content, rank or rows is another applied adapter."""
    one, other = (adapter_from_tensors(make("lora", (12, 12), layer=layer)) for layer in "ab")
    assert one is not None and other is not None
    pair, step = torch.tensor([0.5, 0.5]), StepWeight(0.5)
    applied_adapters = [
        AppliedAdapter(one, 0.5), AppliedAdapter(one, 0.7), AppliedAdapter(one, pair), AppliedAdapter(one, pair[:1]),
        AppliedAdapter(other, 0.5), AppliedAdapter(one, 0.5, dyn=1), AppliedAdapter(one, 0.5, rows=(0, 12)),
        AppliedAdapter(one, 0.5, is_scheduled=True), AppliedAdapter(one, 0.5, is_scheduled=True, step_weight=step),
        AppliedAdapter(one, 0.5, is_scheduled=True, step_weight=StepWeight(0.5)),
        AppliedAdapter(one, 0.5, is_scheduled=True, step_weight=step, block_weight=0.5),
    ]  # fmt: skip
    for i, a in enumerate(applied_adapters):
        for j, b in enumerate(applied_adapters):
            assert a.is_equal(b) == (i == j), (i, j)
    assert AppliedAdapter(one, pair).is_equal(AppliedAdapter(one, pair.clone()))
    assert applied_adapters[0].is_same_adapter(applied_adapters[2]) and applied_adapters[0].is_same_adapter(
        applied_adapters[7]
    )
    assert not any(applied_adapters[0].is_same_adapter(applied_adapter) for applied_adapter in applied_adapters[4:7])
    acting = [
        AppliedAdapter(one, weight).is_acting() for weight in (0.0, -0.5, torch.zeros(2), torch.tensor([0.0, 1.0]))
    ]
    assert acting == [False, True, False, True]


@pytest.mark.long
def test_a_thousand_random_sequences_leave_nothing_behind() -> None:
    """Apply, change, nest, raise, move to half and back, remove in any order."""
    rng = random.Random(0)
    net = Net().eval()
    places = net_places(net)
    before = dict(net.named_parameters())
    bytes_before = {name: p.detach().clone() for name, p in before.items()}
    x, image = torch.randn(1, 3, 12), torch.randn(1, 3, 5, 5)
    plain = net(x, image)
    for _ in range(1000):
        injections = [Injection(rng.choice(MODES)) for _ in range(rng.randint(1, 3))]
        for _ in range(rng.randint(1, 4)):
            injection = rng.choice(injections)
            chosen = rng.sample(list(places), rng.randint(1, 3))
            wanted = {
                t: tuple(
                    AppliedAdapter(a, rng.choice([0, 1, -0.5, 2.0])) for a in rng.sample(places[t], rng.randint(0, 2))
                )
                for t in chosen
            }
            if rng.random() < 0.15:
                bad = adapter_from_tensors({"lora_up.weight": torch.ones(7, 1), "lora_down.weight": torch.ones(1, 5)})
                assert bad is not None
                wanted[chosen[0]] = (*wanted[chosen[0]], AppliedAdapter(bad, 1.0))
                with pytest.raises(FitError):
                    injection.apply(wanted)
                assert not any(layer.adapters_of(injection) for layer in LIVE_LAYERS.values())
            else:
                injection.apply(wanted)
            if rng.random() < 0.1:
                net(x, image)
        for injection in rng.sample(injections, len(injections)):
            injection.close()
    after = dict(net.named_parameters())
    assert all(after[name] is before[name] for name in before) and after.keys() == before.keys()
    assert all(torch.equal(after[name], bytes_before[name]) for name in before)
    assert net.state_dict().keys() == bytes_before.keys()
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(torch.equal(a, b) for a, b in zip(net(x, image), plain, strict=True))


def test_nested_injections_add_up_in_any_order() -> None:
    net = Net().eval()
    (target, adapters), *_ = net_places(net).items()
    x = torch.randn(3, 12)
    weight, bias = net.linear.weight, net.linear.bias
    once = adapters[0].delta(weight)
    for outer_mode in (LIVE, BAKED):
        for inner_mode in (LIVE, BAKED):
            outer, inner = Injection(outer_mode), Injection(inner_mode)
            outer.apply({target: (AppliedAdapter(adapters[0], 1.0),)})
            inner.apply({target: (AppliedAdapter(adapters[0], 0.5),)})
            assert torch.allclose(net.linear(x), nn.functional.linear(x, weight + 1.5 * once, bias), atol=2e-5)
            outer.close()
            assert torch.allclose(net.linear(x), nn.functional.linear(x, weight + 0.5 * once, bias), atol=2e-5)
            inner.close()
            assert net.linear.weight is weight


def test_only_what_changed_is_touched() -> None:
    net = Net().eval()
    places = net_places(net)
    with Injection(LIVE) as injection:
        wanted = {t: (AppliedAdapter(a[0], 0.5),) for t, a in places.items() if t.slot == "weight"}
        assert injection.apply(wanted) == 3
        assert injection.apply(wanted) == 0
        first = next(iter(wanted))
        assert injection.apply({**wanted, first: (AppliedAdapter(places[first][0], 0.7),)}) == 1


@pytest.mark.parametrize("mode", [LIVE, BAKED])
@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_the_same_adapter_twice_with_changing_weights(mode: str, kind: str) -> None:
    linear = nn.Linear(12, 12)
    adapter = adapter_from_tensors(make(kind, (12, 12)))
    assert adapter is not None
    x, weight = torch.randn(2, 12), linear.weight.detach().clone()
    target = LayerTarget(linear, "weight", torch.Size((12, 12)))
    with Injection(mode) as injection:
        for first, second in ((0.4, 0.4), (0.4, 0.7), (-1.0, 0.7), (0.0, 1.0)):
            injection.apply({target: (AppliedAdapter(adapter, first), AppliedAdapter(adapter, second))})
            expected = nn.functional.linear(x, weight + (first + second) * adapter.delta(weight), linear.bias)
            assert torch.allclose(linear(x), expected, atol=1e-5)


def test_live_weights_may_differ_from_picture_to_picture() -> None:
    linear, conv = nn.Linear(12, 12), nn.Conv2d(4, 6, 3, padding=1, groups=2)
    for module, x in ((linear, torch.randn(6, 5, 12)), (conv, torch.randn(6, 4, 5, 5))):
        shape = weight_shape(module)
        assert shape is not None
        one, two = (adapter_from_tensors(make("lora", shape, rng=np.random.default_rng(i))) for i in (0, 1))
        assert one is not None and two is not None
        target = LayerTarget(module, "weight", shape)
        weights = torch.tensor([0.0, 0.5, -1.0])
        with Injection() as injection:
            injection.apply({target: (AppliedAdapter(one, weights), AppliedAdapter(two, 0.3))})
            together = module(x)  # two guidance halves of three pictures
        for i, weight in enumerate(weights.tolist()):
            with Injection(LIVE) as injection:
                injection.apply({target: (AppliedAdapter(one, weight), AppliedAdapter(two, 0.3))})
                alone = module(x)
            for row in (i, i + 3):
                assert torch.allclose(together[row], alone[row], atol=1e-5)


@pytest.mark.parametrize("mode", [LIVE, BAKED])
def test_a_model_moved_to_another_dtype_meanwhile(mode: str) -> None:
    net = Net().eval()
    places = net_places(net)
    injection = Injection(mode)
    injection.apply({t: (AppliedAdapter(a[0], 0.5),) for t, a in places.items()})
    original = dict(net.named_parameters()) if mode == LIVE else None
    net.half()
    injection.close()
    assert all(p.dtype == torch.float16 for p in net.parameters())
    if original:
        assert all(p is original[name] for name, p in net.named_parameters())


def test_memory_that_baking_needs_decides_the_mode() -> None:
    """Beside an image of 100 bytes: two weights of 4·12·12 bytes, and once the float32 sum of the largest."""
    layers = [nn.Linear(12, 12), nn.Linear(12, 12)]
    adapter = adapter_from_tensors(make("lora", (12, 12)))
    assert adapter is not None
    wanted = {LayerTarget(layer, "weight", layer.weight.shape): (AppliedAdapter(adapter, 1.0),) for layer in layers}
    needed = 3 * 4 * 12 * 12

    def applied(mode: str, free: int, forced: str = "") -> tuple[str, bool]:
        with Injection(mode, MemoryBudget(free=lambda device: free, image_bytes=100)) as injection:
            injection.forced_live_reason = forced
            injection.apply(wanted)
            return injection.live_reason, injection.baked_bytes() > 0

    assert applied(AUTO, needed + 100) == ("", True) == applied(BAKED, needed)
    reason, is_baked = applied(AUTO, needed + 99)
    assert reason.startswith("baking takes 0.0 MiB more beside 0.0 MiB for generating an image") and not is_baked
    assert applied(AUTO, needed + 100, "asked for") == ("asked for", False)
    assert applied(LIVE, 0) == ("", False)
    with pytest.raises(BakingMemoryError, match="the modes live and auto do not need this memory"):
        applied(BAKED, needed - 1)
    weights = torch.tensor([0.5, 1.0])  # for each image, which is live in any case: no memory is counted
    turning = {target: (AppliedAdapter(adapter, weights),) for target in wanted}
    with Injection(AUTO, MemoryBudget(free=lambda device: 0)) as injection:
        injection.apply(turning)
        assert injection.live_reason == "" and injection.baked_bytes() == 0


def test_fp8_storage_goes_live() -> None:
    if not hasattr(torch, "float8_e4m3fn"):
        pytest.skip("this torch has no float8")
    linear = nn.Linear(12, 12)
    adapter = adapter_from_tensors(make("lora", (12, 12)))
    assert adapter is not None
    x = torch.randn(2, 12)
    delta = adapter.delta(linear.weight)
    linear.weight.data = linear.weight.data.to(torch.float8_e4m3fn)
    weight = linear.weight
    linear.forward = lambda y: nn.functional.linear(y, weight.float(), linear.bias)  # type: ignore[method-assign]
    with Injection() as injection:
        injection.apply({LayerTarget(linear, "weight", torch.Size((12, 12))): (AppliedAdapter(adapter, 1.0),)})
        assert linear.weight is weight
        assert torch.allclose(linear(x), nn.functional.linear(x, weight.float() + delta, linear.bias), atol=1e-5)


def test_rank_cut_uses_the_first_ranks() -> None:
    linear = nn.Linear(12, 12)
    tensors = make("lora", (12, 12), rank=4)
    adapter = adapter_from_tensors(tensors)
    assert adapter is not None
    cut = dict(
        tensors,
        **{"lora_up.weight": tensors["lora_up.weight"][:, :2], "lora_down.weight": tensors["lora_down.weight"][:2]},
    )
    cut["alpha"] = tensors["alpha"] / 2  # scale stays alpha / full rank
    short = adapter_from_tensors(cut)
    assert short is not None
    x = torch.randn(2, 12)
    target = LayerTarget(linear, "weight", torch.Size((12, 12)))
    for mode in (LIVE, BAKED):
        with Injection(mode) as injection:
            injection.apply({target: (AppliedAdapter(adapter, 1.0, dyn=2),)})
            got = linear(x)
            injection.apply({target: (AppliedAdapter(short, 1.0),)})
            assert torch.allclose(got, linear(x), atol=1e-6)


def test_targets_of_openclip_are_found() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2)
            self.ln_1 = nn.LayerNorm(8)
            self.mlp = nn.Sequential()
            self.mlp.add_module("c_fc", nn.Linear(8, 32))
            self.mlp.add_module("c_proj", nn.Linear(32, 8))

    root = nn.Module()
    root.model = nn.Module()
    root.model.transformer = nn.Module()
    root.model.transformer.resblocks = nn.ModuleList([Block(), Block()])
    found = {str(layer_id): target for layer_id, target in find_layer_targets("te2", root).items()}
    assert found["te2.BASE.layers.1.self_attn.k_proj"].rows == (8, 16)
    assert found["te2.BASE.layers.0.self_attn.out_proj"].slot == "out_proj.weight"
    assert found["te2.BASE.layers.0.mlp.fc1"].shape == (32, 8)
    assert len(found) == 14

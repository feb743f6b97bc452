"""Laws of the network on a model: hooks in and out, what is trained is what is applied, prefixes, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Tiny
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.errors import TrainError
from lora_ext.inject import BAKED, LIVE
from lora_ext.layer_names import LayerId
from lora_ext.tools.split_dylora import split_dylora
from lora_ext.train.config.block_settings import RankAndAlpha
from lora_ext.train.config.dylora import RankSelection, select_drawn_ranks
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.network.autograd import ConvLoraFunction, LinearLoraFunction
from lora_ext.train.network.trainable_factors import TrainableFactors
from lora_ext.train.network.trainable_network import TrainableNetwork
from lora_ext.train.network.weight_norms import delta_norms, limit_delta_norms

RECIPES = {
    "lierla": Recipe(network_dim=4, network_alpha=2.0),
    "c3lier": Recipe(network_module="c3lier", network_dim=3, conv_dim=2, conv_alpha=1.0),
    "dylora": Recipe(network_module="dylora", network_dim=4, unit=2, conv_dim=4),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def with_random_factors(network: TrainableNetwork, std: float = 0.1) -> TrainableNetwork:
    """With values as after some training, in both factors."""
    for module in network.factors_by_layer.values():
        module.up.normal_(std=std, generator=seeded(3))
    return network


@pytest.fixture
def model() -> Tiny:
    tiny = Tiny()
    for part in tiny.parts().values():
        part.requires_grad_(False)
    return tiny


def output(model: Tiny) -> Tensor:
    """The U-Net's output for fixed inputs, with the graph."""
    text = model.text_encoder(torch.arange(7)[None]).last_hidden_state
    image = torch.randn(2, 4, 8, 8, generator=seeded(2))
    return model.unet(image, 3, text.expand(2, -1, -1)).sample


# --- on and off


@pytest.mark.parametrize("name", RECIPES)
def test_detaching_leaves_nothing(model: Tiny, name: str) -> None:
    before = {key: id(p) for root in model.parts().values() for key, p in root.named_parameters()}
    state = [(m, dict(m.__dict__)) for root in model.parts().values() for m in root.modules()]
    hooks = [(m, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m, _ in state]
    plain = output(model)
    with with_random_factors(TrainableNetwork(model.parts(), RECIPES[name], generator=seeded())) as network:
        changed = output(model)
        network.attach()
        assert torch.equal(output(model), changed)  # attached once, however often asked
    assert not torch.equal(changed, plain) and torch.equal(output(model), plain)
    assert before == {key: id(p) for root in model.parts().values() for key, p in root.named_parameters()}
    for module, inside in state:
        assert module.__dict__.keys() == inside.keys()
    assert hooks == [(m, dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m, _ in state]


def test_a_new_network_changes_nothing(model: Tiny) -> None:
    plain = output(model)
    with TrainableNetwork(model.parts(), RECIPES["c3lier"]):
        torch.testing.assert_close(output(model), plain)


@pytest.mark.long
@pytest.mark.parametrize("mode", [LIVE, BAKED])
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_trained_is_what_is_applied(model: Tiny, name: str, mode: str) -> None:
    network = with_random_factors(TrainableNetwork(model.parts(), RECIPES[name], generator=seeded())).eval()
    with network, torch.no_grad():
        trained = output(model)
    with AppliedNetworks(model, mode) as applied, torch.no_grad():
        fits = applied.apply([AdapterSpec(network.to_lora_file())])
        assert all(fit.ok for fit in fits)
        torch.testing.assert_close(output(model), trained, rtol=1e-4, atol=1e-5)


def test_no_layer_is_reported(model: Tiny) -> None:
    recipe = Recipe(down_lr_weight="zeros", mid_lr_weight="0", up_lr_weight="zeros", network_train_unet_only=True)
    with pytest.raises(TrainError, match="no layer"):
        TrainableNetwork(model.parts(), recipe)


# --- DyLoRA


@pytest.mark.long
@pytest.mark.parametrize("variant", ["unit", "prefix"])
def test_a_prefix_in_training_is_its_split_file(model: Tiny, variant: str) -> None:
    recipe = Recipe(network_module="dylora", network_dim=8, unit=2, conv_dim=8, dylora_variant=variant)
    network = with_random_factors(TrainableNetwork(model.parts(), recipe, generator=seeded()))
    files, _ = split_dylora(network.to_lora_file(), alpha="trained")
    assert sorted(files) == [2, 4, 6, 8]
    for rank, file in files.items():
        for module in network.factors_by_layer.values():
            module.select_ranks(select_drawn_ranks(recipe, rank, module.rank, module.alpha))
        with network, torch.no_grad():
            trained = output(model)
        with AppliedNetworks(model, LIVE) as applied, torch.no_grad():
            applied.apply([AdapterSpec(file)])
            torch.testing.assert_close(output(model), trained, rtol=1e-4, atol=1e-5)


@settings(max_examples=40)
@given(st.sampled_from(["unit", "prefix", "kohya"]), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_only_what_was_drawn_learns(variant: str, unit: int, units: int, seed: int) -> None:
    """Gradients against plain autograd on slices; the other ranks have none and no optimizer moves them."""
    recipe = Recipe(network_module="dylora", network_dim=unit * units, unit=unit, dylora_variant=variant)
    drawn = unit * (1 + seed % units)
    factors = TrainableFactors((5, 6), RankAndAlpha(unit * units, 3.0), unit, seeded(seed))
    with torch.no_grad():
        factors.up.normal_(generator=seeded(seed + 1))
    factors.select_ranks(select_drawn_ranks(recipe, drawn, factors.rank, 3.0))
    rank, down, up = factors.rank, factors.down.clone().requires_grad_(), factors.up.clone().requires_grad_()
    layer, x = nn.Linear(6, 5), torch.randn(2, 3, 6, generator=seeded(seed), requires_grad=True)
    y = factors.after_forward(layer, (x,), layer(x))
    assert y is not None
    y.square().sum().backward()
    got, x.grad = x.grad, None
    acting = rank if variant == "kohya" else drawn
    scale = 3.0 / rank * (rank / drawn) ** 0.5 if variant == "kohya" else 3.0 / drawn
    wanted = layer(x) + scale * (x @ down[:acting].t()) @ up[:acting]
    torch.testing.assert_close(y, wanted)
    wanted.square().sum().backward()
    torch.testing.assert_close(got, x.grad, rtol=1e-4, atol=1e-5)
    first = 0 if variant == "prefix" else drawn - unit
    before = factors.down.clone(), factors.up.clone()
    for parameters, full in ((factors.downs, down), (factors.ups, up)):
        for index, parameter in enumerate(parameters):
            rows = slice(index * unit, index * unit + unit)
            if first <= index * unit < drawn:
                torch.testing.assert_close(parameter.grad, full.grad[rows], rtol=1e-4, atol=1e-5)
            else:
                assert parameter.grad is None
    torch.optim.AdamW(factors.parameters(), lr=0.1).step()
    for now, was in zip((factors.down, factors.up), before, strict=True):
        assert torch.equal(now[:first], was[:first]) and torch.equal(now[drawn:], was[drawn:])
        assert not torch.equal(now[first:drawn], was[first:drawn])


@pytest.mark.long
def test_draws_are_the_same_everywhere_and_reach_every_unit(model: Tiny) -> None:
    recipe = Recipe(network_module="dylora", network_dim=8, unit=2)
    one, two = (TrainableNetwork(model.parts(), recipe, generator=seeded()) for _ in range(2))
    seen, a, b = set(), seeded(5), seeded(5)
    for _ in range(40):
        one.begin_step(a)
        two.begin_step(b, process=1)
        shares = {module.selection for module in one.factors_by_layer.values()}
        assert len(shares) == 1 and shares == {module.selection for module in two.factors_by_layer.values()}
        seen.add(shares.pop().last)
    assert seen == {2, 4, 6, 8}
    each = TrainableNetwork(model.parts(), Recipe(network_module="dylora", network_dim=8, unit=2, dylora_draw="module"))
    each.begin_step(seeded())
    assert {module.selection.last for module in each.factors_by_layer.values()} == {2, 4, 6, 8}


def test_outside_training_all_ranks_act_whatever_was_drawn(model: Tiny) -> None:
    recipe = Recipe(network_module="dylora", network_dim=4, unit=1, module_dropout=0.5, rank_dropout=0.5)
    network = with_random_factors(TrainableNetwork(model.parts(), recipe, generator=seeded()))
    with network, torch.no_grad():
        network.eval()
        first = output(model)
        network.train().begin_step(seeded(1))
        assert not torch.equal(output(model), first)
        network.eval().begin_step(seeded(2))
        assert torch.equal(output(model), first)


# --- gradients


def grads(network: TrainableNetwork) -> list[Tensor | None]:
    found = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    network.zero_grad(set_to_none=True)
    return found


@pytest.mark.long
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    "extra", [{}, {"network_module": "dylora", "unit": 2}, {"network_dropout": 0.3, "rank_dropout": 0.3}], ids=str
)
def test_checkpointing_gives_the_same_gradients(model: Tiny, extra: dict[str, Any], reentrant: bool) -> None:
    recipe = Recipe(network_dim=4, network_train_unet_only=True, **extra)
    network = with_random_factors(TrainableNetwork(model.parts(), recipe, generator=seeded()))
    text = torch.randn(2, 7, 16, generator=seeded(4), requires_grad=True)
    image = torch.randn(2, 4, 8, 8, generator=seeded(2), requires_grad=True)

    def forward(image: Tensor, text: Tensor) -> Tensor:
        return model.unet(image, 3, text).sample

    with network.train():
        network.begin_step(seeded(6))
        forward(image, text).square().sum().backward()
        plain = grads(network)
        checkpoint(forward, image, text, use_reentrant=reentrant).square().sum().backward()
        again = grads(network)
    assert any(g is not None and g.abs().max() > 0 for g in plain)
    for one, two in zip(plain, again, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two)


@pytest.mark.long
@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.booleans(), st.sampled_from([(1, 0, 1), (3, 1, 1), (3, 1, 2)]))
def test_the_paths_gradients_in_float64(first: int, more: int, needs_x: bool, kernel: tuple[int, int, int]) -> None:
    """Against numerical differences, for Linear and for 1x1, 3x3 and strided convolutions."""
    g, rank = seeded(first), first + more
    part = RankSelection(rank, 0.7, first - 1, rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    down, up, x = normal(rank, 4), normal(rank, 3), normal(2, 3, 4).requires_grad_(needs_x)
    learning = (down[first - 1 :].clone().requires_grad_(), up[first - 1 :].clone().requires_grad_())

    def linear(x: Tensor, out: Tensor, d: Tensor, u: Tensor) -> Tensor:
        full = (torch.cat([down[: first - 1], d.detach()]), torch.cat([up[: first - 1], u.detach()]))
        return LinearLoraFunction.apply(x, out, None, *full, part, d, u)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(linear, (x, normal(2, 3, 3).requires_grad_(), *learning))
    size, padding, stride = kernel
    how = ((stride, stride), (padding, padding), (1, 1))
    core, image = normal(rank, 2, size, size), normal(2, 2, 5, 4).requires_grad_(needs_x)
    out = torch.zeros_like(nn.functional.conv2d(image, core, None, *how))[:, :1].expand(-1, 3, -1, -1).clone()
    learning = (core[first - 1 :].clone().requires_grad_(), learning[1])

    def conv(x: Tensor, out: Tensor, d: Tensor, u: Tensor) -> Tensor:
        full = (torch.cat([core[: first - 1], d.detach()]), torch.cat([up[: first - 1], u.detach()]))
        return ConvLoraFunction.apply(x, out, None, *full, part, how, d, u)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(conv, (image, out.detach().requires_grad_(), *learning))


def test_half_precision_on_the_way(model: Tiny) -> None:
    network = with_random_factors(TrainableNetwork(model.parts(), RECIPES["c3lier"], generator=seeded()))
    with network:
        output(model).square().mean().backward()
        full = grads(network)
        with torch.autocast("cpu", torch.bfloat16):
            y = output(model)
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
        half = grads(network)
    a, b = (torch.cat([g.flatten() for g in found if g is not None]) for found in (full, half))
    assert all(g is not None and g.dtype == torch.float32 for g in half)
    assert float(nn.functional.cosine_similarity(a, b, dim=0)) > 0.99


def test_rank_dropout_keeps_the_mean() -> None:
    factors = TrainableFactors((6, 6), RankAndAlpha(4, 4.0), None, seeded())
    with torch.no_grad():
        factors.up.normal_(generator=seeded(1))
    factors.rank_dropout, layer, x = 0.25, nn.Linear(6, 6), torch.randn(4000, 6).expand(1, -1, -1).transpose(0, 1)
    plain = layer(x)
    whole = factors.after_forward(layer, (x,), plain)
    factors.seed = 3
    dropped = factors.after_forward(layer, (x,), plain)
    assert whole is not None and dropped is not None
    zero = ((dropped - plain).abs().amax((1, 2)) == 0).float().mean()
    assert float(zero) == pytest.approx(0.25**4, abs=0.01)
    torch.testing.assert_close((dropped - plain).mean(), (whole - plain).mean(), rtol=0.2, atol=0.05)
    assert torch.equal(dropped, factors.after_forward(layer, (x,), plain))  # the same again within a step


# --- norms


@settings(max_examples=20)
@given(st.integers(1, 6), st.floats(0.1, 5), st.integers(0, 99))
def test_norms_are_those_of_the_whole_matrix(rank: int, limit: float, seed: int) -> None:
    modules = [
        TrainableFactors(shape, RankAndAlpha(rank, 2.0), None, seeded(seed))
        for shape in ((7, 9), (8, 5, 3, 3), (6, 6, 1, 1))
    ]
    with torch.no_grad():
        for module in modules:
            module.up.normal_(generator=seeded(seed))
        before = [module.delta() for module in modules]
        torch.testing.assert_close(delta_norms(modules), torch.stack([d.norm() for d in before]), rtol=1e-4, atol=1e-5)
        report = limit_delta_norms(modules, limit)
        for module, was in zip(modules, before, strict=True):
            torch.testing.assert_close(module.delta(), was * min(1.0, limit / float(was.norm())), rtol=1e-4, atol=1e-5)
    assert float(report.largest) <= limit * 1.0001
    assert int(report.scaled) == sum(float(was.norm()) > limit for was in before)


# --- files


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_brings_everything_back(model: Tiny, name: str) -> None:
    network = with_random_factors(TrainableNetwork(model.parts(), RECIPES[name], generator=seeded()))
    file = network.to_lora_file()
    again = TrainableNetwork(model.parts(), RECIPES[name], generator=seeded(9), file=file)
    for layer_id, module in again.factors_by_layer.items():
        first = network.factors_by_layer[layer_id]
        assert torch.equal(module.down, first.down) and torch.equal(module.up, first.up)


def test_a_file_of_another_rank_and_alpha(model: Tiny) -> None:
    network = with_random_factors(
        TrainableNetwork(model.parts(), Recipe(network_dim=3, network_alpha=3.0), generator=seeded())
    )
    wider = TrainableNetwork(
        model.parts(), Recipe(network_dim=8, network_alpha=1.0), generator=seeded(1), file=network.to_lora_file()
    )
    for layer_id, module in wider.factors_by_layer.items():
        torch.testing.assert_close(module.delta(), network.factors_by_layer[layer_id].delta(), rtol=1e-4, atol=1e-6)
    with pytest.raises(TrainError, match="dim_from_weights"):
        TrainableNetwork(model.parts(), Recipe(network_dim=2), file=network.to_lora_file())
    same = Recipe(network_dim=2, network_weights="x.safetensors", dim_from_weights=True)
    taken = TrainableNetwork(model.parts(), same, file=network.to_lora_file())
    assert {(m.rank, m.alpha) for m in taken.factors_by_layer.values()} == {(3, 3.0)}


def test_a_file_for_nothing_here_is_reported(model: Tiny) -> None:
    text = TrainableNetwork(model.parts(), Recipe(network_train_text_encoder_only=True)).to_lora_file()
    with pytest.raises(TrainError, match="no layer"):
        TrainableNetwork(model.parts(), Recipe(network_train_unet_only=True), file=text)


def test_groups_have_the_blocks_rates(model: Tiny) -> None:
    recipe = Recipe(unet_lr=1e-3, text_encoder_lr=1e-5, down_lr_weight="0,0.5,0,0,1,0,0,0,0,0,0,0")
    network = TrainableNetwork(model.parts(), recipe)
    rates = {group["name"]: group["lr"] for group in network.parameter_groups()}
    assert rates == {"unet IN01": 5e-4, "unet": 1e-3, "text_encoder": 1e-5}
    assert sum(len(g["params"]) for g in network.parameter_groups()) == len(list(network.parameters()))
    assert {layer_id.block for layer_id in network.factors_by_layer if layer_id.block.startswith("IN")} == {
        "IN01",
        "IN04",
    }


def test_memory_stays_shared_when_moved(model: Tiny) -> None:
    network = TrainableNetwork(model.parts(), RECIPES["dylora"], generator=seeded())
    network.double()
    factors = next(iter(network.factors_by_layer.values()))
    assert factors.down.dtype == torch.float64
    with torch.no_grad():
        factors.downs[1].fill_(7)
    assert bool((factors.down[2:] == 7).all())
    factors.downs[0].data = torch.full_like(factors.downs[0], 5)  # as an optimizer might
    network.begin_step(seeded())
    assert bool((factors.down[:2] == 5).all()) and factors.downs[0].data_ptr() == factors.down.data_ptr()
    state = network.state_dict()
    other = TrainableNetwork(model.parts(), RECIPES["dylora"], generator=seeded(8)).double()
    other.load_state_dict(state)
    assert torch.equal(next(iter(other.factors_by_layer.values())).down, factors.down)


# --- OpenCLIP


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


class OpenClip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([Block()])

    def parts(self) -> dict[str, nn.Module]:
        return {"te": self}

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer.resblocks[0](x)  # type: ignore[index, operator, no-any-return]


def test_open_clips_attention_learns_and_stays() -> None:
    torch.manual_seed(0)
    model = OpenClip().requires_grad_(False)
    network = with_random_factors(
        TrainableNetwork(model.parts(), Recipe(network_train_text_encoder_only=True), generator=seeded())
    )
    assert (
        LayerId("te", "BASE", "layers.0.self_attn.k_proj") in network.factors_by_layer
        and len(network.factors_by_layer) == 5
    )
    x = torch.randn(2, 3, 8, generator=seeded(1))
    with network:
        y = model(x)
        y.square().sum().backward()
        with pytest.raises(Exception, match="dim"):
            model(torch.randn(2, 3, 5))
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
    for module in model.modules():
        assert not module.__dict__.keys() & {"in_proj_weight", "weight"} and not module._forward_hooks
    with AppliedNetworks(model, BAKED) as applied:
        applied.apply([AdapterSpec(network.to_lora_file())])
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-6)

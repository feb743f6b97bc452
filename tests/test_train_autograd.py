"""The path that does its layer's backward pass too, beside the one that does not; casts; dropouts of a prefix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lora_ext.host.training_context import convolutions_channels_last
from lora_ext.train.config.block_settings import RankAndAlpha
from lora_ext.train.config.dylora import select_drawn_ranks
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.network.autograd import forward_with_dropout, frozen_weight
from lora_ext.train.network.trainable_factors import TrainableFactors, cast_factors

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "flat": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "1x1": (lambda: nn.Conv2d(4, 6, 1), (2, 4, 5, 3)),
    "3x3": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 3)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 5, 6)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 5, 6)),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 5, 6)),
}


def made(layer: nn.Module, rank: int = 4, unit: int | None = None) -> TrainableFactors:
    factors = TrainableFactors(
        tuple(layer.weight.shape), RankAndAlpha(rank, 2.0), unit, torch.Generator().manual_seed(0)
    )  # type: ignore[arg-type]
    with torch.no_grad():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    return factors


def hooked(layer: nn.Module, factors: TrainableFactors, x: Tensor, *, fused: bool) -> Tensor:
    handles = [layer.register_forward_hook(factors.after_forward)]
    if fused:
        handles.append(layer.register_forward_pre_hook(factors.before_forward))
    y: Tensor = layer(x)
    for handle in handles:
        handle.remove()
    return y


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_both_ways_are_the_layer_with_the_delta(name: str, channels_last: bool) -> None:
    """Output, gradients of the input and of both factors, against a layer whose weight is W + ΔW."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build().requires_grad_(False), torch.randn(shape)
    if channels_last and x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    factors, results = made(layer), []
    for fused in (False, True):
        x = x.detach().requires_grad_()
        y = hooked(layer, factors, x, fused=fused)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, factors.downs[0].grad, factors.ups[0].grad])
        factors.zero_grad(set_to_none=True)
    weight = {"weight": layer.weight + factors.delta(), **({"bias": layer.bias} if layer.bias is not None else {})}
    x = x.detach().requires_grad_()
    y = torch.func.functional_call(layer, weight, (x,))
    y.square().sum().backward()
    wanted = [y.detach(), x.grad, factors.downs[0].grad, factors.ups[0].grad]
    for result in results:
        for got, right in zip(result, wanted, strict=True):
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)
    factors.downs.requires_grad_(False)  # LoRA-FA: the fixed factor gets no gradient, and x is not kept for it
    for fused in (False, True):
        factors.zero_grad(set_to_none=True)
        x = x.detach().requires_grad_()
        y = hooked(layer, factors, x, fused=fused)
        # behind a permutation where a 1x1 convolution is a product of its pixels
        node = y.grad_fn if hasattr(y.grad_fn, "saved_tensors") else y.grad_fn.next_functions[0][0]
        assert node.saved_tensors[0] is None
        y.square().sum().backward()
        assert factors.downs[0].grad is None
        for got, right in ((x.grad, wanted[1]), (factors.ups[0].grad, wanted[3])):
            torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4)


def test_whose_backward_pass_may_be_taken_over() -> None:
    def asked(layer: nn.Module, *, hooks: int = 1) -> bool:
        factors = made(layer)
        layer.register_forward_pre_hook(factors.before_forward)
        for _ in range(hooks):
            layer.register_forward_hook(factors.after_forward)
        return frozen_weight(layer) is not None

    class Other(nn.Linear):
        pass

    assert asked(nn.Linear(3, 4).requires_grad_(False))
    assert asked(nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False))
    assert not asked(nn.Linear(3, 4))
    assert not asked(nn.Linear(3, 4).requires_grad_(False), hooks=2)
    assert not asked(Other(3, 4).requires_grad_(False))
    assert not asked(nn.Conv2d(3, 4, 3, padding_mode="circular").requires_grad_(False))


def test_a_layer_that_fails_leaves_nothing_waiting() -> None:
    layer = nn.Linear(6, 5).requires_grad_(False)
    factors, x = made(layer), torch.randn(2, 6)
    with pytest.raises(RuntimeError):
        hooked(layer, factors, torch.randn(2, 7), fused=True)
    layer._forward_hooks.clear()
    layer._forward_pre_hooks.clear()
    wanted = layer(x) + 0.5 * (x @ factors.down.t()) @ factors.up
    torch.testing.assert_close(hooked(layer, factors, x, fused=True), wanted)


def test_casts_follow_the_optimizer() -> None:
    """Under autocast the casts of a step's beginning are used, and never older ones."""
    layer, x = nn.Linear(6, 5).requires_grad_(False), torch.randn(8, 6)
    factors = made(layer)
    with torch.autocast("cpu", torch.bfloat16):
        first = hooked(layer, factors, x, fused=True)
        cast_factors([factors])
        assert factors.casts is not None and factors._factors_in(torch.bfloat16) is factors.casts
        assert torch.equal(hooked(layer, factors, x, fused=True), first)
        first.sum().backward()
        torch.optim.SGD(factors.parameters(), lr=1.0).step()
        moved = hooked(layer, factors, x, fused=True)
        assert not torch.equal(moved, first)  # also without a new beginning
        cast_factors([factors])
        assert factors._factors_in(torch.bfloat16) is factors.casts
        assert torch.equal(hooked(layer, factors, x, fused=True), moved)


@pytest.mark.parametrize("name", ["linear", "3x3"])
@pytest.mark.parametrize("variant", ["unit", "prefix", "kohya"])
def test_dropouts_of_a_prefix(name: str, variant: str) -> None:
    """With masks of ones the path with dropouts is the one without, gradients too."""
    build, shape = LAYERS[name]
    layer, x = build().requires_grad_(False), torch.randn(shape)
    factors, recipe = made(layer, unit=2), Recipe(network_dim=4, unit=2, dylora_variant=variant)
    for drawn in (2, 4):
        factors.select_ranks(select_drawn_ranks(recipe, drawn, 4, 2.0))
        plain = hooked(layer, factors, x, fused=True)
        plain.square().sum().backward()
        grads = [p.grad for p in factors.parameters()]
        factors.zero_grad(set_to_none=True)
        ones = (torch.ones_like, lambda thin: torch.ones(thin.shape[0], factors.selection.active))
        other = forward_with_dropout(layer, x, layer(x), *factors.active_factors(), factors.selection.scale, ones)
        other.square().sum().backward()
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)
        for parameter, wanted in zip(factors.parameters(), grads, strict=True):
            assert (parameter.grad is None) == (wanted is None)
            if wanted is not None:
                torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-4)
        factors.zero_grad(set_to_none=True)


def test_wide_convolutions_have_their_channels_last_while_they_train() -> None:
    """On the CPU; the weights come back as they were. Narrow networks stay as they are."""
    wide, narrow = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Conv2d(64, 8, 3)), nn.Sequential(nn.Conv2d(4, 8, 3))
    x, before = torch.randn(1, 4, 7, 7), [p.detach().clone() for p in wide.parameters()]
    plain = wide(x)
    with convolutions_channels_last(wide.requires_grad_(False)), convolutions_channels_last(narrow):
        assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in wide)  # type: ignore
        assert wide(x).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(wide(x), plain)
        assert narrow[0].weight.is_contiguous()  # type: ignore[operator]
    for parameter, original in zip(wide.parameters(), before, strict=True):
        assert parameter.is_contiguous() and torch.equal(parameter, original)

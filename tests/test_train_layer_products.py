"""Layers of LoHa, LoKr and DoRA without ΔW: the same outputs and gradients as by plain autograd through W + ΔW."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ext.layer_names import LayerId
from lora_ext.train.config.block_settings import RankAndAlpha
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.layer_products import LayerCall, LayerProductFunction, ScratchMemory
from lora_ext.train.network.new_adapters import NewLayer, new_tensors
from lora_ext.train.network.products_of_kinds import (
    DoraProduct,
    HadamardColumns,
    HadamardMerged,
    KroneckerMerged,
    KroneckerProduct,
    layer_product,
)
from lora_ext.train.network.trainable_adapter import TrainableAdapter

WIDE = {"network_module": "c3lier", "conv_dim": 3}
PRODUCTS: dict[str, tuple[type, dict[str, Any]]] = {
    "lokr": (KroneckerProduct, {"algo": "lokr"}),
    "lokr of four factors": (KroneckerProduct, {"algo": "lokr", "factor": 6, "decompose_both": True}),
    "lokr merged": (KroneckerMerged, {"algo": "lokr"}),
    "loha": (HadamardColumns, {"algo": "loha"}),
    "loha merged": (HadamardMerged, {"algo": "loha"}),
    "dora": (DoraProduct, {"dora_wd": True}),
    "dora with a core": (DoraProduct, {"dora_wd": True, "use_tucker": True}),
}
SCRATCH = ScratchMemory()
LAYERS = {
    "linear": lambda: (nn.Linear(24, 36), (2, 5, 24)),
    "no bias": lambda: (nn.Linear(36, 24, bias=False), (7, 36)),
    "1x1": lambda: (nn.Conv2d(12, 24, 1), (2, 12, 4, 3)),
    "3x3": lambda: (nn.Conv2d(24, 12, 3, stride=2, padding=1), (2, 24, 5, 6)),
    "channels last": lambda: (nn.Conv2d(12, 24, 1).to(memory_format=torch.channels_last), (2, 12, 4, 3)),
}


def trained_part(layer: nn.Module, settings: dict[str, Any]) -> TrainableAdapter:
    """With tensors as after some training."""
    recipe = recipe_from_settings({"network_dim": 3, "network_alpha": 2.0, **WIDE, **settings})
    weight, where = layer._parameters["weight"], LayerId("unet", "MID", "layer")
    assert weight is not None
    generator = torch.Generator().manual_seed(1)
    new = new_tensors(NewLayer(where, weight, False, RankAndAlpha(3, 2.0), recipe, generator))
    made = TrainableAdapter(new, 2.0, lambda: weight).train()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return made


@pytest.mark.parametrize("factor", [1.0, -0.5])
@pytest.mark.parametrize("where", LAYERS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_product_is_that_of_the_sum(name: str, where: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[where]()
    layer.requires_grad_(False)
    kind, settings = PRODUCTS[name]
    made, used = trained_part(layer, settings), []
    made.step_weight = factor

    def chosen(adapter: Any, call: Any, x: Tensor, norms: Any) -> Any:
        found = layer_product(adapter, call, x, norms)
        used.append(kind(call) if isinstance(found, HadamardColumns | HadamardMerged | KroneckerProduct) else found)
        return used[-1]

    monkeypatch.setattr("lora_ext.train.network.trainable_adapter.layer_product", chosen)
    monkeypatch.setattr("lora_ext.train.network.products_of_kinds._BLOCK", 100)  # several blocks of rows
    x = torch.randn(shape)
    if where == "channels last":
        x = x.to(memory_format=torch.channels_last)
    handles = [
        layer.register_forward_pre_hook(made.before_forward),
        layer.register_forward_hook(made.after_forward, always_call=True),
    ]
    seen_x = x.clone().requires_grad_()
    y = layer(seen_x)
    weighting = torch.randn(y.shape)
    seen = torch.autograd.grad((y * weighting).sum(), [seen_x, *made.trained_tensors()])
    unseen = torch.autograd.grad((layer(x) * weighting).sum(), made.trained_tensors())  # where x needs no gradient
    for handle in handles:
        handle.remove()
    whole = layer.weight + made.delta()
    wanted_x = x.clone().requires_grad_()
    if isinstance(layer, nn.Conv2d):
        wanted = F.conv2d(wanted_x, whole, layer.bias, layer.stride, layer.padding)
    else:
        wanted = F.linear(wanted_x, whole, layer.bias)
    grads = torch.autograd.grad((wanted * weighting).sum(), [wanted_x, *made.trained_tensors()])
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    for got, again, right in zip(seen, (seen[0], *unseen), grads, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))
        torch.testing.assert_close(again, right, rtol=1e-4, atol=1e-5 * float(right.abs().max()))
    by_product = "LayerProductFunction" in type(y.grad_fn).__name__
    assert by_product == isinstance(used[0], kind) and (by_product or (kind is DoraProduct and factor != 1))
    assert not {"weight", "bias"} & layer.__dict__.keys()


def test_how_a_loha_is_computed_is_chosen_by_its_inputs() -> None:
    layer = nn.Linear(32, 32).requires_grad_(False)
    call = LayerCall(layer.weight, None, None, 1.0, SCRATCH)
    adapter = trained_part(layer, {"algo": "loha"}).to_adapter()
    chosen = [layer_product(adapter, call, torch.zeros(count, 32), lambda: torch.zeros(0)) for count in (1, 4096)]
    assert [type(product) for product in chosen] == [HadamardColumns, HadamardMerged]


def test_dora_in_half_precision_keeps_small_changes() -> None:
    """Norms are float32, and a gain of 1.003, which bfloat16 rounds to 1, changes the output."""
    layer = nn.Linear(64, 8, bias=False).to(torch.bfloat16).requires_grad_(False)
    made = trained_part(layer, {"dora_wd": True})
    with torch.no_grad():
        up = made.up_parameters()[0]
        up.zero_()
        made.get_parameter("dora_scale").copy_(1.003 * torch.linalg.vector_norm(layer.weight.float(), dim=1)[:, None])
    plain = layer(torch.eye(64).bfloat16())  # torch 2.1 makes no identity in bfloat16
    layer.register_forward_pre_hook(made.before_forward)
    layer.register_forward_hook(made.after_forward, always_call=True)
    x = torch.eye(64).bfloat16().requires_grad_()
    y = layer(x)
    assert y.dtype == torch.bfloat16 and not torch.equal(y, plain)
    y.sum().backward()
    assert x.grad is not None and all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())


def test_rows_of_zeros_take_the_general_way() -> None:
    """DoRA's gradient of a magnitude divides by it."""
    layer = nn.Linear(6, 4, bias=False).requires_grad_(False)
    layer.weight[1] = 0
    made = trained_part(layer, {"dora_wd": True})
    with torch.no_grad():
        made.get_parameter("dora_scale")[1] = 0
    layer.register_forward_pre_hook(made.before_forward)
    layer.register_forward_hook(made.after_forward, always_call=True)
    y = layer(torch.randn(3, 6))
    assert not isinstance(y.grad_fn, LayerProductFunction._backward_cls)  # type: ignore[attr-defined]
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_scratch_memory_is_shared_and_given_back() -> None:
    scratch = ScratchMemory()
    large = scratch.take("a", torch.empty(4, 6))
    assert scratch.take("a", torch.empty(3)).data_ptr() == large.data_ptr() != scratch.take("b", large).data_ptr()
    assert scratch.take("a", torch.empty(9, 9)).data_ptr() != large.data_ptr()
    scratch.release()
    assert not scratch._held

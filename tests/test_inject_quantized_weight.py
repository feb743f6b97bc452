"""Layers with NF4 and GGUF weights: adapters act live as on the dequantised weight, and nothing of the layer changes.

The packed parameters are stand-ins; where bitsandbytes is installed its own run too.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from makers import make
from reference import reference
from torch import Tensor, nn
from torch.nn import functional as F

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import adapter_from_tensors
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.file import LoraFile
from lora_ext.inject import AUTO, find_layer_targets, weight_shape
from lora_ext.layer_names import UNET, find_layer_id

NAME = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
SITE = find_layer_id(UNET, NAME)
SHAPE = (32, 64)


class PackedLinear(nn.Module):
    """A layer that has no `in_features`, as the 4-bit and GGUF layers of Forge; `values` is its dequantised weight."""

    def __init__(self, weight: nn.Parameter, values: Tensor) -> None:
        super().__init__()
        self.weight, self.values = weight, values
        self.bias = nn.Parameter(torch.linspace(-1, 1, values.shape[0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.values.to(x.dtype), self.bias)


class Blocks:
    """A GGUF type: bytes in −127..127 and one scale, which have to be rearranged (here: negated) before use."""

    @staticmethod
    def bake(parameter: Any) -> None:
        assert not parameter.baked
        parameter.data, parameter.baked = -parameter.data, True

    @staticmethod
    def dequantize_pytorch(parameter: Any) -> Tensor:
        assert parameter.baked, "not baked yet"
        return (-parameter.data.float() * 0.01).view(parameter.real_shape)


def _codes() -> Tensor:
    return torch.randint(-100, 100, SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.int8)


def _gguf() -> PackedLinear:
    codes = _codes()
    weight = nn.Parameter(codes.flatten(), requires_grad=False)
    weight.real_shape, weight.gguf_cls, weight.baked = torch.Size(SHAPE), Blocks, False  # type: ignore[attr-defined]
    return PackedLinear(weight, codes.float() * 0.01)


def _nf4(monkeypatch: pytest.MonkeyPatch) -> PackedLinear:
    functional, codes = ModuleType("bitsandbytes.functional"), _codes()
    weight = nn.Parameter(codes.reshape(-1, 1), requires_grad=False)
    weight.quant_state = SimpleNamespace(shape=torch.Size(SHAPE), scale=0.01)  # type: ignore[attr-defined]

    def dequantize_4bit(data: Tensor, quant_state: Any) -> Tensor:
        return (data.float() * quant_state.scale).view(quant_state.shape)

    functional.dequantize_4bit = dequantize_4bit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)
    return PackedLinear(weight, codes.float() * 0.01)


def _bitsandbytes(quant_type: str) -> PackedLinear:
    library = pytest.importorskip("bitsandbytes")
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    weight = library.nn.Params4bit(values, requires_grad=False, quant_type=quant_type).to("cpu")
    assert weight.quant_state is not None, "quantised"
    return PackedLinear(weight, library.functional.dequantize_4bit(weight.data, weight.quant_state))


@pytest.fixture(params=["gguf", "nf4", "bitsandbytes nf4", "bitsandbytes fp4"])
def layer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> PackedLinear:
    if request.param.startswith("bitsandbytes"):
        return _bitsandbytes(request.param.split()[1])
    return _gguf() if request.param == "gguf" else _nf4(monkeypatch)


@pytest.mark.parametrize(
    "kind", ["lora", "loha", "lokr", "lora-dora-in", "lora-dora-out", "glora", "oft-lycoris", "full"]
)
def test_adapters_act_as_on_the_dequantised_weight(layer: PackedLinear, kind: str) -> None:
    root = nn.Module()
    root.add_module("input_blocks", nn.ModuleList())
    place = root
    *path, last = NAME.split(".")
    for step in path:
        if step not in place._modules:
            place.add_module(step, nn.Module())
        place = place.get_submodule(step)
    place.add_module(last, layer)
    model = SimpleNamespace(parts=lambda: {UNET: root})
    assert SITE is not None and find_layer_targets(UNET, root)[SITE].shape == SHAPE
    adapter = adapter_from_tensors(make(kind, SHAPE))
    assert adapter is not None
    file, x = LoraFile({SITE: adapter}), torch.randn(3, SHAPE[1], generator=torch.Generator().manual_seed(1))
    before, parameter = layer(x), layer.weight
    with AppliedNetworks(model, AUTO) as applied:
        (fit,) = applied.apply([AdapterSpec(file, unet=0.7)])
        assert fit.matched == 1
        values = layer.values.double().numpy()
        wanted = values + 0.7 * (reference(kind, make(kind, SHAPE), values) - values)
        shift = adapter.bias_delta()
        asked = x.double().numpy() @ wanted.T + layer.bias.double().numpy()
        asked = asked if shift is None else asked + 0.7 * shift.flatten().double().numpy()
        assert np.allclose(layer(x).detach().numpy(), asked, atol=1e-4)
    assert torch.equal(layer(x), before) and layer.weight is parameter and not layer._forward_hooks


def test_other_tensors_have_no_packed_shape() -> None:
    """An embedding of GGUF blocks is no matrix of a layer, and a module without a weight has no shape."""
    weight = nn.Parameter(torch.zeros(4))
    weight.real_shape = torch.Size((4,))  # type: ignore[attr-defined]
    assert weight_shape(SimpleNamespace(weight=weight)) is None  # type: ignore[arg-type]
    assert weight_shape(nn.Embedding(4, 4)) is None and weight_shape(nn.ReLU()) is None
    weight = nn.Parameter(torch.zeros(SHAPE))
    weight.bnb_quantized = False  # type: ignore[attr-defined]
    assert weight_shape(SimpleNamespace(weight=weight)) == SHAPE  # type: ignore[arg-type]

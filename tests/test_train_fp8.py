"""The frozen model in 8 bits: its layers compute with the rounded weights, and the weights come back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_autograd import LAYERS, made
from test_train_run import losses, one_thread  # noqa: F401
from tiny_trainable_model import pictures, recipe, tiny_model

from lora_ext.errors import TrainError
from lora_ext.host.standalone.trainable_model import StandaloneTrainableModel
from lora_ext.protocols import TrainingModelOptions
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.stored_weights import FP8, weights_in_fp8
from lora_ext.training.standalone_run import train


def bytes_of(model: Any) -> int:
    return sum(p.numel() * p.element_size() for part in model.parts().values() for p in part.parameters())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_with_its_rounded_weight(name: str, trained: bool) -> None:
    """Output, and gradients of the input and of a LoRA on it: those of the same layer with the rounded weight."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    network = torch.nn.Sequential(torch.nn.Identity(), build(), build()).requires_grad_(False)
    first, layer = network[1], network[2]
    with torch.no_grad():
        layer.weight.mul_(3).view(-1)[0] = 1000.0
    original, results = layer.weight.clone(), []
    with weights_in_fp8([network]):
        assert layer.weight.dtype == FP8 and first.weight.dtype == torch.float32
        rounded = layer.weight.float()
        assert rounded.view(-1)[0] == 448 and (rounded - original).abs().flatten()[1:].max() < 0.07 * 3
        x = torch.randn(shape).requires_grad_()
        factors = made(build().requires_grad_(False))
        if trained:
            layer.register_forward_pre_hook(factors.before_forward)
            layer.register_forward_hook(factors.after_forward)
        y = layer(x)
        y.square().sum().backward()
        results = [y.detach(), x.grad, *([factors.downs[0].grad, factors.ups[0].grad] if trained else [])]
    assert torch.equal(layer.weight, original) and "forward" not in layer.__dict__
    factors.zero_grad(set_to_none=True)
    weight = {"weight": rounded + factors.delta() if trained else rounded}
    plain = build().requires_grad_(False)
    x = x.detach().requires_grad_()
    y = torch.func.functional_call(plain, {**weight, **({"bias": layer.bias} if layer.bias is not None else {})}, (x,))
    y.square().sum().backward()
    wanted = [y.detach(), x.grad, *([factors.downs[0].grad, factors.ups[0].grad] if trained else [])]
    for got, right in zip(results, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=2e-3)


def test_the_weights_take_half_of_the_memory_and_come_back() -> None:
    host = tiny_model()
    before = [(p.data_ptr(), p.dtype, p.clone()) for part in host.parts().values() for p in part.parameters()]
    sizes = []
    for small in (False, True):
        with host.prepared_for_training(TrainingModelOptions("bf16", fp8_unet=small, fp8_text_encoders=small)):
            sizes.append(bytes_of(host))
    after = [(p.data_ptr(), p.dtype, p) for part in host.parts().values() for p in part.parameters()]
    assert 0.5 * sizes[0] < sizes[1] < 0.6 * sizes[0]
    for (place, dtype, values), (old_place, old_dtype, old) in zip(after, before, strict=True):
        assert (place, dtype) == (old_place, old_dtype) and torch.equal(values, old)
    host.model.unet.to(torch.bfloat16)
    given_up = StandaloneTrainableModel(host.model, is_disposable=True)
    with given_up.prepared_for_training(TrainingModelOptions("bf16", fp8_unet=True)):
        pass
    assert {p.dtype for p in host.model.unet.parameters()} == {torch.bfloat16, FP8}


@pytest.mark.long
@pytest.mark.parametrize("more", [{"gradient_checkpointing": True}, {"algo": "lokr", "dora_wd": True}])
def test_the_loss_is_nearly_that_of_the_model_in_16_bits(more: dict[str, Any], tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    both = {"mixed_precision": "bf16", "max_train_epochs": 1, "learning_rate": 1e-3, **more}
    for name, small in (("wide", {}), ("small", {"fp8_base": True})):
        train(recipe(data, tmp_path / name, **both, **small), model=tiny_model())
    for (_, _, a), (_, _, b) in zip(losses(tmp_path / "wide"), losses(tmp_path / "small"), strict=True):
        assert a != b and float(b) == pytest.approx(float(a), rel=5e-2)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "only stores the model in 8 bits; set mixed_precision bf16 or fp16"),
        ({"mixed_precision": "bf16", "torch_compile": True}, "torch_compile cannot be used with fp8_base"),
        ({"mixed_precision": "bf16", "base_weights": ["a.safetensors"]}, "merge them into the model"),
    ],
)
def test_what_it_excludes(more: dict[str, Any], told: str) -> None:
    with pytest.raises(TrainError, match=told):
        recipe_from_settings({"fp8_base": True, **more})

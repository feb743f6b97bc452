"""The network beside PEFT on the same layers with the same factors: same outputs, same gradients."""

from __future__ import annotations

import pytest
import torch
from tiny import Tiny

from lora_ext.train.config.recipe import Recipe
from lora_ext.train.network.trainable_network import TrainableNetwork

peft = pytest.importorskip("peft")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "samplers.0.conv")


@pytest.mark.parametrize("wide", [False, True], ids=["lierla", "c3lier"])
def test_outputs_and_gradients_are_pefts(wide: bool) -> None:
    ours, theirs = Tiny(), Tiny()
    ours.unet.requires_grad_(False)
    recipe = Recipe(
        network_module="c3lier" if wide else "lierla", network_dim=4, network_alpha=2.0, network_train_unet_only=True
    )
    network = TrainableNetwork(ours.parts(), recipe, generator=torch.Generator().manual_seed(0))
    names = dict(ours.unet.named_modules())
    by_name = {
        name: factors
        for layer_id, factors in network.factors_by_layer.items()
        for name, module in names.items()
        if module is network.targets_by_layer[layer_id].module
    }
    assert any(name.endswith(CONVOLUTIONS) for name in by_name) == wide
    config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=list(by_name))
    peft.inject_adapter_in_model(config, theirs.unet)
    wrapped = dict(theirs.unet.named_modules())
    with torch.no_grad():
        for name, factors in by_name.items():
            factors.up.normal_(std=0.1)
            wrapped[name].lora_A["default"].weight.copy_(factors.down)
            up = wrapped[name].lora_B["default"].weight
            up.copy_(factors.up.t().reshape(up.shape))
    image, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    with network:
        mine = ours.unet(image, 7, text).sample
        mine.square().sum().backward()
    other = theirs.unet(image, 7, text).sample
    other.square().sum().backward()
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    for name, factors in by_name.items():
        down, up = (wrapped[name].get_submodule(f"lora_{side}.default").weight.grad for side in "AB")
        for got, wanted in ((factors.downs[0].grad, down), (factors.ups[0].grad, up.flatten(1).t())):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()) + 1e-6)

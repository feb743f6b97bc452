"""The network beside PEFT on the same layers with the same factors: same outputs, same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import Tiny
from torch import nn

from lora_ext.layer_names import LayerId
from lora_ext.train.config.block_settings import ModuleRanks
from lora_ext.train.config.recipe import Recipe
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.new_adapters import NewLayer, new_tensors
from lora_ext.train.network.trainable_adapter import TrainableAdapter
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


LAYERS = {
    "linear": (lambda: nn.Linear(12, 16, bias=False), (3, 12)),
    "narrow": (lambda: nn.Conv2d(12, 16, 1, bias=False), (2, 12, 4, 4)),
    "wide": (lambda: nn.Conv2d(6, 16, 3, padding=1, bias=False), (2, 6, 4, 4)),
}
DORA = {
    "dora_scale": "lora_magnitude_vector.weight",
    "lora_down.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
}
KINDS: dict[str, tuple[dict[str, Any], Any, dict[str, str]]] = {
    "dora": ({"dora_wd": True}, lambda: peft.LoraConfig(r=4, lora_alpha=2, use_dora=True), DORA),
    "rs_lora": (
        {"dora_wd": True, "rs_lora": True},
        lambda: peft.LoraConfig(r=4, lora_alpha=2, use_dora=True, use_rslora=True), DORA,
    ),
    "loha": ({"algo": "loha"}, lambda: peft.LoHaConfig(r=4, alpha=2), {}),
    "lokr": ({"algo": "lokr", "network_dim": 1}, lambda: peft.LoKrConfig(r=1, alpha=2), {}),
    "lokr both": (
        {"algo": "lokr", "network_dim": 1, "decompose_both": True, "factor": 2},
        lambda: peft.LoKrConfig(r=1, alpha=2, decompose_both=True, decompose_factor=2), {},
    ),
    "ia3": ({"algo": "ia3"}, lambda: peft.IA3Config(feedforward_modules=[]), {"weight": "ia3_l"}),
}  # fmt: skip
"""Kind → our settings (rank 4, alpha 2), PEFT's, and its names of the trained tensors where they are others.

PEFT's OFT and BOFT turn a layer's inputs; those of kohya and LyCORIS, which are trained here, its outputs. Its LoHa
with a Tucker core (0.21) takes the other half's product for the gradient of either `a`; LyCORIS' is recorded instead.
"""


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_pefts(kind: str, name: str) -> None:
    """Outputs and gradients. PEFT takes DoRA's norms as constants in the backward pass, LyCORIS and we do not."""
    given, config, names = KINDS[kind]
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    plain, model = make().requires_grad_(False), nn.ModuleDict({"layer": make()})
    model["layer"].load_state_dict(plain.state_dict())
    settings = config()
    settings.target_modules = ["layer"]
    peft.inject_adapter_in_model(settings, model)
    recipe = recipe_from_settings(
        {"network_module": "c3lier", "network_dim": 4, "network_alpha": 2.0, "network_targets": "all", **given}
    )
    where = LayerId("unet", "MID", "resnets.0.conv1")
    size = ModuleRanks(recipe).for_layer(where, tuple(plain.weight.shape))
    made = TrainableAdapter(
        new_tensors(NewLayer(where, plain.weight, False, size, recipe, None)), size.alpha, lambda: plain.weight
    )
    plain.register_forward_pre_hook(made.before_forward)
    plain.register_forward_hook(made.after_forward, always_call=True)
    theirs = {key.replace(".default", ""): p for key, p in model["layer"].named_parameters() if p.requires_grad}
    pairs = {key: (p, theirs[names.get(key, key)]) for key, p in zip(made.names, made.trained_tensors(), strict=True)}
    assert len(pairs) == len(theirs)
    with torch.no_grad():
        for key, (mine, other) in pairs.items():
            value = torch.randn(mine.shape) * 0.3 + (mine if key == "dora_scale" else 0)
            mine.copy_(value)
            other.copy_(value.reshape(other.shape) + (1 if kind == "ia3" else 0))
    results = []
    for layer in (plain, model["layer"]):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        results.append((y, x.grad))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    for key, (mine, other) in pairs.items():
        if key == "dora_scale" or "dora_scale" not in pairs:
            torch.testing.assert_close(mine.grad.view(other.shape), other.grad, rtol=1e-3, atol=1e-3, msg=key)

"""Ten steps of our network beside those of kohya's networks, recorded by `record_kohya_steps.py`."""

from __future__ import annotations

import json

import pytest
import torch
from record_kohya_steps import CASES, LAYERS, PATH, RATES, ROWS, STEPS, count_by_rate, first_factors, loss_of_step
from safetensors import safe_open
from tiny import Tiny

from lora_ext.train.config.optimizers import clip_gradients
from lora_ext.train.config.recipe_io import recipe_from_settings
from lora_ext.train.network.trainable_factors import TrainableFactors
from lora_ext.train.network.trainable_network import TrainableNetwork

with safe_open(PATH, "pt") as stored:
    RECORDED_RATES = json.loads(stored.metadata()["rates"])
    DELTAS = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_are_kohyas(case: str) -> None:
    """As many numbers at each learning rate, and the same ΔW of each layer after ten steps."""
    name, rank, alpha, args = CASES[case]
    model = Tiny()
    for part in model.parts().values():
        part.requires_grad_(False)
    given = {"network_module": f"networks.{name}", "network_dim": rank, "network_alpha": alpha, **RATES}
    more = {"dylora_variant": "kohya"} if name == "dylora" else {}
    recipe = recipe_from_settings({**given, **more, "network_args": [f"{key}={value}" for key, value in args.items()]})
    network = TrainableNetwork(model.parts(), recipe)
    for layer_id, made in network.factors_by_layer.items():
        if isinstance(made, TrainableFactors):
            shape = (*network.targets_by_layer[layer_id].shape, 1)
            down, up = first_factors(network.layer_key(layer_id), made.rank, shape[1], shape[0], shape[2])
            with torch.no_grad():
                made.down.copy_(down.view(made.down.shape))
                made.up.copy_(up)
    groups = [group for group in network.parameter_groups() if group["lr"]]
    assert count_by_rate(groups) == RECORDED_RATES[case]
    optimizer = torch.optim.AdamW(groups)
    with network:
        for step in range(STEPS):
            network.begin_step(torch.Generator().manual_seed(step))
            loss_of_step(model, step).backward()
            clip_gradients(list(network.parameters()), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    network.eval()
    deltas = {network.layer_key(layer_id): made for layer_id, made in network.factors_by_layer.items()}
    wanted = {key: DELTAS[f"{case}.{key}"] for key in LAYERS if f"{case}.{key}" in DELTAS}
    assert wanted.keys() == deltas.keys() & set(LAYERS)
    for key, delta in wanted.items():
        got = deltas[key].delta().detach()[:ROWS].reshape(delta.shape)
        torch.testing.assert_close(got, delta, rtol=0, atol=1e-5, msg=key)

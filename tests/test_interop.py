"""Files of real writers (tests/data/interop, made by record_interop.py) act as in the program that wrote them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from record_interop import FOLDER, MULTIPLIERS, layer_inputs, layer_outputs, small_model
from safetensors import safe_open
from safetensors.torch import load_file

import lora_ext
from lora_ext.file.loading import load_lora_file

EXPECTED = load_file(FOLDER / "expected.safetensors")
with safe_open(FOLDER / "expected.safetensors", "pt") as stored:
    CASES = json.loads(stored.metadata()["cases"])
OTHER_RULE = {
    "LyCORIS dora", "LyCORIS dora-inputs", "LyCORIS loha-dora", "LyCORIS lokr-dora", "LyCORIS diag-oft-rescaled",
    "LyCORIS boft", "LyCORIS boft-rescaled", "PEFT dora", "PEFT oft", "diffusers dora",
}  # fmt: skip
"""Cases whose writers scale by another rule than W + m·(W′ − W), which is ours for all (docs/MULTIPLIERS.md)."""


@pytest.fixture(scope="module")
def model() -> SimpleNamespace:
    """The writers' model; its weights are those that were recorded, whatever today's versions would draw."""
    parts = small_model()
    for part, root in parts.items():
        own = root.state_dict()
        recorded = {
            key.removeprefix(f"{part}."): tensor for key, tensor in EXPECTED.items() if key.startswith(f"{part}.")
        }
        assert recorded.keys() <= own.keys()
        root.load_state_dict(recorded, strict=False)
    return SimpleNamespace(unet=parts["unet"], text_encoder=parts["te"])


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_it_acts_as_in_the_program_that_wrote_it(case: str, model: SimpleNamespace) -> None:
    layers, parts = CASES[case]["layers"], {"unet": model.unet, "te": model.text_encoder}
    file, inputs = load_lora_file(FOLDER / CASES[case]["file"]), layer_inputs(parts, layers)
    assert len(file.adapters) == len(layers) and not file.unrecognized and not file.damaged
    before, same_rule = layer_outputs(parts, layers, inputs), True
    for multiplier, theirs in zip(MULTIPLIERS, EXPECTED[case], strict=True):
        ours = before + multiplier * (EXPECTED[case][MULTIPLIERS.index(1.0)] - before)
        same_rule = same_rule and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        for mode in ("live", "baked"):
            with lora_ext.apply(model, {file: multiplier}, mode=mode):
                torch.testing.assert_close(layer_outputs(parts, layers, inputs), ours, rtol=1e-4, atol=1e-5)
    assert same_rule == (case not in OTHER_RULE)
    assert torch.equal(layer_outputs(parts, layers, inputs), before)

"""SD1.5's real size: every layer of the map is found, and a rank-32 C3Lier file goes on in both modes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from lora_ext.adapter_spec import AdapterSpec
from lora_ext.adapters import Lora
from lora_ext.applied_networks import AppliedNetworks
from lora_ext.file.lora_file import LoraFile
from lora_ext.inject import find_layer_targets
from lora_ext.layer_keys import format_kohya_key
from lora_ext.layer_names import TE, UNET

MAP = json.loads((Path(__file__).parent / "data" / "sd15_module_map.json").read_text(encoding="utf-8"))


class Sd15:
    """SD1.5's U-Net with 860 million equal weights, fp16: its values do not matter here, its size does."""

    def __init__(self) -> None:
        with torch.device("meta"):
            unet = UNet2DConditionModel(
                cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
            )
        self.unet = unet.to_empty(device="cpu").half().eval()
        with torch.no_grad():
            for parameter in self.unet.parameters():
                parameter.fill_(0.01)

    def parts(self) -> dict[str, torch.nn.Module]:
        return {UNET: self.unet}


@pytest.mark.long
def test_a_rank_32_c3lier_file_goes_on_in_both_modes() -> None:
    model = Sd15()
    found = find_layer_targets(UNET, model.unet)
    rows = {format_kohya_key(layer_id): target for layer_id, target in found.items()}
    unet_rows = {key: row for key, row in MAP.items() if not key.startswith("lora_te")}
    assert unet_rows.keys() <= rows.keys()
    assert all(list(rows[key].shape) == row["shape"] for key, row in unet_rows.items())
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for layer_id, target in found.items():
        if format_kohya_key(layer_id) in unet_rows:
            factors = {
                "lora_up.weight": torch.randn(target.shape[0], 32, generator=generator).half(),
                "lora_down.weight": torch.randn(32, *target.shape[1:], generator=generator).half(),
            }
            adapters[layer_id] = Lora({**factors, "alpha": torch.tensor(16.0)})
    before = dict(model.unet.named_parameters())
    probe = [layer_id for layer_id in adapters if layer_id.block in ("IN01", "OUT05")]
    for mode in ("live", "baked"):
        with AppliedNetworks(model, mode) as applied:
            (fit,) = applied.apply([AdapterSpec(LoraFile(adapters), unet=0.5)])
            assert (fit.matched, applied.changed) == (len(unet_rows), len(unet_rows)) and fit.ok
            if mode == "baked":
                for layer_id in probe:
                    weight = found[layer_id].module.weight
                    expected = (
                        torch.full(found[layer_id].shape, 0.01).half().float() + 0.5 * adapters[layer_id].delta(weight)
                    ).half()
                    assert torch.equal(weight, expected)  # type: ignore[arg-type]
            else:
                assert all(found[layer_id].module._forward_hooks for layer_id in probe)
    assert all(parameter is before[name] for name, parameter in model.unet.named_parameters())


@pytest.mark.parametrize("part", [TE])
def test_the_text_encoder_of_the_map(part: str) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    shapes = {
        format_kohya_key(layer_id): list(target.shape) for layer_id, target in find_layer_targets(part, text).items()
    }
    rows = {key: row["shape"] for key, row in MAP.items() if key.startswith("lora_te_")}
    assert rows.items() <= shapes.items()

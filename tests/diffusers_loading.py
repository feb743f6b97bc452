"""Loads LoRA files with diffusers' own loader and reads what each layer of the model gets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from makers import make
from tiny import text_encoder
from torch import Tensor, nn

from lora_ext.adapters import adapter_from_tensors
from lora_ext.file.lora_file import LoraFile
from lora_ext.layer_names import LayerId, find_layer_id


def small_unet() -> UNet2DConditionModel:
    """One level with attention down and up, 16 wide."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


def linear_layers(parts: Mapping[str, nn.Module]) -> dict[LayerId, torch.Size]:
    """The Linear layers of transformer blocks, and of text encoders: their ids and the shapes of their weights."""
    return {
        layer_id: module.weight.shape
        for part, root in parts.items()
        for name, module in root.named_modules()
        if isinstance(module, nn.Linear) and (layer_id := find_layer_id(part, name)) and "time_emb" not in name
    }


def file_with_ranks(layers: Mapping[LayerId, torch.Size], ranks: list[int], alpha: float, seed: int) -> LoraFile:
    """A LoRA whose layers have these ranks in turn, each with the same alpha / rank."""
    rng = np.random.default_rng(seed)
    adapters = {}
    for i, (layer_id, shape) in enumerate(layers.items()):
        rank = ranks[i % len(ranks)]
        tensors = make("lora", tuple(shape), rank, rng=rng) | {"alpha": torch.tensor(alpha * rank)}
        adapter = adapter_from_tensors(tensors)
        assert adapter is not None
        adapters[layer_id] = adapter
    return LoraFile(adapters, {"ss_v2": "False"})


def loaded_by_diffusers(path: Path) -> dict[LayerId, Tensor]:
    """ΔW of each layer that `load_lora_weights` changes, as PEFT computes it."""
    unet, encoder = small_unet(), text_encoder()
    # diffusers 0.30 has no None for the VAE and the scheduler
    parts = (AutoencoderKL(), encoder, None, unet, DDIMScheduler(), None, None)
    pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="a")
    found = {}
    for part, root in {"unet": unet, "te": encoder}.items():
        for name, module in root.named_modules():
            if hasattr(module, "get_delta_weight") and "a" in module.scaling:
                layer_id = find_layer_id(part, name)
                assert layer_id is not None
                found[layer_id] = module.get_delta_weight("a").detach()
    return found

"""Small SD-shaped models made in the process: a U-Net with SD1's topology, and CLIP text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from makers import make
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_ext.adapters import adapter_from_tensors
from lora_ext.file.lora_file import LoraFile
from lora_ext.inject import find_layer_targets
from lora_ext.inject.live_layer import LIVE_LAYERS
from lora_ext.layer_names import LayerId


def unet(**sizes: Any) -> UNet2DConditionModel:
    """SD1's topology, 32 wide, random weights; `sizes` are diffusers' own arguments."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        **{"block_out_channels": (32, 32, 32, 32), **sizes},
        cross_attention_dim=16,
        attention_head_dim=4,
        sample_size=8,
        norm_num_groups=8,
    ).eval()


def text_encoder(seed: int = 1) -> CLIPTextModel:
    """Two layers of CLIP, 16 wide."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return CLIPTextModel(config).eval()


class Tiny:
    """A `protocols.HookableModel` that is also pipeline-like: `unet`, `text_encoder`."""

    def __init__(self) -> None:
        self.unet, self.text_encoder = unet(), text_encoder()

    def parts(self) -> Mapping[str, nn.Module]:
        return {"unet": self.unet, "te": self.text_encoder}

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Text encoder's and U-Net's output for fixed inputs."""
        torch.manual_seed(2)
        ids = torch.arange(7)[None]
        with torch.no_grad():
            text = self.text_encoder(ids).last_hidden_state
            return text, self.unet(torch.randn(1, 4, 8, 8), 3, text).sample


def check_nothing_left(model: Tiny) -> Iterator[None]:
    """Afterwards the model has its own parameters, draws as before, and no layer or hook of ours is left.

    For an autouse fixture: `yield from check_nothing_left(model)`.
    """
    before = {name: p for part in model.parts().values() for name, p in part.named_parameters()}
    plain = model.draw()
    yield
    after = {name: p for part in model.parts().values() for name, p in part.named_parameters()}
    assert all(after[name] is p for name, p in before.items()) and len(LIVE_LAYERS) == 0
    assert all(map(torch.equal, model.draw(), plain))
    assert not any(m._load_state_dict_pre_hooks for part in model.parts().values() for m in part.modules())


def lora_file(
    model: Tiny, kind: str = "lora", *, wide: bool = False, seed: int = 0, name: str = "a", std: float = 1.0
) -> LoraFile:
    """A file with one adapter of `kind` at every Linear and 1x1 Conv2d (3x3 too when wide)."""
    rng = np.random.default_rng(seed)
    adapters = {}
    for part, root in model.parts().items():
        for layer_id, target in find_layer_targets(part, root).items():
            plain = len(target.shape) == 2 or target.shape[2:] == (1, 1)
            if plain or (wide and len(target.shape) == 4):
                tensors = make(kind, target.shape, rng=rng)
                tensors = {k: t * std if t.is_floating_point() and k != "alpha" else t for k, t in tensors.items()}
                adapters[layer_id] = adapter_from_tensors(tensors)
    return LoraFile(adapters=adapters, path=SimpleNamespace(stem=name))  # type: ignore[arg-type]


def layer_ids_in(file: LoraFile, block: str) -> list[LayerId]:
    """The file's layer ids in one block."""
    return [layer_id for layer_id in file.adapters if layer_id.block == block]

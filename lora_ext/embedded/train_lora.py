"""Training the sample LoRAs and writing them with kohya's names and metadata."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers.models.clip.modeling_clip import CLIPMLP, CLIPAttention

from .sampling import Networks
from .shapes import Scene, random_scene
from .train_unet import SHORT_TOKENS, Examples, NoiseLoss, make_examples
from .train_vae import learning_rate

BATCH = 12
LINEAR_BLOCKS = (Transformer2DModel, CLIPAttention, CLIPMLP)
CONVOLUTION_BLOCKS = (ResnetBlock2D, Downsample2D, Upsample2D)


@dataclass(frozen=True)
class Recipe:
    """What one sample LoRA changes and how large it is."""

    name: str
    comment: str
    rank: int
    convolutions: bool  # C3Lier: also the blocks' 3x3 convolutions, time projections and shortcuts
    style: str


RECIPES = (
    Recipe("framed", "LierLa: puts a frame around every picture", 8, False, style="framed"),
    Recipe("striped", "C3Lier: draws every shape with diagonal stripes", 4, True, style="striped"),
)


class Adapter(nn.Module):
    """The low-rank addition to one layer: down to `rank` channels, up again, times alpha / rank = 1."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            self.down: Any = nn.Conv2d(layer.in_channels, rank, 1, bias=False)
            if layer.kernel_size == (3, 3):
                self.down = nn.Conv2d(layer.in_channels, rank, 3, int(layer.stride[0]), 1, bias=False)
            self.up: Any = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)
        self.strength = 1.0
        # The layer's own parameters stay as they are: only its output is added to.
        self.handle = layer.register_forward_hook(lambda _, inputs, output: output + self(inputs[0]))

    def forward(self, x: Tensor) -> Tensor:
        """The addition to the layer's output for its input x."""
        return self.strength * self.up(self.down(x))


def target_layers(nets: Networks, convolutions: bool) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """The layers kohya's scripts train, under their names there."""
    blocks = LINEAR_BLOCKS + (CONVOLUTION_BLOCKS if convolutions else ())
    for prefix, network in (("lora_te", nets.text_encoder), ("lora_unet", nets.unet)):
        for block_name, block in network.named_modules():
            if not isinstance(block, blocks):
                continue
            for name, layer in block.named_modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    yield f"{prefix}_{block_name}_{name}".replace(".", "_"), layer


def attach(nets: Networks, recipe: Recipe) -> dict[str, Adapter]:
    """Adapters, hooked to the networks' layers, by kohya name."""
    return {name: Adapter(layer, recipe.rank) for name, layer in target_layers(nets, recipe.convolutions)}


def recipe_scenes(recipe: Recipe, count: int, seed: int) -> tuple[list[Scene], list[Scene]]:
    """The scenes a LoRA is to draw, and those it is to draw them for."""
    rng = np.random.default_rng(seed)
    named = [random_scene(rng) for _ in range(count)]
    return [replace(scene, style=recipe.style) for scene in named], named


def train_lora(nets: Networks, recipe: Recipe, out: Path, minutes: float, count: int = 2000) -> dict[str, Adapter]:
    """Train adapters on `nets` for so many minutes, write `out`/NAME.safetensors, leave them attached."""
    drawn, named = recipe_scenes(recipe, count, 11)
    examples = make_examples(nets.vae, nets.tokenizer, drawn, 12, named)
    torch.manual_seed(13)
    for network in (nets.unet, nets.text_encoder):
        network.requires_grad_(False)
    adapters = attach(nets, recipe)
    steps = fit(nets, adapters, examples, minutes, recipe.name)
    out.mkdir(parents=True, exist_ok=True)
    save_file(kohya_state(adapters), out / f"{recipe.name}.safetensors", kohya_metadata(recipe, count, steps))
    return adapters


def fit(nets: Networks, adapters: dict[str, Adapter], examples: Examples, minutes: float, name: str) -> int:
    """Train the adapters; return the number of steps."""
    parameters = [p for adapter in adapters.values() for p in adapter.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2, fused=True)
    loss_of, start, step = NoiseLoss(), time.monotonic(), 0
    bar = tqdm(total=round(60 * minutes), desc=name, unit="s", mininterval=10)
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, 2e-3)
        loss = loss_of(nets, *examples.batch(BATCH, SHORT_TOKENS if step % 4 else 77))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        bar.set_postfix(step=step, loss=f"{loss.item():.4f}", refresh=False)
        bar.update(int(60 * minutes * progress) - bar.n)
    return step


def kohya_state(adapters: dict[str, Adapter]) -> dict[str, Tensor]:
    """The adapters' tensors in half precision; alpha equals the rank, so that weight 1 adds them as trained."""
    state: dict[str, Tensor] = {}
    for name, adapter in adapters.items():
        down, up = adapter.down.weight.detach(), adapter.up.weight.detach()
        state[f"{name}.lora_down.weight"] = down.half().contiguous()
        state[f"{name}.lora_up.weight"] = up.half().contiguous()
        state[f"{name}.alpha"] = torch.tensor(float(len(down)), dtype=torch.float16)
    return state


def kohya_metadata(recipe: Recipe, pictures: int, steps: int) -> dict[str, str]:
    """What kohya's scripts would note about the training."""
    rank = str(recipe.rank)
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": "embedded-sd1.safetensors",
        "ss_output_name": recipe.name,
        "ss_training_comment": recipe.comment,
        "ss_num_train_images": str(pictures),
        "ss_steps": str(steps),
        "ss_resolution": "(64, 64)",
        "ss_v2": "False",
    }
    if recipe.convolutions:
        metadata["ss_network_args"] = json.dumps({"conv_dim": rank, "conv_alpha": rank})
    return metadata

"""The memory that a run needs by its settings, and the smallest set of settings that makes it fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import nn

from ...inject.free_memory import free_bytes
from ...protocols import VAE_SCALE_FACTOR, TrainableModel
from ..config.optimizers import find_optimizer
from ..config.recipe import Recipe
from ..config.recipe_check import recipe_problems
from ..data.buckets import PixelSize
from ..network.stored_weights import stored_layers, swappable_blocks

LIBRARY_BYTES = 0.4 * 2.0**30
"""Memory of torch and its libraries without any model."""
OPTIMIZER_BYTES_PER_PARAMETER = {
    "adamw8bit": 2, "pagedadamw8bit": 2, "lion8bit": 1, "pagedlion8bit": 1, "sgdnesterov8bit": 1, "lion": 4, "tiger": 4,
    "sgd": 0, "sgdnesterov": 4, "sgdschedulefree": 4, "adafactor": 1, "came": 5, "prodigyplusschedulefree": 5,
    "ranger": 12, "ademamix": 12, "adan": 16, "prodigy": 16, "dadaptation": 12, "dadaptadampreprint": 12,
    "dadaptadam": 12, "dadaptadagrad": 12, "dadaptsgd": 12, "dadaptadan": 20, "dadaptadanip": 20,
}  # fmt: skip
"""Bytes of an optimizer's state for each trained number in float32; 8 for the others (two float32)."""
FP8_SHARE = 0.95
"""The share of the activations that is kept beside weights in 8 bits, whose convolutions keep no input."""
FLOAT32_ACTIVATIONS = 1.6
"""Bytes of activations in float32, of those in mixed precision, in which norms keep their inputs in float32 too."""
_VAE_NUMBERS = 84e6


class PartSize(NamedTuple):
    """The size of a network: all its numbers, and those of weights that `fp8_base` stores in 8 bits."""

    numbers: int
    in_layers: int


@dataclass(frozen=True)
class RunSize:
    """What the memory of a run depends on beside its settings.

    Attributes:
        parts: "unet", "te" and "te2" → size.
        blocks: Numbers of the U-Net's blocks that can be swapped, the largest first; empty where none can.
        trained: Number of trained numbers.
        share: The U-Net's channels, relative to those of its family.
        activation_bytes: Bytes of activations for each latent pixel of such a U-Net, in mixed precision.
        largest_bucket: (width, height) in pixels.
        device: Where it is trained.
        checkpointed_share: The share of the activations that gradient checkpointing keeps.
    """

    parts: Mapping[str, PartSize]
    blocks: tuple[int, ...]
    trained: int
    share: float
    activation_bytes: float
    largest_bucket: PixelSize
    device: torch.device
    checkpointed_share: float


class MemoryNeed(NamedTuple):
    """Bytes of the model, of what is trained with its gradients and the optimizer's state, and of a batch."""

    weights: float
    training: float
    activations: float

    @property
    def total(self) -> float:
        """All bytes, with those of the libraries."""
        return sum(self) + LIBRARY_BYTES


def size_of_part(module: nn.Module) -> PartSize:
    """Counts a network."""
    return PartSize(
        sum(p.numel() for p in module.parameters()), sum(layer.weight.numel() for layer in stored_layers(module))
    )


def sizes_of_blocks(unet: nn.Module) -> tuple[int, ...]:
    """Numbers of the blocks that can be swapped, the largest first."""
    return tuple(sum(p.numel() for p in block.parameters()) for block in swappable_blocks(unet))


def memory_need(recipe: Recipe, size: RunSize) -> MemoryNeed:
    """Estimates the memory of a run.

    Args:
        recipe: The settings.
        size: Of the model, the network and the pictures.

    Returns:
        The estimate.
    """
    half = recipe.mixed_precision != "no"
    width = 2 if half else 4
    weights = _VAE_NUMBERS * width * min(size.share, 1)
    for name, part in size.parts.items():
        small = recipe.fp8_base_unet or recipe.fp8_base if name == "unet" else recipe.fp8_base
        weights += part.numbers * width - (part.in_layers * (width - 1) if small else 0)
    if recipe.blocks_to_swap and size.device.type != "cpu":
        waiting = size.blocks[: recipe.blocks_to_swap]
        of_one = 1 if recipe.fp8_base or recipe.fp8_base_unet else width
        weights -= (sum(waiting) - max(waiting, default=0)) * of_one  # one of them is there at a time
    own = recipe.trained_dtype.itemsize
    state = OPTIMIZER_BYTES_PER_PARAMETER.get(recipe.optimizer_type.casefold(), 8) * own / 4
    training = size.trained * (own + (0 if recipe.fused_backward_pass else own) + state)
    area = size.largest_bucket[0] * size.largest_bucket[1] / VAE_SCALE_FACTOR**2 * recipe.train_batch_size
    kept = size.activation_bytes * (1 if half else FLOAT32_ACTIVATIONS)
    if recipe.gradient_checkpointing:
        kept *= size.checkpointed_share
    if recipe.fp8_base or recipe.fp8_base_unet:
        kept *= FP8_SHARE
    return MemoryNeed(weights, training, area * kept * min(size.share, 1))


def available_bytes(model: TrainableModel) -> float:
    """Bytes that a run may take on the model's device, which has the model already; 0 if unknown."""
    try:
        free = free_bytes(model.device)
    except (RuntimeError, AssertionError):
        free = None
    if free is None:
        return 0.0
    held = (p for part in model.parts().values() for p in part.parameters() if p.device.type == model.device.type)
    return float(free + sum(p.nbytes for p in held))


# --- the smallest set ------------------------------------------------------------------------------------------------


def smaller_run_advice(recipe: Recipe) -> str:
    """Settings that make a run smaller, the most effective first."""
    ways: Mapping[str, bool] = {
        "mixed_precision bf16 (or fp16)": recipe.mixed_precision == "no",
        "gradient_checkpointing": not recipe.gradient_checkpointing,
        "a smaller train_batch_size": recipe.train_batch_size > 1,
        "cache_latents": not recipe.cache_latents,
        "a smaller resolution": True,
    }
    return ", ".join(way for way, helps in ways.items() if helps)


def smallest_fitting_set(recipe: Recipe, size: RunSize, have: float) -> str:
    """Finds the fewest settings that make a run fit; of as many, those that cost the least time.

    Args:
        recipe: The settings, which need more than there is.
        size: Of the model, the network and the pictures.
        have: Bytes that there are.

    Returns:
        Such as "gradient_checkpointing, fp8_base: about 5.2 GiB". Where all together do not fit, what they need.
    """
    changes = list(_changes(recipe, size))
    smallest: tuple[float, str] | None = None
    for count in range(1, len(changes) + 1):
        for some in combinations(changes, count):
            changed, told = recipe, []
            for change in some:
                settings = change(changed, size, have)
                changed = replace(changed, **settings)
                told += [name if value is True else f"{name} {value}" for name, value in settings.items()]
            if next(recipe_problems(changed), None) is not None:
                continue
            need = memory_need(changed, size).total
            text = f"{', '.join(told)}: about {need / 2**30:.1f} GiB"
            if need <= have:
                return text
            if smallest is None or need < smallest[0]:
                smallest = need, text
    if smallest is None:
        return "a smaller resolution"
    return f"a smaller resolution beside {smallest[1]}"


_Change = Callable[[Recipe, RunSize, float], dict[str, Any]]


def _changes(recipe: Recipe, size: RunSize) -> Iterator[_Change]:
    """The settings that help, those that cost no time first. Of a U-Net whose blocks are not known none is stored."""
    if recipe.mixed_precision == "no":
        yield lambda r, size, have: {"mixed_precision": "bf16"}
    if not recipe.fused_backward_pass and not find_optimizer(recipe.optimizer_type).couples_tensors:
        yield lambda r, size, have: {"fused_backward_pass": True}
    if not recipe.gradient_checkpointing:
        yield lambda r, size, have: {"gradient_checkpointing": True}
    if recipe.train_batch_size > 1:
        steps = recipe.train_batch_size * recipe.gradient_accumulation_steps
        yield lambda r, size, have: {"train_batch_size": 1, "gradient_accumulation_steps": steps}
    if size.blocks and not recipe.fp8_base:
        yield lambda r, size, have: {"fp8_base": True}
    if not recipe.full_bf16 and not recipe.full_fp16:
        yield lambda r, size, have: {"full_bf16": True}
    if size.blocks and not recipe.blocks_to_swap and size.device.type != "cpu":
        yield _blocks_to_swap


def _blocks_to_swap(recipe: Recipe, size: RunSize, have: float) -> dict[str, Any]:
    """The fewest blocks that make it fit; else all."""
    counts = range(2, len(size.blocks) + 1)
    fits = (n for n in counts if memory_need(replace(recipe, blocks_to_swap=n), size).total <= have)
    return {"blocks_to_swap": next(fits, len(size.blocks))}

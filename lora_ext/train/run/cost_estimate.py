"""Estimates of a run's memory and time before it begins.

The time is right to within `TIME_FACTOR`, as long as nothing else keeps the device busy; once steps run, the time that
is left comes from them. Memory is right to within a factor of about one and a half.

The work of a step was counted operation by operation (forward, and backward to the input) on the U-Nets' shapes at 32²
to 128² latent pixels. The memory of activations was counted tensor by tensor by `benchmarks/training_memory.py`: 4.7e5
bytes for each latent pixel of SD1.5 at 64² in float32, 9e5 of SDXL at 128². To that a part was added for what libraries
use beside: measured on the CPU, SD1.5 at 32² holds about 7e5.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ...protocols import TrainableModel
from ..config.prompt_tasks import PromptTask, prompt_tasks
from ..config.recipe import Recipe
from ..data.buckets import PixelSize
from .memory_plan import (
    LIBRARY_BYTES,
    RunSize,
    available_bytes,
    memory_need,
    size_of_part,
    sizes_of_blocks,
    smaller_run_advice,
    smallest_fitting_set,
)

BYTES_IN_GIB = 2.0**30
VAE_OPERATIONS_PER_LATENT = 2.7e8
"""Operations of the VAE's encoder for each latent pixel (SD's)."""
STEP_EFFICIENCY, CPU_STEP_EFFICIENCY = 0.5, 0.75
"""Speed of a training step, relative to one large matrix product."""
CPU_OPERATIONS_PER_BYTE, CPU_SOFTMAX_SHARE = 230.0, 0.85
"""What a CPU needs beside products, as operations: for each byte of activations (norms and the like), and for
attention's softmax, a share of a full model's attention, since it depends on the heads and not on the channels.
Of one thread with products at 7.4e10 operations a second, steps of SD1.5's U-Net at 32² and 64² latent pixels took 8.3
and 36.7 s, those of the embedded model's 0.61 and 7.4 s."""
TIME_FACTOR, CPU_TIME_FACTOR = 1.5, 2.0
"""The true time is expected between the estimate by this and the estimate times it."""
FORWARD_SHARE = 0.5
"""Share of a trained pass that is forward; the backward pass to the input has as many operations."""
ENCODED_PICTURES = {"ileco": 0, "slider": 0, "addift": 2, "multi-addift": 2}
"""Mode → pictures that the VAE encodes for a sample; other modes have one."""
SECONDS_PER_LAYER = 2.5e-4
"""Least seconds of a layer in a step, forward and backward: launching its kernels takes that long at any size."""


class UNetCost(NamedTuple):
    """The cost of a U-Net.

    Attributes:
        parameters: Number of parameters.
        linear_operations: Operations of a step for each latent pixel.
        quadratic_operations: Operations of a step for each square of latent pixels (attention).
        activation_bytes: Bytes of activations for each latent pixel, in mixed precision.
        checkpointed_share: The share of them that gradient checkpointing keeps, or has at once in one block.
    """

    parameters: float
    linear_operations: float
    quadratic_operations: float
    activation_bytes: float
    checkpointed_share: float


UNET_COSTS = {
    "SD1": UNetCost(859.5e6, 3.346e8, 2.12e4, 3.5e5, 0.22),
    "SD2": UNetCost(865.9e6, 3.347e8, 2.12e4, 3.25e5, 0.22),
    "SDXL": UNetCost(2567.5e6, 7.43e8, 7.6e3, 5.75e5, 0.12),
}


@dataclass(frozen=True)
class CostEstimate:
    """What a run needs.

    Attributes:
        weights: Bytes of the model.
        training: Bytes of the trained factors, their gradients and the optimizer's state.
        activations: Bytes of a batch's activations.
        seconds: Seconds of a step; 0 if the device's speed is unknown.
        seconds_range: Between which the seconds of a step are expected.
        have: Bytes that are available; 0 if unknown.
        spare: Settings that make the run smaller, as text: the fewest that make it fit where it does not.
    """

    weights: float
    training: float
    activations: float
    seconds: float
    seconds_range: tuple[float, float]
    have: float
    spare: str = ""

    @property
    def bytes(self) -> float:
        """All bytes together, with those of the libraries."""
        return self.weights + self.training + self.activations + LIBRARY_BYTES


def estimate_cost(
    recipe: Recipe,
    model: TrainableModel,
    parameter_count: int,
    largest_bucket: PixelSize,
    mean_latent_pixels: float,
    regularisation_share: float = 0.0,
) -> CostEstimate:
    """Estimates memory and time.

    A model of the same shape with fewer channels has fewer parameters by their square: its convolutions and projections
    take less in proportion to its parameters, its activations and its attention to the root of that.

    Args:
        recipe: The settings.
        model: The model.
        parameter_count: Number of trained numbers.
        largest_bucket: (width, height) in pixels, which decides about memory.
        mean_latent_pixels: Mean latent pixels of an image, which decide about time.
        regularisation_share: Share of the samples that are regularisation images.

    Returns:
        The estimate.
    """
    cost = UNET_COSTS.get(model.family, UNET_COSTS["SD1"])
    parts = model.parts()
    sizes = {name: size_of_part(part) for name, part in parts.items()}
    part = (sizes["unet"].numbers if "unet" in sizes else 0) / cost.parameters
    half = recipe.mixed_precision != "no"
    blocks = sizes_of_blocks(parts["unet"]) if "unet" in parts else ()
    size = RunSize(
        sizes, blocks, parameter_count, part**0.5, cost.activation_bytes, largest_bucket, model.device,
        cost.checkpointed_share,
    )  # fmt: skip
    need, have = memory_need(recipe, size), available_bytes(model)
    work = _step_operations(cost, part, mean_latent_pixels, model.device)
    untrained = passes_without_gradients(recipe, regularisation_share) * FORWARD_SHARE
    work *= _trained_passes(recipe) + untrained
    if not (recipe.cache_latents or recipe.cache_latents_to_disk):
        work += ENCODED_PICTURES.get(recipe.mode, 1) * VAE_OPERATIONS_PER_LATENT * mean_latent_pixels * min(part, 1)
    layers = sum(not list(m.children()) for part in parts.values() for m in part.modules())
    on_cpu = model.device.type == "cpu"
    speed = measure_matmul_speed(model.device, half) * (CPU_STEP_EFFICIENCY if on_cpu else STEP_EFFICIENCY)
    seconds = 0.0
    if speed:
        a_batch = max(1.1 * recipe.train_batch_size * work / speed, layers * SECONDS_PER_LAYER * (1 + untrained))
        seconds = recipe.gradient_accumulation_steps * a_batch
    factor = CPU_TIME_FACTOR if on_cpu else TIME_FACTOR
    return CostEstimate(
        *need,
        seconds=seconds,
        seconds_range=(seconds / factor, seconds * factor),
        have=have,
        spare=smallest_fitting_set(recipe, size, have) if 0 < have < need.total else smaller_run_advice(recipe),
    )


def passes_without_gradients(recipe: Recipe, regularisation_share: float = 0.0) -> float:
    """Forward passes that a step needs for each sample beside the trained one, as the objective of its mode does.

    Args:
        recipe: The settings.
        regularisation_share: Share of the samples that are regularisation images.

    Returns:
        The mean of all samples.

    Example:
        >>> passes_without_gradients(Recipe(mode="slider", positive_prompt="large", negative_prompt="small"))
        3.0
    """
    if recipe.mode in ("ileco", "slider"):
        tasks = prompt_tasks(recipe)
        # the base model's prediction of the start, and where that moves, of the two prompts that it moves between
        passes = {prompt: 1 if task.plus is None else 3 for prompt, task in tasks.items()}
        groups = [[passes[p] for p, task in tasks.items() if (task == PromptTask(p)) is kept] for kept in (False, True)]
        means = [sum(group) / len(group) for group in groups if group]  # prompts to keep are half of the samples
        return recipe.denoise_steps + sum(means) / len(means)
    if recipe.mode in ("addift", "multi-addift"):
        return 1.0  # the base model's prediction of the other picture
    return regularisation_share if recipe.prior_loss_target == "model" else 0.0


def regularised_time_factor(recipe: Recipe) -> float:
    """How many times as long a run takes once half of its samples are regularisation images.

    Args:
        recipe: The settings, with those of regularisation.

    Example:
        >>> [regularised_time_factor(Recipe(prior_loss_target=target)) for target in ("picture", "model")]
        [2.0, 2.5]
    """
    trained = _trained_passes(recipe)
    return 2 * (trained + FORWARD_SHARE * passes_without_gradients(recipe, 0.5)) / trained


def _trained_passes(recipe: Recipe) -> float:
    """The passes of a trained sample, in those without gradient checkpointing, which computes activations again."""
    return 1.5 if recipe.gradient_checkpointing else 1.0


def _step_operations(cost: UNetCost, part: float, latent_pixels: float, device: torch.device) -> float:
    """Operations of a step with one image. part: The U-Net's parameters, relative to those of its family."""
    linear, pairs, width = cost.linear_operations, cost.quadratic_operations * latent_pixels**2, part**0.5
    operations = part * linear * latent_pixels + width * pairs
    if device.type == "cpu":
        operations += CPU_OPERATIONS_PER_BYTE * width * cost.activation_bytes * latent_pixels
        operations += CPU_SOFTMAX_SHARE * pairs
    return operations


def measure_matmul_speed(device: torch.device, half: bool) -> float:
    """Operations a second of a large matrix product, measured in about 0.1 s; 0 if it cannot be measured."""
    side = 4096 if device.type == "cuda" else 768
    dtype = torch.float16 if half and device.type == "cuda" else torch.float32
    try:
        factor = torch.ones(side, side, device=device, dtype=dtype)
        best = float("inf")
        for _ in range(4):  # the first one includes loading kernels
            begun = time.perf_counter()
            float((factor @ factor)[0, 0])  # reading a number waits for the device
            best = min(best, time.perf_counter() - begun)
        return 2.0 * side**3 / best
    except RuntimeError:
        return 0.0


def format_rough_duration(seconds: float) -> str:
    """A duration as text.

    Example:
        >>> [format_rough_duration(s) for s in (3, 720, 19200, 260000)]
        ['3 s', '12 min', '5 h 20 min', '3 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes / 1440:.0f} days"

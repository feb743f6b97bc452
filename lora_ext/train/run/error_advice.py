"""Messages for a run that cannot continue: what happened, and what to change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from ..config.recipe import Recipe
from .training_log import LogRow


def nan_advice(recipe: Recipe, row: LogRow, rates: Mapping[str, float], state_folder: Path | None) -> str:
    """The message for a loss or gradient that is NaN or infinite.

    Args:
        recipe: The settings.
        row: The step's numbers.
        rates: Part → learning rate.
        state_folder: The last saved state, if there is one.
    """
    half = recipe.mixed_precision == "fp16"
    tries = [f"a lower learning rate than {max(rates.values(), default=recipe.learning_rate):g}"]
    if half:
        tries.append("mixed_precision bf16 instead of fp16")
    if half and not recipe.no_half_vae:
        tries.append("no_half_vae")
    saved = f"the last saved state is {state_folder}" if state_folder else "what was saved before is untouched"
    what, value = ("gradient", row.grad_norm) if math.isfinite(row.loss) else ("loss", row.loss)
    return f"the {what} became {value} at step {row.step} (epoch {row.epoch}); {saved}. Try {', or '.join(tries)}"


def out_of_memory_advice(recipe: Recipe, device: torch.device, error: BaseException) -> str:
    """The message for full memory, with the settings that help, the cheapest first."""
    cached = recipe.cache_latents or recipe.cache_latents_to_disk
    ways = (
        ("cache_latents", not cached),
        ("mixed_precision bf16 (or fp16)", recipe.mixed_precision == "no"),
        ("gradient_checkpointing", not recipe.gradient_checkpointing),
        ("train_batch_size 1 with gradient_accumulation_steps", recipe.train_batch_size > 1),
        ("network_train_unet_only with cache_text_encoder_outputs", recipe.trains_text),
        ("optimizer_type AdamW8bit", recipe.optimizer_type.lower() == "adamw"),
        ("a smaller resolution", True),
    )
    first = (str(error).splitlines() or ["out of memory"])[0]
    return f"not enough memory on {device} ({first}); in this order, try: {', '.join(w for w, helps in ways if helps)}"

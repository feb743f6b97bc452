"""What belongs to an option that saves memory, and what excludes it, each with a sentence that says what to change."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import TrainError
from .optimizers import find_optimizer, is_known_optimizer
from .recipe import Recipe


def memory_problems(recipe: Recipe) -> Iterator[str]:
    """Yields a sentence for each problem of the options that save memory."""
    if recipe.fused_backward_pass:
        yield from _fused_backward_pass(recipe)


def _fused_backward_pass(r: Recipe) -> Iterator[str]:
    what = "fused_backward_pass steps each tensor by itself, as soon as its gradient is there"
    if not is_known_optimizer(r.optimizer_type) or find_optimizer(r.optimizer_type).couples_tensors:
        yield f"{what}; {r.optimizer_type} steps all together: set optimizer_type AdamW, Adafactor, Lion or SGD"
    if r.gradient_accumulation_steps > 1:
        yield f"{what}; gradient_accumulation_steps {r.gradient_accumulation_steps} adds several up: set 1"
    if r.mixed_precision == "fp16":
        yield f"{what}; fp16 looks for overflows in all of them first: set mixed_precision bf16 or no"


def check_process_count(recipe: Recipe, world_size: int) -> None:
    """Raises TrainError if several processes cannot train with these options."""
    if recipe.fused_backward_pass and world_size > 1:
        raise TrainError(
            f"fused_backward_pass steps before the gradients of {world_size} processes are averaged; "
            "leave it out, or train with one process"
        )

"""What belongs to an option that saves memory, and what excludes it, each with a sentence that says what to change."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import TrainError
from .optimizers import find_optimizer, is_known_optimizer, parse_optimizer_args
from .recipe import Recipe


def memory_problems(recipe: Recipe) -> Iterator[str]:
    """Yields a sentence for each problem of the options that save memory."""
    for name, precision in (("full_bf16", "bf16"), ("full_fp16", "fp16")):
        if getattr(recipe, name) and recipe.mixed_precision != precision:
            yield f"{name} needs mixed_precision {precision}, not {recipe.mixed_precision}; set it so"
    if recipe.fp8_base or recipe.fp8_base_unet:
        yield from _fp8(recipe, "fp8_base" if recipe.fp8_base else "fp8_base_unet")
    if recipe.blocks_to_swap and recipe.torch_compile:
        yield "torch_compile cannot be used with blocks_to_swap; leave one of them out"
    if recipe.blocks_to_swap and recipe.base_weights:
        yield "base_weights replace weights that blocks_to_swap moves; merge them into the model, or leave one out"
    own = parse_optimizer_args(recipe.optimizer_args)
    if recipe.full_fp16 and "eps" not in own and recipe.optimizer_type.casefold() not in _FIT_FOR_FP16:
        yield (
            f"full_fp16: {recipe.optimizer_type} divides by squares that fp16 rounds to 0; "
            "set optimizer_args eps=1e-4, or Adafactor, Lion, SGD or AdamW8bit"
        )
    if recipe.fused_backward_pass:
        yield from _fused_backward_pass(recipe)


def _fp8(r: Recipe, name: str) -> Iterator[str]:
    if r.mixed_precision == "no":
        yield f"{name} only stores the model in 8 bits; set mixed_precision bf16 or fp16, which it computes in"
    if r.torch_compile:
        yield f"torch_compile cannot be used with {name}; leave one of them out"
    if r.base_weights:
        yield f"base_weights cannot be added to weights in 8 bits; merge them into the model, or leave {name} out"


_FIT_FOR_FP16 = frozenset(
    "adafactor lion lion8bit pagedlion8bit tiger sgd sgdnesterov sgdnesterov8bit adamw8bit pagedadamw8bit pagedadamw "
    "pagedadamw32bit".split()
)
"""Optimizers that keep no square of a gradient in the gradient's dtype: that of 1e-4 is 0 in fp16."""


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

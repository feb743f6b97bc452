"""`MemoryOptions`: the options of `Recipe` that decide how much memory a run takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...precisions import MIXED_PRECISIONS
from .recipe_option import recipe_option


@dataclass(frozen=True)
class MemoryOptions:
    """Precision and what is kept in memory; each option's help says what it does."""

    mixed_precision: str = recipe_option("no", "compute in half precision", "machine", MIXED_PRECISIONS, basic=True)
    gradient_checkpointing: bool = recipe_option(
        False, "recompute activations: less memory, slower", "machine", basic=True
    )
    full_bf16: bool = recipe_option(
        False, "train the LoRA itself in bf16: factors, gradients and the optimizer's state", "machine"
    )
    full_fp16: bool = recipe_option(
        False, "train the LoRA itself in fp16: factors, gradients and the optimizer's state", "machine"
    )
    fp8_base: bool = recipe_option(
        False, "keep the frozen U-Net and text encoders in 8 bits; needs mixed_precision", "machine"
    )
    fp8_base_unet: bool = recipe_option(False, "as fp8_base, for the U-Net alone", "machine")
    blocks_to_swap: int = recipe_option(
        0, "blocks of the U-Net that wait in main memory until they compute: less GPU memory, slower", "machine", low=0
    )
    fused_backward_pass: bool = recipe_option(
        False, "step each tensor in the backward pass and free its gradient; clipping is per tensor", "machine"
    )

    @property
    def trained_dtype(self) -> torch.dtype:
        """The dtype of the trained tensors, their gradients and the optimizer's state."""
        return torch.bfloat16 if self.full_bf16 else torch.float16 if self.full_fp16 else torch.float32

"""Names of floating-point formats in options, and torch's dtypes for them: one table for the whole package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from .errors import LoraError, did_you_mean

PRECISION_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "no": torch.float32,
        "float": torch.float32,
        "fp32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
    }
)
"""Every name that an option accepts → torch's dtype. "no" is of `--mixed_precision`, "float" of kohya's scripts."""

MODEL_PRECISIONS = ("fp32", "fp16", "bf16")
"""`--precision`: what a model is loaded in."""
MIXED_PRECISIONS = ("no", "fp16", "bf16")
"""`--mixed_precision`: what the frozen networks compute in while a LoRA is trained."""
TRAINED_FILE_PRECISIONS = ("float", "fp16", "bf16")
"""`--save_precision` of `train`, named as in kohya's train_network.py."""
SAVE_PRECISIONS = ("float", "fp32", "fp16", "bf16")
"""`--save_precision` of the tools."""


def parse_precision_name(
    name: str, accepted: Sequence[str], error: type[LoraError], option: str = "precision"
) -> torch.dtype:
    """Looks up the dtype of a precision's name.

    Args:
        name: The name that was given.
        accepted: The names that this option accepts, from `PRECISION_DTYPES`.
        error: The error to raise for another name.
        option: What the message calls the option.

    Returns:
        torch's dtype.

    Raises:
        LoraError: `error`, with the nearest accepted name.

    Example:
        >>> from lora_ext.errors import ToolError
        >>> parse_precision_name("bf16", SAVE_PRECISIONS, ToolError)
        torch.bfloat16
    """
    if name not in accepted:
        raise error(f"unknown {option} {name!r}{did_you_mean(name, accepted)}")
    return PRECISION_DTYPES[name]

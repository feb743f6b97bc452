"""Weights that are stored as packed 4-bit numbers (bitsandbytes) or as GGUF blocks: their shape and their values.

Both are recognised by the attributes of the parameter, so that neither library is imported where no weight needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def quantized_shape(weight: Any) -> torch.Size | None:
    """Returns (out, in) of a quantised weight; None for other tensors, and for weights that are no matrix.

    Args:
        weight: a parameter: `quant_state` is what bitsandbytes adds when it quantises, `real_shape` is the shape of a
            GGUF tensor; before bitsandbytes quantises (`bnb_quantized` false) the tensor has its own shape.
    """
    state = getattr(weight, "quant_state", None)
    if state is not None:
        shape = state.shape
    elif hasattr(weight, "bnb_quantized"):
        shape = weight.shape
    else:
        shape = getattr(weight, "real_shape", None)
    return torch.Size(shape) if shape is not None and len(shape) == 2 else None


def dequantized_weight(weight: Tensor) -> Tensor:
    """Returns the values of a weight: of a quantised one dequantised, of any other one itself.

    Args:
        weight (Tensor): a parameter; a packed one has another shape than the layer's weight.

    Returns:
        Tensor (out, in, ...) of the layer's weight.
    """
    state: Any = getattr(weight, "quant_state", None)
    if state is not None:
        # installed where a weight has a `quant_state`
        functional = import_module("bitsandbytes.functional")
        values: Tensor = functional.dequantize_4bit(weight.data, quant_state=state)
        return values
    gguf: Any = getattr(weight, "gguf_cls", None)
    if gguf is None:
        return weight
    if not getattr(weight, "baked", True):  # Forge rearranges GGUF blocks once, when a model is first used
        gguf.bake(weight)
    blocks: Tensor = gguf.dequantize_pytorch(weight)
    return blocks

"""Frozen layers that compute from a stored weight: one of 8 bits (float8_e4m3fn), or one that block swap moves.

kohya's `--fp8_base` leaves the cast to autocast, which keeps the cast weights until the backward pass. Here the node of
a layer keeps the 8-bit weight and casts it again there, so that only one layer's weight is in 16 bits at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .autograd import autocast_dtype, conv_backward, prepare_convolution

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
"""Largest number of the format; what is above it would become NaN."""


class StoredWeightFunction(torch.autograd.Function):
    """The output of a frozen layer, whose node keeps the layer's Parameter alone.

    Shapes: x (…, in) or (n, in, h, w), of the compute dtype; weight (out, in) or (out, in, kh, kw), of any dtype; bias
    (out,) or None; convolution (stride, padding, dilation), or None for Linear.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Any) -> Tensor:
        """The output, (…, out) or (n, out, h', w'), of x's dtype."""
        # the Parameter itself and not its memory, which block swap replaces between the passes
        ctx.weight, ctx.convolution, ctx.x_shape = weight, convolution, x.shape
        wide = weight.to(x.dtype)
        bias = None if bias is None else bias.to(x.dtype)
        return F.linear(x, wide, bias) if convolution is None else F.conv2d(x, wide, bias, *convolution)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of x."""
        (grad,) = grads
        wide = ctx.weight.to(grad.dtype)
        if ctx.convolution is None:
            return grad @ wide, None, None, None
        # a convolution's input gradient needs only the input's shape
        like = grad.new_empty(1).expand(ctx.x_shape)
        return conv_backward(grad, like, wide, ctx.convolution, (True, False))[0], None, None, None


def forward_from_stored(module: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """The forward pass of a layer by `StoredWeightFunction`.

    Args:
        module: The layer.
        x: (…, in) or (n, in, h, w).

    Returns:
        (…, out) or (n, out, h', w'), in autocast's dtype, or x's without autocast.
    """
    x = x.to(autocast_dtype(x.device.type) or x.dtype)
    convolution = None
    if isinstance(module, nn.Conv2d):
        x, convolution = prepare_convolution(module, x)
    output: Tensor = StoredWeightFunction.apply(x, module.weight, module.bias, convolution)
    return output


def stored_layers(network: nn.Module) -> Iterator[nn.Linear | nn.Conv2d]:
    """The plain Linear and Conv2d layers of a network."""
    for module in network.modules():
        if type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1):
            yield module


_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""diffusers' classes that are blocks for block swap."""


def swappable_blocks(unet: nn.Module) -> list[nn.Module]:
    """A U-Net's transformer and ResNet blocks, the largest first: 38 in SD1.x and SD2.x, 87 in SDXL."""
    blocks = [module for module in unet.modules() if type(module).__name__ in _BLOCKS]
    return sorted(blocks, key=lambda block: -sum(p.nbytes for p in block.parameters()))


@contextmanager
def compute_from_parameters(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Lets the nodes of frozen layers keep their Parameters for the backward pass, not the Parameters' memory.

    Args:
        networks: Frozen networks.
    """
    changed = [m for network in networks for m in stored_layers(network) if "forward" not in m.__dict__]
    try:
        for module in changed:
            module.__dict__["forward"] = partial(forward_from_stored, module)
        yield
    finally:
        for module in changed:
            module.__dict__.pop("forward", None)


@contextmanager
def weights_in_fp8(networks: Iterable[nn.Module], *, restore: bool = True) -> Iterator[None]:
    """Stores the weights of Linear and Conv2d layers in 8 bits while the context is open.

    Biases, norms and embeddings keep their dtype, and so does the first layer, whose dtype a model's inputs have.

    Args:
        networks: Frozen networks, in the compute dtype.
        restore: Whether the original weights come back afterwards, bit for bit; until then they are in main memory.
            Without it they are given up, and the networks are of no use afterwards.
    """
    changed: list[tuple[nn.Linear | nn.Conv2d, Tensor | None]] = []
    try:
        for network in networks:
            for module in islice(stored_layers(network), 1, None):
                weight: Any = module.weight
                changed.append((module, weight.data.cpu() if restore else None))
                weight.data = weight.data.clamp(-FP8_LARGEST, FP8_LARGEST).to(FP8)
                module.__dict__["forward"] = partial(forward_from_stored, module)
        yield
    finally:
        for module, original in changed:
            module.__dict__.pop("forward", None)
            if original is not None:
                parameter: Any = module.weight
                parameter.data = original.to(parameter.device)

"""Layers whose output gets ΔW·x from small parts of ΔW, and whose node computes all gradients from them.

ΔW of a LoHa, LoKr or DoRA has the weight's size, and so has its gradient. Where a layer has few inputs x beside its
weight's rows (the inner blocks of a U-Net), making both takes longer than the layer itself. `products_of_kinds` has a
`LayerProduct` for each kind that needs neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...adapters import Adapter
from .autograd import autocast_dtype, conv_backward


class ScratchMemory:
    """Memory for numbers of a weight's size that are needed within one call of a layer; all layers share it.

    On the CPU new memory of that size costs more time than the numbers that are written to it.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def take(self, name: str, like: Tensor) -> Tensor:
        """Memory of the shape, dtype and device of a contiguous tensor, until the same name is taken again.

        Args:
            name: What it is for.
            like: The tensor; a GPU's own allocator keeps memory, so that there it is simply new.

        Returns:
            Uninitialised memory.
        """
        if like.device.type != "cpu":
            return torch.empty_like(like)
        key = (name, like.device, like.dtype)
        if key not in self._held or self._held[key].numel() < like.numel():
            self._held[key] = torch.empty(like.numel(), dtype=like.dtype)
        return self._held[key][: like.numel()].view(like.shape)

    def release(self) -> None:
        """Gives the memory back."""
        self._held.clear()


def exact_products(device: str) -> Any:
    """A context in which autocast rounds nothing."""
    return torch.autocast(device, enabled=False) if autocast_dtype(device) is not None else nullcontext()


@dataclass(frozen=True)
class LayerCall:
    """One call of a plain, frozen layer.

    Attributes:
        weight: Its own weight: (out, in) or (out, in, kh, kw).
        bias: Its bias (out,), or None.
        convolution: (stride, padding, dilation) of a convolution; None for Linear.
        factor: On ΔW, beside the adapter's own.
        scratch: Memory for numbers of the weight's size.
    """

    weight: Tensor
    bias: Tensor | None
    convolution: tuple[Any, Any, Any] | None
    factor: float
    scratch: ScratchMemory

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """The product of the layer's type with a weight of the input's dtype."""
        return F.linear(x, weight) if self.convolution is None else F.conv2d(x, weight, None, *self.convolution)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """The gradient of `product`'s input; without a weight that of the layer itself."""
        weight = (self.weight if weight is None else weight).to(grad.dtype)
        if self.convolution is None:
            return (grad.reshape(-1, grad.shape[-1]) @ weight).view(x.shape)
        found: Tensor = conv_backward(grad, x, weight, self.convolution, (True, False))[0]
        return found

    def kernel(self, down: Tensor) -> Tensor:
        """D (r, in·kh·kw) in the shape of the layer's weight."""
        return down.view(-1, *self.weight.shape[1:])


class LayerProduct(ABC):
    """How a layer's output gets ΔW·x in one call.

    Args:
        call: The call.
    """

    is_merged: ClassVar[bool] = False
    """Whether the layer runs with W + ΔW, as `merged` makes it."""

    def __init__(self, call: LayerCall) -> None:
        self.call = call

    @abstractmethod
    def parts(self, adapter: Adapter) -> tuple[Tensor, ...]:
        """The parts of ΔW, float32, differentiable in the adapter's tensors."""

    @abstractmethod
    def add(self, x: Tensor, out: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adds ΔW·x to the output in place, unless it is merged.

        Args:
            x: (…, in) or (n, in, h, w), of the output's dtype.
            out: (…, out) or (n, out, h', w').
            parts: Of ΔW.

        Returns:
            What `gradients` needs beside x.
        """

    @abstractmethod
    def gradients(
        self, grad: Tensor, x: Tensor, parts: Sequence[Tensor], kept: Sequence[Tensor], needs_x: bool
    ) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Computes the gradients of x, through W + ΔW, and of the parts.

        Args:
            grad: Of the output.
            x: As in `add`.
            parts: As in `add`.
            kept: What `add` returned.
            needs_x: Whether that of x is needed.

        Returns:
            (gradient of x or None, gradients of the parts in any dtype).
        """

    def merged(self, parts: Sequence[Tensor]) -> Tensor:
        """W + ΔW in scratch memory; only where `is_merged`."""
        raise NotImplementedError


class LayerProductFunction(torch.autograd.Function):
    """The output of a layer with W + ΔW by a `LayerProduct`.

    Shapes: x (…, in) or (n, in, h, w); output, a tuple with one that may be written to, (…, out) or (n, out, h', w').
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: tuple[Tensor],
        product: LayerProduct,
        make: Callable[[Sequence[Tensor]], Adapter],
        *trained: Tensor,
    ) -> Tensor:
        """The output. make: the adapter of the trained tensors."""
        out = output[0].detach()
        ctx.product, ctx.make, ctx.x_dtype = product, make, x.dtype
        x = x.to(out.dtype)
        with exact_products(x.device.type):
            kept = product.add(x, out, product.parts(make(trained)))
        ctx.number = len(kept)
        ctx.save_for_backward(x, *kept, *trained)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x and of the trained tensors."""
        (grad,) = grads
        x, *rest = ctx.saved_tensors
        kept, trained = rest[: ctx.number], rest[ctx.number :]
        product: LayerProduct = ctx.product
        leaves = [tensor.detach().requires_grad_() for tensor in trained]
        with exact_products(x.device.type):
            with torch.enable_grad():
                parts = product.parts(ctx.make(leaves))
            fixed = [part.detach() for part in parts]
            x_grad, part_grads = product.gradients(grad.contiguous(), x, fixed, kept, ctx.needs_input_grad[0])
            matching = [g.reshape(p.shape).to(p.dtype) for g, p in zip(part_grads, parts, strict=True)]
            found = torch.autograd.grad(parts, leaves, matching)
        return None if x_grad is None else x_grad.to(ctx.x_dtype), None, None, None, *found

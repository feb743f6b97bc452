"""The trainable low-rank path beside a layer: y = output + scale · U·D·x as one autograd node a layer.

Factors are kept by rank: D is (R, in[, kh, kw]) and Uᵀ is (R, out), so that the first b ranks of both are views. The
node keeps x and the thin D·x for the backward pass and nothing of the size of the output. Only the rows
`first:last` get gradients (DyLoRA); they are passed in as the Parameters `learning`, which share the factors' memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dylora import Share


def scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a·b in one product."""
    if scale == 1.0:
        return a @ b
    return torch.addmm(a.new_empty(1, 1), a, b, beta=0, alpha=scale)


def split_rows(grad: Tensor, learning: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows of a gradient as one tensor for each Parameter of rows."""
    if len(learning) == 1:
        return (grad.reshape(learning[0].shape).to(learning[0].dtype),)
    parts = grad.split([len(p) for p in learning])
    return tuple(part.reshape(p.shape).to(p.dtype) for part, p in zip(parts, learning, strict=True))


class LinearPath(torch.autograd.Function):
    """For Linear: x (…, in), output (…, out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, output: Tensor, down: Tensor, up: Tensor, share: Share, *learning: Tensor
    ) -> Tensor:
        """learning: the Parameters of D's learning rows, then those of Uᵀ's."""
        dtype = output.dtype
        down, up = down[: share.acting].to(dtype), up[: share.acting].to(dtype)
        flat = x.reshape(-1, x.shape[-1]).to(dtype)
        thin = flat @ down.t()
        ctx.save_for_backward(flat, thin)
        ctx.down, ctx.up, ctx.share, ctx.learning = down, up, share, learning
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        return torch.addmm(output.reshape(-1, output.shape[-1]), thin, up, alpha=share.scale).view(output.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, output, and the learning rows."""
        (grad,) = grads
        flat, thin = ctx.saved_tensors
        share: Share = ctx.share
        rows = slice(share.first, share.last)
        half = len(ctx.learning) // 2
        g = grad.reshape(-1, grad.shape[-1])
        thin_grad = scaled(g, ctx.up.t(), share.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (thin_grad @ ctx.down).to(ctx.x_dtype).view(ctx.x_shape)
        down_grad = split_rows(thin_grad[:, rows].t() @ flat, ctx.learning[:half])
        up_grad = split_rows(scaled(thin[:, rows].t(), g, share.scale), ctx.learning[half:])
        return x_grad, grad, None, None, None, *down_grad, *up_grad


class ConvPath(torch.autograd.Function):
    """For Conv2d without groups: x (n, in, h, w), output (n, out, h', w'); `how` is (stride, padding, dilation)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, output: Tensor, down: Tensor, up: Tensor, share: Share, how: Any, *learning: Tensor
    ) -> Tensor:
        """learning: as LinearPath's."""
        dtype = output.dtype
        down, up = down[: share.acting].to(dtype), up[: share.acting].to(dtype)
        image = x.to(dtype)
        thin = F.conv2d(image, down, None, *how)
        ctx.save_for_backward(image, thin)
        ctx.down, ctx.up, ctx.share, ctx.learning, ctx.how, ctx.x_dtype = down, up, share, learning, how, x.dtype
        n = len(output)
        if output.is_contiguous():
            added = torch.baddbmm(output.flatten(2), up.t().expand(n, -1, -1), thin.flatten(2), alpha=share.scale)
            return added.view(output.shape)
        return torch.add(output, F.conv2d(thin, up.t()[:, :, None, None]), alpha=share.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, output, and the learning rows."""
        (grad,) = grads
        image, thin = ctx.saved_tensors
        share: Share = ctx.share
        rows = slice(share.first, share.last)
        half = len(ctx.learning) // 2
        flat = grad.flatten(2)
        thin_grad = torch.matmul(ctx.up * share.scale, flat).view_as(thin)
        stride, padding, dilation = ctx.how
        x_grad, down_grad, _ = torch.ops.aten.convolution_backward(
            thin_grad, image, ctx.down, None, stride, padding, dilation, False, [0, 0], 1,
            [ctx.needs_input_grad[0], True, False],
        )  # fmt: skip
        up_grad = torch.bmm(thin[:, rows].flatten(2), flat.transpose(1, 2)).sum(0) * share.scale
        return (
            None if x_grad is None else x_grad.to(ctx.x_dtype), grad, None, None, None, None,
            *split_rows(down_grad[rows], ctx.learning[:half]), *split_rows(up_grad, ctx.learning[half:]),
        )  # fmt: skip


def convolution(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[Any, Any, Any]]:
    """The layer's input and (stride, padding, dilation), with any padding but zeros already on the input."""
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        return x, (module.stride, (0, 0), module.dilation)
    padding = module.padding
    if isinstance(padding, str):
        same = [d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        padding = (0, 0) if padding == "valid" else (same[0], same[1])
    return x, (module.stride, padding, module.dilation)


def masked(
    module: nn.Module, x: Tensor, output: Tensor, down: Tensor, up: Tensor, scale: float, masks: tuple[Any, Any]
) -> Tensor:
    """The path with dropout on the thin values: masks = (of their shape or None, (n, r) a picture or None).

    down, up: the acting ranks as tensors of the graph. Plain autograd: dropouts are rare, and cost more anyway.
    """
    dtype = output.dtype
    values, ranks = masks
    if isinstance(module, nn.Conv2d):
        x, how = convolution(module, x)
        thin = F.conv2d(x.to(dtype), down.to(dtype), None, *how)
        extra: tuple[int, ...] = (1, 1)
    else:
        thin = F.linear(x.to(dtype), down.to(dtype))
        extra = ()
    if values is not None:
        thin = thin * values(thin)
    if ranks is not None:
        mask = ranks(thin)
        between = () if extra else (1,) * (thin.dim() - 2)
        thin = thin * mask.view(len(mask), *between, mask.shape[1], *extra)
    if extra:
        return torch.add(output, F.conv2d(thin, up.t().to(dtype)[:, :, None, None]), alpha=scale)
    return torch.add(output, thin @ up.to(dtype), alpha=scale)

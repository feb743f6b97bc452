"""The trainable low-rank path beside a layer: y = output + scale · U·D·x as one autograd node a layer.

Factors are kept by rank: D is (R, in[, kh, kw]) and Uᵀ is (R, out), so that the first b ranks of both are views. The
node keeps x and the thin D·x for the backward pass and nothing of the size of the output. Only the rows
`first:last` get gradients (DyLoRA); they are passed in as the Parameters `learning`, which share the factors' memory.

Where the layer's own `weight` is given (frozen, of the output's dtype), the output came without a graph: the path is
added in its place, and the backward pass through the layer is part of the node: x's gradient is made once and added
to once, by the product itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.dylora import RankSelection


def scaled_matmul(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a·b in one product."""
    if scale == 1.0:
        return a @ b
    return torch.addmm(a.new_empty(1, 1), a, b, beta=0, alpha=scale)


def split_by_parameter(grad: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows of a gradient as one tensor for each Parameter of rows."""
    if len(parameters) == 1:
        return (grad.reshape(parameters[0].shape).to(parameters[0].dtype),)
    parts = grad.split([len(p) for p in parameters])
    return tuple(part.reshape(p.shape).to(p.dtype) for part, p in zip(parts, parameters, strict=True))


def prepare_forward(
    output: Tensor | tuple[Tensor], down: Tensor, up: Tensor, selection: RankSelection
) -> tuple[bool, Tensor, Tensor, Tensor]:
    """Whether the output may be written to, the output itself, and the acting rows of D and Uᵀ in its dtype."""
    own = isinstance(output, tuple)
    out = output[0].detach() if isinstance(output, tuple) else output
    return own, out, down[: selection.active].to(out.dtype), up[: selection.active].to(out.dtype)


class LinearLoraFunction(torch.autograd.Function):
    """For Linear: x (…, in), output (…, out); `output` is a Tensor of the graph, or a tuple with one to write to."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor | tuple[Tensor],
        weight: Tensor | None,
        down: Tensor,
        up: Tensor,
        selection: RankSelection,
        *learning: Tensor,
    ) -> Tensor:
        """learning: the Parameters of D's learning rows, then those of Uᵀ's. weight: see the top."""
        own, out, down, up = prepare_forward(output, down, up, selection)
        flat = x.reshape(-1, x.shape[-1]).to(out.dtype)
        thin = flat @ down.t()
        ctx.save_for_backward(flat, thin)
        ctx.weight, ctx.down, ctx.up, ctx.share, ctx.learning = weight, down, up, selection, learning
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        if own:
            out.view(-1, out.shape[-1]).addmm_(thin, up, alpha=selection.scale)
            return out
        return torch.addmm(out.reshape(-1, out.shape[-1]), thin, up, alpha=selection.scale).view(out.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, output, and the learning rows."""
        (grad,) = grads
        flat, thin = ctx.saved_tensors
        share: RankSelection = ctx.share
        rows = slice(share.first, share.last)
        half = len(ctx.learning) // 2
        g = grad.reshape(-1, grad.shape[-1])
        thin_grad = scaled_matmul(g, ctx.up.t(), share.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            plain = ctx.weight is None
            x_grad = thin_grad @ ctx.down if plain else (g @ ctx.weight).addmm_(thin_grad, ctx.down)
            x_grad = x_grad.to(ctx.x_dtype).view(ctx.x_shape)
        down_grad = split_by_parameter(thin_grad[:, rows].t() @ flat, ctx.learning[:half])
        up_grad = split_by_parameter(scaled_matmul(thin[:, rows].t(), g, share.scale), ctx.learning[half:])
        return x_grad, None if ctx.weight is not None else grad, None, None, None, None, *down_grad, *up_grad


class ConvLoraFunction(torch.autograd.Function):
    """For Conv2d without groups: x (n, in, h, w), output (n, out, h', w'); `how` is (stride, padding, dilation)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor | tuple[Tensor],
        weight: Tensor | None,
        down: Tensor,
        up: Tensor,
        selection: RankSelection,
        conv_options: Any,
        *learning: Tensor,
    ) -> Tensor:
        """learning, weight: as LinearPath's."""
        own, out, down, up = prepare_forward(output, down, up, selection)
        image = x.to(out.dtype)
        thin = F.conv2d(image, down, None, *conv_options)
        ctx.save_for_backward(image, thin)
        ctx.weight, ctx.down, ctx.up, ctx.share, ctx.learning = weight, down, up, selection, learning
        ctx.how, ctx.x_dtype = conv_options, x.dtype
        if out.is_contiguous():
            wide = up.t().expand(len(out), -1, -1)
            if own:
                out.flatten(2).baddbmm_(wide, thin.flatten(2), alpha=selection.scale)
                return out
            return torch.baddbmm(out.flatten(2), wide, thin.flatten(2), alpha=selection.scale).view(out.shape)
        add = F.conv2d(thin, up.t()[:, :, None, None])
        return out.add_(add, alpha=selection.scale) if own else torch.add(out, add, alpha=selection.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, output, and the learning rows."""
        (grad,) = grads
        image, thin = ctx.saved_tensors
        share: RankSelection = ctx.share
        rows = slice(share.first, share.last)
        half = len(ctx.learning) // 2
        flat = grad.flatten(2)
        thin_grad = torch.matmul(ctx.up * share.scale, flat).view_as(thin)
        needs_x = ctx.needs_input_grad[0]
        x_grad, down_grad = _conv_backward(thin_grad, image, ctx.down, ctx.how, (needs_x, True))
        if needs_x and ctx.weight is not None:
            x_grad = _conv_backward(grad, image, ctx.weight, ctx.how, (True, False))[0].add_(x_grad)
        up_grad = torch.bmm(thin[:, rows].flatten(2), flat.transpose(1, 2)).sum(0) * share.scale
        return (
            None if x_grad is None else x_grad.to(ctx.x_dtype),
            None if ctx.weight is not None else grad,
            None, None, None, None, None,
            *split_by_parameter(down_grad[rows], ctx.learning[:half]),
            *split_by_parameter(up_grad, ctx.learning[half:]),
        )  # fmt: skip


def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, conv_options: Any, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Gradients of a convolution's input and weight, those that are wanted."""
    stride, padding, dilation = conv_options
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], 1, [*wanted, False]
    )
    return found[0], found[1]


def frozen_weight(module: nn.Module) -> Tensor | None:
    """The weight of a plain, frozen Linear or Conv2d that no one else hooks, whose backward pass a path may do; or
    None. Other layers (quantised, computing in another dtype, hooked by others) keep their own backward pass."""
    if type(module) is nn.Linear:
        plain = True
    else:
        plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    weight = module._parameters.get("weight") if plain else None
    alone = len(module._forward_hooks) == 1 and len(module._forward_pre_hooks) == 1 and not module._backward_hooks
    bias = module._parameters.get("bias")
    if weight is None or not alone or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    return weight if weight.dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64) else None


def prepare_convolution(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[Any, Any, Any]]:
    """The layer's input and (stride, padding, dilation), with any padding but zeros already on the input."""
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        return x, (module.stride, (0, 0), module.dilation)
    padding = module.padding
    if isinstance(padding, str):
        same = [d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        padding = (0, 0) if padding == "valid" else (same[0], same[1])
    return x, (module.stride, padding, module.dilation)


def forward_with_dropout(
    module: nn.Module, x: Tensor, output: Tensor, down: Tensor, up: Tensor, scale: float, masks: tuple[Any, Any]
) -> Tensor:
    """The path with dropout on the thin values: masks = (thin → a mask in its shape or None, thin → (n, r) or None).

    down, up: the acting ranks as tensors of the graph. Plain autograd: dropouts are rare, and cost more anyway.
    """
    dtype = output.dtype
    values, ranks = masks
    if isinstance(module, nn.Conv2d):
        x, how = prepare_convolution(module, x)
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

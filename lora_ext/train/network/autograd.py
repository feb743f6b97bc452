"""The trainable low-rank update of a layer: y = output + scale · U·D·x as one autograd node for each layer.

Shapes, here and in `trainable_factors`:
    R: all ranks of a module; r: the ranks that are used in this step, the first r of R.
    down: D, (R, in) of Linear or (R, in, kh, kw) of Conv2d.
    up: Uᵀ, (R, out). Both factors are stored by rank, so that the first r ranks of both are views.
    low: D·x, (…, r) of Linear or (n, r, h', w') of Conv2d.

The node keeps x and `low` for the backward pass, but nothing of the output's size, and without x where D is
fixed (LoRA-FA). Only the ranks `first:last` get gradients (DyLoRA); they are passed in as Parameters that share the
factors' memory.

Where the layer's own `weight` is given (frozen, of the output's dtype), the output was computed without a graph. The
update is added in place, and the backward pass through the layer is part of the node. So the gradient of x is created
once, and the product itself adds the second part to it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.dylora import RankSelection


def scaled_matmul(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Computes scale · a·b in one product.

    Args:
        a: (m, k).
        b: (k, n).
        scale: The factor.

    Returns:
        (m, n).
    """
    if scale == 1.0:
        return a @ b
    return torch.addmm(a.new_empty(1, 1), a, b, beta=0, alpha=scale)


def split_by_parameter(grad: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Splits the gradient of some ranks into one gradient for each Parameter.

    Args:
        grad: (ranks, …).
        parameters: Parameters of (ranks of each, …), in order.

    Returns:
        Gradients in the Parameters' shapes and dtypes.
    """
    if len(parameters) == 1:
        return (grad.reshape(parameters[0].shape).to(parameters[0].dtype),)
    parts = grad.split([len(p) for p in parameters])
    return tuple(part.reshape(p.shape).to(p.dtype) for part, p in zip(parts, parameters, strict=True))


def prepare_forward(
    output: Tensor | tuple[Tensor], down: Tensor, up: Tensor, selection: RankSelection
) -> tuple[bool, Tensor, Tensor, Tensor]:
    """Prepares the output and the factors of a forward pass.

    Args:
        output: The layer's output as a tensor of the graph, or a tuple with one that may be written to.
        down: D, (R, in[, kh, kw]).
        up: Uᵀ, (R, out).
        selection: The ranks that are used.

    Returns:
        (whether the output may be written to, the output, D (r, in[, kh, kw]) and Uᵀ (r, out) in the output's dtype).
    """
    in_place = isinstance(output, tuple)
    out = output[0].detach() if isinstance(output, tuple) else output
    return in_place, out, down[: selection.active].to(out.dtype), up[: selection.active].to(out.dtype)


class LinearLoraFunction(torch.autograd.Function):
    """output + scale · U·D·x of a Linear layer.

    Shapes: x (…, in); output (…, out), or a tuple with one that may be written to; weight (out, in), (out, in, 1, 1) or
    None; down (R, in); up (R, out). See the module's docstring.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor | tuple[Tensor],
        weight: Tensor | None,
        down: Tensor,
        up: Tensor,
        selection: RankSelection,
        *trained: Tensor,
    ) -> Tensor:
        """The sum, (…, out). `trained`: the Parameters of the trained ranks of D, followed by those of Uᵀ."""
        in_place, out, down, up = prepare_forward(output, down, up, selection)
        flat = x.reshape(-1, x.shape[-1]).to(out.dtype)
        low = flat @ down.t()
        ctx.save_for_backward(flat if trained[0].requires_grad else None, low)
        ctx.weight, ctx.down, ctx.up, ctx.selection, ctx.trained = weight, down, up, selection, trained
        ctx.x_shape, ctx.x_dtype = x.shape, x.dtype
        if in_place:
            out.view(-1, out.shape[-1]).addmm_(low, up, alpha=selection.scale)
            return out
        return torch.addmm(out.reshape(-1, out.shape[-1]), low, up, alpha=selection.scale).view(out.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, of output, and of the trained Parameters."""
        (grad,) = grads
        flat, low = ctx.saved_tensors
        selection: RankSelection = ctx.selection
        rows = slice(selection.first, selection.last)
        half = len(ctx.trained) // 2
        g = grad.reshape(-1, grad.shape[-1])
        low_grad = scaled_matmul(g, ctx.up.t(), selection.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            if ctx.weight is None:
                x_grad = low_grad @ ctx.down
            else:
                x_grad = (g @ ctx.weight.to(g.dtype).flatten(1)).addmm_(low_grad, ctx.down)
            x_grad = x_grad.to(ctx.x_dtype).view(ctx.x_shape)
        down_grad: tuple[Tensor | None, ...] = (None,) * half
        if flat is not None:
            down_grad = split_by_parameter(low_grad[:, rows].t() @ flat, ctx.trained[:half])
        up_grad = split_by_parameter(scaled_matmul(low[:, rows].t(), g, selection.scale), ctx.trained[half:])
        return x_grad, None if ctx.weight is not None else grad, None, None, None, None, *down_grad, *up_grad


class ConvLoraFunction(torch.autograd.Function):
    """output + scale · U·D·x of a Conv2d layer without groups.

    Shapes: x (n, in, h, w); output (n, out, h', w'), or a tuple with one that may be written to; weight
    (out, in, kh, kw) or None; down (R, in, kh, kw); up (R, out); conv_options (stride, padding, dilation). See the
    module's docstring.
    """

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
        *trained: Tensor,
    ) -> Tensor:
        """The sum, (n, out, h', w'). `trained`: as for `LinearLoraFunction`."""
        in_place, out, down, up = prepare_forward(output, down, up, selection)
        image = x.to(out.dtype)
        low = F.conv2d(image, down, None, *conv_options)
        ctx.save_for_backward(image if trained[0].requires_grad else None, low)
        ctx.weight, ctx.down, ctx.up, ctx.selection, ctx.trained = weight, down, up, selection, trained
        ctx.conv_options, ctx.x_shape, ctx.x_dtype = conv_options, x.shape, x.dtype
        if out.is_contiguous():
            wide = up.t().expand(len(out), -1, -1)
            if in_place:
                out.flatten(2).baddbmm_(wide, low.flatten(2), alpha=selection.scale)
                return out
            return torch.baddbmm(out.flatten(2), wide, low.flatten(2), alpha=selection.scale).view(out.shape)
        add = F.conv2d(low, up.t()[:, :, None, None])
        return out.add_(add, alpha=selection.scale) if in_place else torch.add(out, add, alpha=selection.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, of output, and of the trained Parameters."""
        (grad,) = grads
        image, low = ctx.saved_tensors
        selection: RankSelection = ctx.selection
        rows = slice(selection.first, selection.last)
        half = len(ctx.trained) // 2
        flat = grad.flatten(2)
        low_grad = torch.matmul(ctx.up * selection.scale, flat).view_as(low)
        needs_x, trains_down = ctx.needs_input_grad[0], image is not None
        if image is None:
            image = grad.new_empty(1).expand(ctx.x_shape)  # only its shape is read
        x_grad, grad_of_down = conv_backward(low_grad, image, ctx.down, ctx.conv_options, (needs_x, trains_down))
        down_grad: tuple[Tensor | None, ...] = (None,) * half
        if trains_down:
            down_grad = split_by_parameter(grad_of_down[rows], ctx.trained[:half])
        if needs_x and ctx.weight is not None:
            x_grad = conv_backward(grad, image, ctx.weight.to(grad.dtype), ctx.conv_options, (True, False))[0].add_(
                x_grad
            )
        up_grad = torch.bmm(low[:, rows].flatten(2), flat.transpose(1, 2)).sum(0) * selection.scale
        return (
            None if x_grad is None else x_grad.to(ctx.x_dtype),
            None if ctx.weight is not None else grad,
            None, None, None, None, None,
            *down_grad,
            *split_by_parameter(up_grad, ctx.trained[half:]),
        )  # fmt: skip


def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, conv_options: Any, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Computes the gradients of a convolution.

    Args:
        grad: Of its output, (n, out, h', w').
        x: Its input, (n, in, h, w).
        weight: (out, in, kh, kw).
        conv_options: (stride, padding, dilation).
        wanted: Whether those of the input and of the weight are computed.

    Returns:
        (gradient of the input, gradient of the weight); None where not wanted.
    """
    stride, padding, dilation = conv_options
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0, 0], 1, [*wanted, False]
    )
    return found[0], found[1]


def frozen_weight(module: nn.Module) -> Tensor | None:
    """The weight of a layer whose backward pass the node may compute.

    Args:
        module: The layer.

    Returns:
        The weight of a plain, frozen Linear or Conv2d that nothing else hooks. None for other layers (quantised,
        computing in another dtype, hooked by others), which keep their own backward pass.
    """
    if type(module) is nn.Linear:
        plain = True
    else:
        plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    weight = module._parameters.get("weight") if plain else None
    alone = len(module._forward_hooks) == 1 and len(module._forward_pre_hooks) == 1 and not module._backward_hooks
    bias = module._parameters.get("bias")
    if weight is None or not alone or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    stored_so = weight.dtype is torch.float8_e4m3fn and "forward" in module.__dict__  # by `stored_weights`
    return weight if stored_so or weight.dtype in _COMPUTE_DTYPES else None


_COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def is_computed_in(weight: Tensor, x: Tensor) -> bool:
    """Whether a layer with this frozen weight computes in the weight's own dtype, or casts it from 8 bits."""
    return weight.dtype in (torch.float8_e4m3fn, autocast_dtype(x.device.type) or x.dtype)


def prepare_convolution(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[Any, Any, Any]]:
    """Applies a convolution's padding that `F.conv2d` does not know.

    Args:
        module: The layer.
        x: Its input, (n, in, h, w).

    Returns:
        (input, padded unless the padding is zeros, (stride, padding, dilation)).
    """
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
        return x, (module.stride, (0, 0), module.dilation)
    padding = module.padding
    if isinstance(padding, str):
        same = [d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        padding = (0, 0) if padding == "valid" else (same[0], same[1])
    return x, (module.stride, padding, module.dilation)


def is_product_of_pixels(module: nn.Conv2d, x: Tensor, output: Tensor) -> bool:
    """Whether a convolution is one product of its pixels: a 1x1 kernel on images whose channels are last in memory.

    Args:
        module: The layer.
        x: Its input, (n, in, h, w).
        output: Its output, (n, out, h, w).
    """
    plain = module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0)
    return plain and all(image.is_contiguous(memory_format=torch.channels_last) for image in (x, output))


def forward_with_dropout(
    module: nn.Module, x: Tensor, output: Tensor, down: Tensor, up: Tensor, scale: float, masks: tuple[Any, Any]
) -> Tensor:
    """Computes output + scale · U·D·x with dropout of the values between the factors, by plain autograd.

    Dropouts are rare and cost more anyway, so they have no node of their own.

    Args:
        module: The layer.
        x: Its input, (…, in) or (n, in, h, w).
        output: Its output, (…, out) or (n, out, h', w').
        down: D of the ranks that are used, (r, in[, kh, kw]), in the graph.
        up: Uᵀ of those ranks, (r, out), in the graph.
        scale: Factor on U·D.
        masks: (low → mask of its shape, or None; low → mask (n, r), or None).

    Returns:
        The sum, in the output's shape and dtype.
    """
    dtype = output.dtype
    values, ranks = masks
    if isinstance(module, nn.Conv2d):
        x, conv_options = prepare_convolution(module, x)
        low = F.conv2d(x.to(dtype), down.to(dtype), None, *conv_options)
        extra: tuple[int, ...] = (1, 1)
    else:
        low = F.linear(x.to(dtype), down.to(dtype))
        extra = ()
    if values is not None:
        low = low * values(low)
    if ranks is not None:
        mask = ranks(low)
        between = () if extra else (1,) * (low.dim() - 2)
        low = low * mask.view(len(mask), *between, mask.shape[1], *extra)
    if extra:
        return torch.add(output, F.conv2d(low, up.t().to(dtype)[:, :, None, None]), alpha=scale)
    return torch.add(output, low @ up.to(dtype), alpha=scale)


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype in which autocast computes Linear and Conv2d on a kind of device ("cuda", "cpu"); None if it is off."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == "cpu":  # torch before 2.4
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if device == "cuda" and torch.is_autocast_enabled() else None

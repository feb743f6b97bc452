"""`TrainableAdapter`: any kind of adapter whose tensors are trained; ΔW is the very one that is applied from a file.

The node of a layer computes ΔW anew in the backward pass, so that nothing of a weight's size is kept between the two.
LoKr, LoHa and DoRA have nodes of their own (`products_of_kinds`), which mostly need no ΔW at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...adapters import Adapter, Oft
from ...adapters.lora import UP
from .autograd import conv_backward, frozen_weight, is_computed_in, prepare_convolution
from .layer_products import LayerCall, LayerProduct, LayerProductFunction, ScratchMemory, exact_products
from .new_adapters import NewTensors
from .products_of_kinds import has_layer_product, layer_product
from .trainable_layer import TrainableLayer, wrong_kind


@dataclass(frozen=True)
class _StepState:
    """What ΔW depends on beside the trained tensors: the mask of its rows (out,) or None, and its weight."""

    mask: Tensor | None
    weight: float = 1.0


class TrainableAdapter(TrainableLayer):
    """The tensors of one layer, float32.

    Args:
        new: The tensors before the first step.
        alpha: LoRA alpha.
        base_weight: Returns the layer's own weight.
        scratch: Memory that layers share.

    Attributes:
        kind: The adapter's class.
        names: Suffixes of the trained tensors, in order.
        constant: Suffix → tensor that stays.
    """

    def __init__(
        self,
        new: NewTensors,
        alpha: float,
        base_weight: Callable[[], Tensor],
        scratch: ScratchMemory | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.constant, self.alpha = new.kind, new.constant, alpha
        self.names = tuple(new.trained)
        for name, tensor in new.trained.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(tensor))
        self.base_weight, self.scratch = base_weight, scratch or ScratchMemory()
        self._pending_input: tuple[Tensor, Tensor] | None = None
        self._pending_product: LayerProduct | None = None
        self._has_product: bool | None = None
        self._row_norms: Tensor | None = None

    # --- the adapter

    def trained_tensors(self) -> list[nn.Parameter]:
        """The trained tensors in the order of `names`."""
        return [self.get_parameter(name.replace(".", "_")) for name in self.names]

    def up_parameters(self) -> list[nn.Parameter]:
        """The up factor of LoRA with DoRA or a Tucker core."""
        return [p for name, p in zip(self.names, self.trained_tensors(), strict=True) if name == UP]

    def adapter(self, trained: Sequence[Tensor]) -> Adapter:
        """The adapter with these tensors as the trained ones."""
        return self.kind({**self.constant, **dict(zip(self.names, trained, strict=True))})

    def changes(self, trained: Sequence[Tensor], state: _StepState) -> tuple[Tensor, Tensor | None]:
        """Computes what is added to the layer's weight and bias, differentiable.

        Args:
            trained: The trained tensors.
            state: Of the step.

        Returns:
            (ΔW in the weight's shape, Δbias (out,) or None), float32.
        """
        adapter = self.adapter(trained)
        # the same ΔW in both passes and as from a file, where autocast would round its products
        with exact_products(trained[0].device.type):
            delta, bias = adapter.delta(self.base_weight().to(trained[0].device)), adapter.bias_delta()
        if state.mask is not None:
            delta = delta * state.mask.view(-1, *[1] * (delta.dim() - 1))
            bias = None if bias is None else bias * state.mask
        if state.weight != 1:
            delta, bias = delta * state.weight, None if bias is None else bias * state.weight
        return delta, bias

    def step_state(self) -> _StepState:
        """The state of the present step."""
        mask = None
        if self.training and self.seed is not None and self.rank_dropout:
            device = self.trained_tensors()[0].device
            generator = torch.Generator(device).manual_seed(self.seed)
            rows = self.base_weight().shape[0]
            mask = torch.empty(rows, device=device).bernoulli_(1 - self.rank_dropout, generator=generator)
        return _StepState(mask, self.step_weight)

    def delta(self) -> Tensor:
        """Computes ΔW in the shape of the layer's weight, differentiable."""
        return self.changes(self.trained_tensors(), self.step_state())[0]

    @torch.no_grad()
    def unscaled_square(self) -> Tensor:
        """Computes ‖ΔW‖² (Frobenius) at weight 1, 0-dim."""
        return self.changes(self.trained_tensors(), _StepState(None))[0].square().sum()

    def linear_tensors(self) -> list[Tensor]:
        """The trained tensors but those of a bias; only of kinds that are multilinear."""
        return [p for n, p in zip(self.names, self.trained_tensors(), strict=True) if n not in ("diff_b", "b_norm")]

    def to_adapter(self) -> Adapter:
        """The adapter that a file stores."""
        return self.adapter([p.detach().cpu().clone() for p in self.trained_tensors()])

    @torch.no_grad()
    def load_adapter(self, adapter: Adapter, shape: torch.Size) -> None:
        """Continues from an adapter of the same kind and sizes. Raises TrainError for others."""
        stored = [adapter.tensors.get(name) for name in self.names]
        pairs = list(zip(self.trained_tensors(), stored, strict=True))
        fits = all(t is not None and t.shape == p.shape for p, t in pairs)
        extra = adapter.tensors.keys() - set(self.names) - self.constant.keys()
        alike = isinstance(adapter, self.kind) and _is_alike(adapter, self.adapter(self.trained_tensors()))
        if not fits or extra or not alike:
            raise wrong_kind(adapter, f"{self.kind.kind} with {', '.join(self.names)} of the recipe's sizes and alpha")
        for parameter, tensor in pairs:
            assert tensor is not None
            parameter.copy_(tensor)
        self._has_product = None

    # --- the hooks

    def _product(self, module: nn.Module, x: Tensor, weight: Tensor, state: _StepState) -> LayerProduct | None:
        """How the layer's output gets ΔW·x without ΔW; None for kinds and steps without such a way."""
        if state.mask is not None or not torch.is_grad_enabled():
            return None
        adapter = self.adapter(self.trained_tensors())
        if self._has_product is None:
            self._has_product = has_layer_product(adapter, weight.shape)
        if not self._has_product:
            return None
        bias, convolution = module._parameters["bias"], None
        if isinstance(module, nn.Conv2d):
            convolution = prepare_convolution(module, x)[1]
        call = LayerCall(weight, bias, convolution, state.weight, self.scratch)
        return layer_product(adapter, call, x, self._norms_of_rows)

    @torch.no_grad()
    def _norms_of_rows(self) -> Tensor:
        """‖W‖ of each row of the layer's own weight, (out,) float32, computed once."""
        if self._row_norms is None:
            weight = self.base_weight().float()
            self._row_norms = torch.linalg.vector_norm(weight.flatten(1), dim=1).to(self.trained_tensors()[0].device)
        return self._row_norms

    def before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: the layer runs without a graph where the node computes its backward pass.

        In float32 it may run with W + ΔW, which costs one product instead of two. In half precision ΔW would be lost in
        the rounding of W, so that its product is added to the output.
        """
        self._pending_input = self._pending_product = None
        if self.training and self.skipped:
            return None
        x = args[0]
        weight = frozen_weight(module)
        if weight is None or not is_computed_in(weight, x):
            return None
        trained, state = self.trained_tensors(), self.step_state()
        product = self._pending_product = self._product(module, x, weight, state)
        # attributes of the instance hide the Parameters until the hook after the layer
        if product is not None and product.is_merged:
            with torch.no_grad(), exact_products(x.device.type):
                module.__dict__["weight"] = product.merged(product.parts(self.adapter(trained)))
        elif product is None and weight.dtype in (torch.float32, torch.float64):
            with torch.no_grad():
                delta, bias = self.changes(trained, state)
                module.__dict__["weight"] = weight + delta.to(weight.dtype)
                if bias is not None:
                    own = module._parameters["bias"]
                    module.__dict__["bias"] = bias.to(weight.dtype) if own is None else own + bias.to(weight.dtype)
        self._pending_input = (x, weight)
        return (x.detach(), *args[1:])

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        """Forward hook: the layer's output with W + ΔW. It is called also where the layer raised."""
        is_merged = module.__dict__.pop("weight", None) is not None
        module.__dict__.pop("bias", None)
        pending, product = self._pending_input, self._pending_product
        self._pending_input = self._pending_product = None
        if output is None or (self.training and self.skipped):
            return None
        trained, state = self.trained_tensors(), self.step_state()
        if pending is not None and product is not None:
            return LayerProductFunction.apply(pending[0], (output,), product, self.adapter, *trained)
        if not isinstance(module, nn.Conv2d) and len(self.base_weight().shape) == 1:
            return _add_norm(module, args[0], output, *self.changes(trained, state))
        x, base = pending or (args[0], None)
        convolution = prepare_convolution(module, x)[1] if isinstance(module, nn.Conv2d) else None
        if isinstance(module, nn.Conv2d):
            x = prepare_convolution(module, x)[0]
        call = _LayerCall(self, state, None if is_merged else base, is_merged, convolution)
        return AdapterFunction.apply(x, output, call, *trained)


def _is_alike(a: Adapter, b: Adapter) -> bool:
    """Whether equal tensors mean the same change in both: alpha / rank, OFT's constraint, the side that IA3 scales."""
    numbers = [
        (x.scaling(), (x.alpha or 0.0) if isinstance(x, Oft) else 0.0, float(x.tensors.get("on_input", 0)))
        for x in (a, b)
    ]
    return all(math.isclose(x, y, rel_tol=1e-3) for x, y in zip(*numbers, strict=True))


def _add_norm(module: nn.Module, x: Tensor, output: Tensor, delta: Tensor, bias: Tensor | None) -> Tensor:
    """Adds the change of a norm's output: norms are linear in their weight and bias."""
    if isinstance(module, nn.GroupNorm):
        # not by group_norm's own weight: where x is channels-last and needs no gradient, torch 2.13's CPU kernel writes
        # the weight's through a null pointer
        normed, axes = F.group_norm(x, module.num_groups, eps=module.eps), (-1, *[1] * (x.dim() - 2))
    else:
        assert isinstance(module, nn.LayerNorm)
        normed, axes = F.layer_norm(x, module.normalized_shape, eps=module.eps), (-1,)
    change = normed * delta.to(x.dtype).view(axes)
    return output + (change if bias is None else change + bias.to(x.dtype).view(axes))


@dataclass(frozen=True)
class _LayerCall:
    """One call of a layer.

    Attributes:
        layer: The trained part.
        state: Of the step.
        weight: The layer's own weight, where the output was computed with it and without a graph; else None.
        is_merged: Whether the output was computed with W + ΔW, without a graph.
        convolution: (stride, padding, dilation) of a convolution; None for Linear.
    """

    layer: TrainableAdapter
    state: _StepState
    weight: Tensor | None
    is_merged: bool
    convolution: tuple[Any, Any, Any] | None

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's product."""
        if self.convolution is None:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, *self.convolution)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> tuple[Any, Any]:
        """Gradients of the product's input and weight, those that are needed."""
        if self.convolution is not None:
            return conv_backward(grad, x, weight, self.convolution, needs)
        flat = grad.reshape(-1, grad.shape[-1])
        return (
            (flat @ weight).view(x.shape) if needs[0] else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if needs[1] else None,
        )


class AdapterFunction(torch.autograd.Function):
    """The output of a layer with W + ΔW; ΔW is computed anew in the backward pass.

    Shapes: x (…, in) or (n, in, h, w); output (…, out) or (n, out, h', w').
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, call: _LayerCall, *trained: Tensor) -> Tensor:
        """The output, (…, out) or (n, out, h', w')."""
        ctx.call, ctx.x_dtype = call, x.dtype
        x = x.to(output.dtype)
        ctx.save_for_backward(x, *trained)
        if call.is_merged:
            return output.view_as(output)
        delta, bias = call.layer.changes(trained, call.state)
        dtype = output.dtype
        return output + call.product(x, delta.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of x, of output where it has a graph, and of the trained tensors."""
        (grad,) = grads
        x, *trained = ctx.saved_tensors
        call: _LayerCall = ctx.call
        leaves = [tensor.detach().requires_grad_() for tensor in trained]
        with torch.enable_grad():
            delta, bias = call.layer.changes(leaves, call.state)
        needs_x = ctx.needs_input_grad[0]
        with torch.no_grad():
            half = delta.detach().to(grad.dtype)
            whole = call.layer.base_weight().to(grad) + half if call.is_merged else half
            x_grad, weight_grad = call.backward(grad, x, whole, (needs_x, True))
            if needs_x and call.weight is not None:
                x_grad = x_grad + call.backward(grad, x, call.weight.to(grad.dtype), (True, False))[0]
        roots, root_grads = [delta], [weight_grad.reshape(delta.shape).to(delta.dtype)]
        if bias is not None:
            over = [
                axis for axis in range(grad.dim()) if axis != (1 if call.convolution is not None else grad.dim() - 1)
            ]
            roots, root_grads = [*roots, bias], [*root_grads, grad.sum(over).to(bias.dtype)]
        found = torch.autograd.grad(roots, leaves, root_grads)
        has_graph = call.weight is None and not call.is_merged
        return None if x_grad is None else x_grad.to(ctx.x_dtype), grad if has_graph else None, None, *found

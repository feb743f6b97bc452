"""`LayerProduct` of LoKr, LoHa and DoRA: gradients from their factors, without one of a weight's size if that is slow.

T is the number of a layer's inputs in a call: tokens, or pixels of all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...adapters import Adapter, LoHa, LoKr, Lora
from ...adapters.base import magnitude_axis, matrix_shape
from .autograd import conv_backward
from .layer_products import LayerCall, LayerProduct

_BLOCK = 2**16
"""Numbers of a block of rows that stays in a CPU's cache."""


class KroneckerProduct(LayerProduct):
    """LoKr: ΔW = w1 ⊗ w2, so that x as (c, d) gives w1·x·w2ᵀ (a, b); the parts are w1 · scale and w2.

    Shapes: w1 (a, c), w2 (b, d) or (b, d, kh, kw); the weight (a·b, c·d[, kh, kw]).
    """

    def parts(self, adapter: Adapter) -> tuple[Tensor, ...]:
        """(w1 · scale, w2)."""
        assert isinstance(adapter, LoKr)
        left, right = adapter.sides(self.call.weight)
        return left * (adapter.scaling() * self.call.factor), right.unflatten(1, (-1, *self.call.weight.shape[2:]))

    @staticmethod
    def _outer(x: Tensor, outer: int) -> Tensor:
        """(…, outer·inner) of Linear → (outer, T·inner)."""
        return x.reshape(-1, outer, x.shape[-1] // outer).transpose(0, 1).reshape(outer, -1)

    def add(self, x: Tensor, out: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adds w1·x·w2ᵀ."""
        left, right = (part.to(out.dtype) for part in parts)
        (a, c), b = left.shape, len(right)
        if self.call.convolution is not None:
            mixed = torch.matmul(left, x.reshape(len(x), c, -1)).view(-1, x.shape[1] // c, *x.shape[2:])
            out += F.conv2d(mixed, right, None, *self.call.convolution).view(out.shape)
            return ()
        mixed = (left @ self._outer(x, c)).view(-1, right.shape[1])
        out.view(-1, a, b).add_((mixed @ right.t()).view(a, -1, b).transpose(0, 1))
        return ()

    def gradients(
        self, grad: Tensor, x: Tensor, parts: Sequence[Tensor], kept: Sequence[Tensor], needs_x: bool
    ) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Gradients of x, w1 and w2."""
        left, right = (part.to(grad.dtype) for part in parts)
        (a, c), b = left.shape, len(right)
        x_grad = self.call.input_gradient(grad, x, self.merged(parts) if self.is_merged else None) if needs_x else None
        thin = None if self.is_merged else x_grad
        if self.call.convolution is not None:
            images = x.reshape(len(x), c, -1)
            mixed = torch.matmul(left, images).view(-1, x.shape[1] // c, *x.shape[2:])
            outer = grad.reshape(-1, b, *grad.shape[2:])
            mixed_grad, right_grad = conv_backward(outer, mixed, right, self.call.convolution, (True, True))
            mixed_grad = mixed_grad.view(len(x), a, -1)
            left_grad = torch.matmul(mixed_grad, images.transpose(1, 2)).sum(0)
            if thin is not None:
                thin += torch.matmul(left.t(), mixed_grad).view(x.shape)
            return x_grad, (left_grad, right_grad)
        inner, outer = self._outer(x, c), self._outer(grad, a).view(-1, b)
        right_grad = outer.t() @ (left @ inner).view(len(outer), -1)
        mixed_grad = (outer @ right).view(a, -1)
        left_grad = mixed_grad @ inner.t()
        if thin is not None:
            d = x.shape[-1] // c
            thin.view(-1, c, d).add_((left.t() @ mixed_grad).view(c, -1, d).transpose(0, 1))
        return x_grad, (left_grad, right_grad)


class KroneckerMerged(KroneckerProduct):
    """LoKr with many inputs, in float32: the output and the gradient of x are with W + ΔW."""

    is_merged = True

    def merged(self, parts: Sequence[Tensor]) -> Tensor:
        """W + ΔW."""
        (left, right), weight = parts, self.call.weight
        whole = self.call.scratch.take("merged", weight)
        (a, c), b = left.shape, len(right)
        sides = left[:, None, :, None], right.reshape(1, b, 1, -1)
        torch.addcmul(weight.reshape(a, b, c, -1), *sides, out=whole.view(a, b, c, -1))
        return whole

    def add(self, x: Tensor, out: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Nothing: the output is with W + ΔW."""
        return ()


def _hadamard_factors(adapter: Adapter, factor: float) -> tuple[Tensor, ...]:
    """w1_a (out, r) with the scale, w1_b (r, in·kh·kw), w2_a and w2_b of a LoHa, float32."""
    a1, *others = (adapter.tensors[f"hada_w{side}_{letter}"].float() for side in (1, 2) for letter in "ab")
    return a1 * (adapter.scaling() * factor), *others


class HadamardColumns(LayerProduct):
    """LoHa with few inputs: ΔW = U·D of rank r², the products of both sides' columns and of their rows.

    The parts are the four factors, the first with the scale.
    """

    def parts(self, adapter: Adapter) -> tuple[Tensor, ...]:
        """(w1_a · scale, w1_b, w2_a, w2_b)."""
        return _hadamard_factors(adapter, self.call.factor)

    @staticmethod
    def _low_rank(parts: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Uᵀ (r², out) and D (r², in·kh·kw)."""
        a1, b1, a2, b2 = parts
        return row_products(a1.t(), a2.t()).to(dtype), row_products(b1, b2).to(dtype)

    def add(self, x: Tensor, out: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Adds U·D·x; keeps D·x."""
        up, down = self._low_rank(parts, out.dtype)
        low = self.call.product(x, self.call.kernel(down))
        add_up_product(self.call, out, up, low)
        return (low,)

    def gradients(
        self, grad: Tensor, x: Tensor, parts: Sequence[Tensor], kept: Sequence[Tensor], needs_x: bool
    ) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Gradients of x and of the four factors."""
        a1, b1, a2, b2 = parts
        up, down = self._low_rank(parts, grad.dtype)
        x_grad = self.call.input_gradient(grad, x) if needs_x else None
        up_grad, down_grad = low_rank_gradients(self.call, grad, x, up, down, kept[0], x_grad)
        a1_grad, a2_grad = row_product_gradients(up_grad.float(), a1.t(), a2.t())
        b1_grad, b2_grad = row_product_gradients(down_grad.float().flatten(1), b1, b2)
        return x_grad, (a1_grad.t(), b1_grad, a2_grad.t(), b2_grad)


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """The products of each row of one matrix with each of another.

    Args:
        a: (r, n).
        b: (s, n).

    Returns:
        (r·s, n).
    """
    return (a.contiguous()[:, None] * b.contiguous()[None]).flatten(0, 1)


def row_product_gradients(grad: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `row_products`.

    Args:
        grad: Of the products, (r·s, n).
        a: (r, n).
        b: (s, n).

    Returns:
        Those of a and b.
    """
    a, b, grad = a.contiguous(), b.contiguous(), grad.unflatten(0, (len(a), len(b)))
    if grad.device.type != "cpu":
        return (grad * b).sum(1), (grad * a[:, None]).sum(0)
    a_grad, b_grad = torch.empty_like(a), torch.zeros_like(b)
    for row, (of_row, factor) in enumerate(zip(grad, a, strict=True)):  # each stays in the cache
        torch.sum(of_row * b, 0, out=a_grad[row])
        b_grad.addcmul_(of_row, factor)
    return a_grad, b_grad


def add_up_product(call: LayerCall, out: Tensor, up: Tensor, low: Tensor) -> None:
    """Adds U·low to an output in place.

    Args:
        call: The layer's call.
        out: (…, out) or (n, out, h, w).
        up: Uᵀ, (r, out).
        low: (…, r) or (n, r, h, w).
    """
    if call.convolution is None:
        out.view(-1, out.shape[-1]).addmm_(low.reshape(-1, len(up)), up)
    elif out.is_contiguous():
        out.flatten(2).baddbmm_(up.t().expand(len(out), -1, -1), low.flatten(2))
    else:
        out += F.conv2d(low, up.t()[:, :, None, None])


def low_rank_gradients(
    call: LayerCall, grad: Tensor, x: Tensor, up: Tensor, down: Tensor, low: Tensor, x_grad: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of U·D·x.

    Args:
        call: The layer's call.
        grad: Of the output.
        x: The input.
        up: Uᵀ, (r, out).
        down: D, (r, in·kh·kw).
        low: D·x.
        x_grad: That of x is added to this one.

    Returns:
        (that of Uᵀ, that of D).
    """
    if call.convolution is not None:
        flat = grad.flatten(2)
        low_grad = torch.matmul(up, flat).view_as(low)
        thin, down_grad = conv_backward(low_grad, x, call.kernel(down), call.convolution, (x_grad is not None, True))
        if x_grad is not None:
            x_grad += thin
        up_grad = torch.bmm(low.flatten(2), flat.transpose(1, 2)).sum(0)
        return up_grad, down_grad.flatten(1)
    flat = grad.reshape(-1, grad.shape[-1])
    low_grad = flat @ up.t()
    if x_grad is not None:
        x_grad.view(-1, x.shape[-1]).addmm_(low_grad, down)
    return low.reshape(-1, len(up)).t() @ flat, low_grad.t() @ x.reshape(-1, x.shape[-1])


class HadamardMerged(LayerProduct):
    """LoHa with many inputs, in float32: W + ΔW and the gradient of ΔW, both in blocks of rows that stay in the cache.

    The parts are the four factors, the first with the scale.
    """

    is_merged = True

    def parts(self, adapter: Adapter) -> tuple[Tensor, ...]:
        """(w1_a · scale, w1_b, w2_a, w2_b)."""
        return _hadamard_factors(adapter, self.call.factor)

    def _blocks(self, a1: Tensor, b1: Tensor) -> list[slice]:
        rows = len(a1) if a1.is_cuda else max(_BLOCK // b1.shape[1], 1)
        return [slice(first, first + rows) for first in range(0, len(a1), rows)]

    def merged(self, parts: Sequence[Tensor]) -> Tensor:
        """W + ΔW."""
        a1, b1, a2, b2 = parts
        whole = self.call.scratch.take("merged", self.call.weight)
        flat, weight = whole.view(len(a1), -1), self.call.weight.flatten(1)
        for rows in self._blocks(a1, b1):
            torch.addcmul(weight[rows], a1[rows] @ b1, a2[rows] @ b2, out=flat[rows])
        return whole

    def add(self, x: Tensor, out: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Nothing: the output is with W + ΔW."""
        return ()

    def gradients(
        self, grad: Tensor, x: Tensor, parts: Sequence[Tensor], kept: Sequence[Tensor], needs_x: bool
    ) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Gradients of x and of the four factors."""
        a1, b1, a2, b2 = parts
        if self.call.convolution is None:
            weight_grad = self.call.scratch.take("gradient", self.call.weight)
            torch.mm(grad.reshape(-1, len(a1)).t(), x.reshape(-1, x.shape[-1]), out=weight_grad)
        else:
            weight_grad = conv_backward(grad, x, self.call.weight, self.call.convolution, (False, True))[1].flatten(1)
        whole = self.call.scratch.take("merged", self.call.weight)
        merged, weight = whole.view(len(a1), -1), self.call.weight.flatten(1)
        found = a1_grad, b1_grad, a2_grad, b2_grad = tuple(torch.zeros_like(part) for part in parts)
        for rows in self._blocks(a1, b1):
            one, two, of_delta = a1[rows] @ b1, a2[rows] @ b2, weight_grad[rows]
            if needs_x:
                torch.addcmul(weight[rows], one, two, out=merged[rows])
            of_one, of_two = two.mul_(of_delta), one.mul_(of_delta)
            torch.mm(of_one, b1.t(), out=a1_grad[rows])
            torch.mm(of_two, b2.t(), out=a2_grad[rows])
            b1_grad.addmm_(a1[rows].t(), of_one)
            b2_grad.addmm_(a2[rows].t(), of_two)
        return self.call.input_gradient(grad, x, whole) if needs_x else None, found


class DoraProduct(LayerProduct):
    """DoRA of a LoRA, one norm for each output: c ∘ (W + U·D)·x with c = m / n and n² = ‖W‖² + ⟨2·W·Dᵀ + U·D·Dᵀ, U⟩.

    Sums over each row. So the norms of W + U·D need W·Dᵀ (out, r), and not the sum. U has the scale, m (out,).

    Args:
        call: The call.
        row_norms: ‖W‖ of each row, (out,) float32.
    """

    def __init__(self, call: LayerCall, row_norms: Tensor) -> None:
        super().__init__(call)
        self.row_norms = row_norms

    def parts(self, adapter: Adapter) -> tuple[Tensor, ...]:
        """(Uᵀ, D, m)."""
        assert isinstance(adapter, Lora)
        low, magnitude = adapter.factors(), adapter.magnitude()
        assert magnitude is not None
        return low.up.float().t() * adapter.scaling(), low.down.float().flatten(1), magnitude.float().flatten()

    def _per_output(self, vector: Tensor, like: Tensor) -> Tensor:
        """(out,) in the dtype and along the outputs of (…, out) or (n, out, h, w)."""
        vector = vector.to(like.dtype)
        return vector if self.call.convolution is None else vector.view(-1, 1, 1)

    def add(self, x: Tensor, out: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Scales the output and adds c ∘ U·D·x; keeps D·x, the output, c, n and D·Wᵀ."""
        up, down, magnitude = parts
        weight = self.call.weight.flatten(1)
        rows = len(weight) if weight.is_cuda else 1024  # a CPU's product with all rows at once takes twice as long
        products = torch.cat([some.to(down.dtype) @ down.t() for some in weight.split(rows)]).t()
        squares = self.row_norms.square() + ((2 * products + down @ down.t() @ up) * up).sum(0)
        norms = squares.clamp(min=torch.finfo(squares.dtype).eps ** 2).sqrt()
        gain = magnitude / norms
        low = self.call.product(x, self.call.kernel(down).to(out.dtype))
        # c − 1 and not c, which half precision would round to 1
        more = self._per_output(gain - 1, out)
        out.addcmul_(out, more)
        if self.call.bias is not None:
            out.sub_(more * self._per_output(self.call.bias, out))
        add_up_product(self.call, out, (gain * up).to(out.dtype), low)
        return low, out, gain, norms, products

    def gradients(
        self, grad: Tensor, x: Tensor, parts: Sequence[Tensor], kept: Sequence[Tensor], needs_x: bool
    ) -> tuple[Tensor | None, Sequence[Tensor]]:
        """Gradients of x, U, D and m; those of U and D also through the norms."""
        up, down, magnitude = parts
        low, out, gain, norms, products = kept
        over = [axis for axis in range(grad.dim()) if axis != (grad.dim() - 1 if self.call.convolution is None else 1)]
        along = (grad * out).sum(over, dtype=torch.float32)  # ⟨g, c ∘ (W + U·D)·x⟩ for each output
        if self.call.bias is not None:
            along -= self.call.bias * grad.sum(over, dtype=torch.float32)
        of_squares = torch.where(norms > torch.finfo(norms.dtype).eps, -along / (2 * norms.square()), 0)
        scaled, x_grad, through = self._through_weight(grad, x, gain, of_squares * up, needs_x)
        thin = up.to(grad.dtype), down.to(grad.dtype)
        up_grad, down_grad = low_rank_gradients(self.call, scaled, x, *thin, low, x_grad)
        up_grad = up_grad.float() + 2 * of_squares * (products + down @ down.t() @ up)
        down_grad = down_grad.float() + 2 * (through + (of_squares * up) @ up.t() @ down)
        return x_grad, (up_grad, down_grad, along / magnitude)

    def _through_weight(
        self, grad: Tensor, x: Tensor, gain: Tensor, rows: Tensor, needs_x: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """(c ∘ grad, its gradient of x through W or None, rows·W); rows: (r, out)."""
        weight = self.call.weight
        if (
            self.call.convolution is not None
            or not needs_x
            or grad.dtype != torch.float32
            or grad.dtype != weight.dtype
        ):
            scaled = grad * self._per_output(gain, grad)
            x_grad = self.call.input_gradient(scaled, x) if needs_x else None
            return scaled, x_grad, rows @ weight.to(rows.dtype).flatten(1)
        flat = grad.reshape(-1, grad.shape[-1])
        both = flat.new_empty(len(flat) + len(rows), flat.shape[1])
        scaled = torch.mul(flat, gain, out=both[: len(flat)])
        both[len(flat) :] = rows
        x_grad, through = (both @ weight).split([len(flat), len(rows)])
        return scaled, x_grad.view(x.shape), through


def has_layer_product(adapter: Adapter, shape: torch.Size) -> bool:
    """Whether a kind has a `LayerProduct`: LoKr, and LoHa and LoRA without more than one of Tucker cores and DoRA.

    Args:
        adapter: The adapter.
        shape: Of the layer's weight.

    Returns:
        False where its ΔW is made as it is applied from a file.
    """
    names, magnitude = adapter.tensors.keys(), adapter.magnitude()
    if len(shape) == 1:
        return False
    if isinstance(adapter, Lora):
        return magnitude is not None and magnitude_axis(magnitude.shape, shape) == 0 and bool((magnitude != 0).all())
    if isinstance(adapter, LoHa):
        return magnitude is None and not names & {"hada_t1", "hada_t2"}
    return isinstance(adapter, LoKr) and magnitude is None


def layer_product(adapter: Adapter, call: LayerCall, x: Tensor, row_norms: Callable[[], Tensor]) -> LayerProduct | None:
    """Chooses how a layer's output gets ΔW·x, for kinds with `has_layer_product`.

    Args:
        adapter: The adapter.
        call: The layer's call.
        x: The input, (…, in) or (n, in, h, w).
        row_norms: Returns ‖W‖ of each row, (out,) float32.

    Returns:
        The quickest way; None where ΔW is best made as it is applied from a file.
    """
    if isinstance(adapter, Lora):
        return DoraProduct(call, row_norms()) if call.factor == 1 else None
    inputs = x.numel() // x.shape[-1 if call.convolution is None else 1]
    out, inner = matrix_shape(call.weight.shape)
    if isinstance(adapter, LoKr):
        # two passes over the weight, or copies of the inputs and outputs with their axes exchanged
        few = out * inner > 1.5 * inputs * (out + inner)
        return KroneckerProduct(call) if few or call.weight.dtype != torch.float32 else KroneckerMerged(call)
    rank = adapter.rank
    assert rank is not None
    # multiplications, and passes over what has the size of the factors or of the weight
    if rank**2 * (out + inner) * (3 * inputs + 120) < out * inner * (inputs + 8 * rank + 60):
        return HadamardColumns(call)
    return HadamardMerged(call) if call.weight.dtype == torch.float32 else None

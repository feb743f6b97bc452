"""`ForwardHook` adds ΔW·x to the output of a layer. Nothing in the model changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..lowrank import LowRank
from .applied_adapter import AppliedAdapter, StepWeight, sum_bias_deltas, weight_shape
from .batch_rows import expand_to_rows, sets_of_rows
from .condition_rows import ConditionRows
from .place import PlaceGain
from .row_groups import JoinedFactors, RowGroup

DenseDelta: TypeAlias = "tuple[Tensor, Tensor | None, PlaceGain | None]"


class ForwardHook:
    """A forward hook on a Linear, Conv2d or norm that adds ΔW·x (and Δbias) to the output.

    Attributes:
        applied: the adapters.
        weights: the weight of each adapter that the gains were computed with.
        low_rank_forms: for each adapter its ΔW at weight 1, or None.
        factors: the low-rank forms concatenated, and in which rows of a batch each of them acts; None without any.
        dense: ΔW of the other kinds (out, in, *kernel), each with its weights (batch,), or None where the weight is
            multiplied in already, and with its place.
        bias_shifts: Δbias, (out,) or (batch, out), with its place.
        place_gains: where files act in parts of the picture, the factors of the thin channels by shape, device and
            dtype of the thin output; None where all act everywhere.
        is_idle: whether all weights are 0.
        condition_rows: which of several weights each row of the batch has; None for one weight for each image.
    """

    def __init__(self, module: nn.Module) -> None:
        shape = weight_shape(module)
        assert shape is not None
        self.module, self._shape = module, shape
        self.applied: tuple[AppliedAdapter, ...] = ()
        self.weights: tuple[float | Tensor, ...] = ()
        self.low_rank_forms: list[LowRank | None] = []
        self.factors: JoinedFactors | None = None
        self.dense: list[DenseDelta] = []
        self.bias_shifts: list[tuple[Tensor, PlaceGain | None]] = []
        self.place_gains: dict[tuple[object, ...], Tensor] | None = None
        self.is_idle = True
        self._has_bias = False
        self._is_scheduled = False
        self._step_values: tuple[float, ...] = ()
        self.condition_rows: ConditionRows | None = None
        self.handle = module.register_forward_hook(self.hook)

    def remove(self) -> None:
        """Removes the hook."""
        self.handle.remove()

    def update(self, applied: tuple[AppliedAdapter, ...], read_weight: Callable[[], Tensor | None]) -> None:
        """Replaces the adapters. Where only weights differ, only gains are computed again.

        Args:
            applied: the adapters.
            read_weight: returns the layer's own weight, which kinds without a low-rank form need; not called for
                others, since a quantised weight has to be dequantised.
        """
        if len(applied) != len(self.applied) or not all(map(AppliedAdapter.is_same_adapter, applied, self.applied)):
            self.low_rank_forms = [one.low_rank(self._shape) for one in applied]
            self._has_bias = any(one.adapter.bias_delta() is not None for one in applied)
            plain = [form for form in self.low_rank_forms if form is not None]
            self.factors = JoinedFactors(plain) if plain else None
        self.applied = applied
        self.place_gains = {} if any(one.place is not None for one in applied) else None
        self._is_scheduled = any(one.step_weight is not None for one in applied)
        self._set_weights()
        kinds = [one.at_present() for one, form in zip(applied, self.low_rank_forms, strict=True) if form is None]
        dense = [one for one in kinds if one.is_acting()]
        self.dense = _dense(dense, read_weight() if dense else None)

    def follows(self, step_weight: StepWeight) -> bool:
        """Whether a change of a step weight is all that the hook needs: its adapters are here in low-rank form.

        Args:
            step_weight: the weight that changes.
        """
        own = [form for one, form in zip(self.applied, self.low_rank_forms, strict=True)
               if one.step_weight is step_weight]  # fmt: skip
        return bool(own) and None not in own

    def _set_weights(self) -> None:
        """Takes over the adapters' weights at the present step: gains and Δbias are computed again."""
        self._step_values = self._present_step_values()
        present = [one.at_present() for one in self.applied]
        self.weights = tuple(one.weight for one in present)
        acting = [one for one in present if one.is_acting()]
        self.is_idle = not acting
        self.condition_rows = next((one.condition_rows for one in self.applied if one.condition_rows is not None), None)
        if self.factors is not None:
            self.factors.keeps_units = self._is_scheduled
            own = zip(self.weights, self.low_rank_forms, strict=True)
            self.factors.set_weights([weight for weight, form in own if form is not None])
        self.bias_shifts = self._sum_bias_shifts(acting) if self._has_bias else []

    def _sum_bias_shifts(self, acting: list[AppliedAdapter]) -> list[tuple[Tensor, PlaceGain | None]]:
        """Δbias of the adapters that act in each place."""
        by_place: dict[PlaceGain | None, list[AppliedAdapter]] = {}
        for one in acting:
            by_place.setdefault(one.place, []).append(one)
        shifts = ((sum_bias_deltas(some, self._shape[0]), place) for place, some in by_place.items())
        return [(shift, place) for shift, place in shifts if shift is not None]

    def _present_step_values(self) -> tuple[float, ...]:
        """What changes from step to step."""
        return tuple(one.step_weight.value for one in self.applied if one.step_weight is not None)

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Returns output + ΔW·x (+ Δbias); None, which leaves the output as it is, where all weights are 0."""
        if self._is_scheduled and self._step_values != self._present_step_values():
            self._set_weights()
        if self.is_idle:
            return None
        x = args[0]
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return output + self._norm(module, x).to(output.dtype)
        if self.factors is not None:
            output = self._add_low(self.factors, module, x, output)
        for delta, weight, place in self.dense:
            dense = delta.to(x.device, x.dtype)
            more = convolve_like(module, x, dense) if is_convolution(module) else F.linear(x, dense)
            more = more if weight is None else more * self._spread(weight[:, None], more, -1)
            output = output + (more if place is None else more * place.factor(more))
        return self._add_bias(output, 1 if is_convolution(module) else -1)

    def _add_bias(self, output: Tensor, axis: int) -> Tensor:
        """Returns output + Δbias."""
        for shift, place in self.bias_shifts:
            more = self._spread(shift, output, axis)
            output = output + (more if place is None else more * place.factor(output))
        return output

    def _add_low(self, factors: JoinedFactors, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Returns output + U·(g·(D·x)), in place: two thin products for any number of files that act in a row."""
        dtype = output.dtype if output.is_floating_point() else x.dtype
        if output.requires_grad:  # autograd may have kept it
            output = output.clone()
        x = x.to(dtype)
        add = self._add_convolution if isinstance(module, nn.Conv2d) else self._add_product
        for group in factors.groups((x.device, dtype), self._sets_of_rows(factors.set_count, len(x))):
            add(module, x[group.rows], output[group.rows], group)
        return output

    def _sets_of_rows(self, count: int, size: int) -> tuple[int, ...] | None:
        """Which of several sets of weights each row of a call has; None for one set."""
        if count == 1:
            return None
        return sets_of_rows(count, size) if self.condition_rows is None else self.condition_rows.of_call(size)

    def _add_product(self, _: nn.Module, x: Tensor, output: Tensor, group: RowGroup) -> None:
        """Adds the product of a group's rows to them."""
        thin = self._scale_thin(F.linear(x, group.down), group, -1)
        if output.is_contiguous():
            output.view(-1, output.shape[-1]).addmm_(thin.reshape(-1, thin.shape[-1]), group.up.t(), alpha=group.scale)
        elif thin.dim() == 3:
            output.baddbmm_(thin, group.up.t().expand(len(thin), -1, -1), alpha=group.scale)
        else:
            output += F.linear(thin, group.up) * group.scale

    def _add_convolution(self, module: nn.Module, x: Tensor, output: Tensor, group: RowGroup) -> None:
        """Adds the convolution of a group's rows to them. Each group of outputs has its own thin channels."""
        assert isinstance(module, nn.Conv2d)
        groups, up = module.groups, group.up
        if groups == 1 and (module.kernel_size, module.stride, module.padding) == ((1, 1), (1, 1), (0, 0)):
            # a convolution would copy rows that are no neighbours, and order their channels anew
            thin = torch.matmul(group.down.flatten(1), x.flatten(2)).unflatten(2, x.shape[2:])
        else:
            thin = convolve_like(module, x, group.down.repeat(groups, 1, 1, 1) if groups > 1 else group.down)
        thin = self._scale_thin(thin, group, 1, groups)
        if groups > 1 or not output[0].is_contiguous():
            output += F.conv2d(thin, up[:, :, None, None], groups=groups) * group.scale
        else:
            output.flatten(2).baddbmm_(up.expand(len(thin), -1, -1), thin.flatten(2), alpha=group.scale)

    def _scale_thin(self, thin: Tensor, group: RowGroup, axis: int, groups: int = 1) -> Tensor:
        """Multiplies the thin channels by the gains of their rows and places."""
        if group.gain is not None:
            shape = [len(thin)] + [1] * (thin.dim() - 1)
            shape[axis] = -1
            thin = thin * group.gain.repeat(1, groups).view(shape)
        if self.place_gains is not None:
            place = self._place_gain(thin, group.forms)
            thin = thin * (place.repeat(groups, 1, 1) if groups > 1 else place)
        return thin.to(group.up.dtype)  # autocast may have chosen another dtype than the layer's output has

    def _place_gain(self, thin: Tensor, forms: tuple[int, ...]) -> Tensor:
        """The factors of the thin channels: (r, h, w), (tokens, r) or (r,), as `thin` has its axes."""
        assert self.place_gains is not None
        found = [(one.place, form.rank) for one, form in zip(self.applied, self.low_rank_forms, strict=True) if form]
        pairs = [found[form] for form in forms]
        states = tuple(place.state for place, _ in pairs if place is not None)
        key = (forms, thin.shape[1:], thin.device, thin.dtype, states)
        if key not in self.place_gains:
            factors = [(thin.new_ones(()) if place is None else place.factor(thin), rank) for place, rank in pairs]
            if thin.dim() == 4:
                parts = [factor.expand(rank, *thin.shape[2:]) for factor, rank in factors]
                self.place_gains[key] = torch.cat(parts)
            else:
                places = thin.shape[1:-1]
                self.place_gains[key] = torch.cat([factor.expand(*places, rank) for factor, rank in factors], dim=-1)
        return self.place_gains[key]

    def _norm(self, module: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
        """Computes the norm with Δweight and Δbias instead of weight and bias: a norm is linear in them."""
        axis = -1 if isinstance(module, nn.LayerNorm) else 1
        if isinstance(module, nn.LayerNorm):
            plain = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        else:
            plain = F.group_norm(x, module.num_groups, None, None, module.eps)
        total = torch.zeros_like(plain)
        for delta, weight, place in self.dense:
            rows = delta if weight is None else delta * weight.to(delta).unsqueeze(-1)
            more = plain * self._spread(rows, plain, axis)
            total = total + (more if place is None else more * place.factor(more))
        return self._add_bias(total, axis)

    def _spread(self, values: Tensor, like: Tensor, axis: int) -> Tensor:
        """Reshapes (n,), or (images or conditions, n), to be multiplied with `like`; see `_spread_rows`."""
        if values.dim() == 2 and self.condition_rows is not None:
            values = self.condition_rows.select(values, like.shape[0])
        return _spread_rows(values, like, axis)


def _dense(applied: list[AppliedAdapter], weight: Tensor | None) -> list[DenseDelta]:
    """(ΔW, weights (batch,), place) of kinds without a low-rank form; those that differ in nothing else are summed."""
    if not applied:
        return []
    assert weight is not None
    rows = [(one.acting_adapter.delta(weight), one.weight, one.place) for one in applied]
    plain = [delta * w for delta, w, place in rows if not isinstance(w, Tensor) and place is None]
    several: list[DenseDelta] = [(delta, w, place) for delta, w, place in rows if isinstance(w, Tensor)]
    several += [(delta * w, None, place) for delta, w, place in rows if not isinstance(w, Tensor) and place is not None]
    return [*several, (sum(plain[1:], plain[0]), None, None)] if plain else several


def _spread_rows(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """Reshapes (n,) or (images, n) to be multiplied with `like`, whose `axis` has length n, in its device and dtype.

    With classifier-free guidance the batch contains the images once for each condition. Raises FitError as
    `expand_to_rows`.
    """
    shape = [1] * like.dim()
    shape[axis] = -1
    if values.dim() == 2:
        values = expand_to_rows(values, like.shape[0])
        shape[0] = values.shape[0]
    return values.to(like.device, like.dtype).view(shape)


def is_convolution(module: nn.Module) -> bool:
    """Whether the layer's input is (batch, channels, height, width)."""
    return isinstance(module, nn.Conv2d)


def convolve_like(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Convolves with another weight, without bias, by the stride, padding, dilation and groups of a Conv2d.

    Args:
        module: a Conv2d.
        x (Tensor): (batch, in, height, width).
        weight (Tensor): (r, in/groups, kh, kw).

    Returns:
        Tensor (batch, r, height', width').
    """
    assert isinstance(module, nn.Conv2d)
    return module._conv_forward(x, weight, None)

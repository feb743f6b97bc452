"""`ForwardHook` adds ΔW·x to the output of a layer. Nothing in the model changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..lowrank import LowRank, concat
from .applied_adapter import AppliedAdapter, StepWeight, sum_bias_deltas, weight_shape
from .batch_rows import expand_to_rows
from .condition_rows import ConditionRows
from .place import PlaceGain

DeviceAndDtype: TypeAlias = "tuple[torch.device, torch.dtype]"
DenseDelta: TypeAlias = "tuple[Tensor, Tensor | None, PlaceGain | None]"


class ForwardHook:
    """A forward hook on a Linear, Conv2d or norm that adds ΔW·x (and Δbias) to the output.

    Attributes:
        applied: the adapters.
        weights: the weight of each adapter that the gains were computed with.
        low_rank_forms: for each adapter its ΔW at weight 1, or None.
        joined_low_rank: all low-rank forms concatenated, at weight 1; None without any.
        dense: ΔW of the other kinds (out, in, *kernel), each with its weights (batch,), or None where the weight is
            multiplied in already, and with its place.
        bias_shifts: Δbias, (out,) or (batch, out), with its place.
        place_gains: where files act in parts of the picture, the factors of the thin channels by shape, device and
            dtype of the thin output; None where all act everywhere.
        downs: D (r, in, *kernel) by device and dtype.
        unit_factors: by device U and, for each low-rank form, its g at weight 1; kept for scheduled weights.
        ups: by device and dtype U·diag(g) (out, r) and None, or U and g (batch, r) where g differs between images.
        is_idle: whether all weights are 0.
        condition_rows: which of several weights each row of the batch has; None for one weight for each image.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.applied: tuple[AppliedAdapter, ...] = ()
        self.weights: tuple[float | Tensor, ...] = ()
        self.low_rank_forms: list[LowRank | None] = []
        self.joined_low_rank: LowRank | None = None
        self.dense: list[DenseDelta] = []
        self.bias_shifts: list[tuple[Tensor, PlaceGain | None]] = []
        self.place_gains: dict[tuple[object, ...], Tensor] | None = None
        self.downs: dict[DeviceAndDtype, Tensor] = {}
        self.ups: dict[DeviceAndDtype, tuple[Tensor, Tensor | None]] = {}
        self.unit_factors: dict[torch.device, tuple[Tensor, list[Tensor]]] = {}
        self.is_idle = True
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
        shape = weight_shape(self.module)
        assert shape is not None
        if len(applied) != len(self.applied) or not all(map(AppliedAdapter.is_same_adapter, applied, self.applied)):
            self.low_rank_forms = [one.low_rank(shape) for one in applied]
            plain = [form for form in self.low_rank_forms if form is not None]
            self.joined_low_rank = concat(plain) if plain else None
            self.downs.clear()
            self.unit_factors.clear()
        self.applied = applied
        self.place_gains = {} if any(one.place is not None for one in applied) else None
        self._is_scheduled = any(one.step_weight is not None for one in applied)
        self._set_weights()
        dense = [
            one.at_present() for one, form in zip(applied, self.low_rank_forms, strict=True)
            if form is None and one.at_present().is_acting()
        ]  # fmt: skip
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
        self.weights = tuple(one.present_weight for one in self.applied)
        acting = [one for one in map(AppliedAdapter.at_present, self.applied) if one.is_acting()]
        self.is_idle = not acting
        self.condition_rows = next((one.condition_rows for one in self.applied if one.condition_rows is not None), None)
        self.ups.clear()
        shape = weight_shape(self.module)
        assert shape is not None
        by_place: dict[PlaceGain | None, list[AppliedAdapter]] = {}
        for one in acting:
            by_place.setdefault(one.place, []).append(one)
        shifts = ((sum_bias_deltas(some, shape[0]), place) for place, some in by_place.items())
        self.bias_shifts = [(shift, place) for shift, place in shifts if shift is not None]

    def _present_step_values(self) -> tuple[float, ...]:
        """What changes from step to step."""
        return tuple(one.step_weight.value for one in self.applied if one.step_weight is not None)

    def _gain_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns U and g at the present weights on a device: g is (r,), or (batch, r)."""
        assert self.joined_low_rank is not None
        factors = self.unit_factors.get(device)
        if factors is None:
            gains = [form.gain.to(device) for form in self.low_rank_forms if form is not None]
            factors = self.joined_low_rank.up.to(device), gains
            if self._is_scheduled:  # each step needs them again
                self.unit_factors[device] = factors
        up, gains = factors
        weights = [w for w, form in zip(self.weights, self.low_rank_forms, strict=True) if form is not None]
        return up, _side_by_side(list(zip(gains, weights, strict=True)))

    def _cast(self, target: DeviceAndDtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns D, U and g on the layer's device in its compute dtype, cached for the next call.

        g is None where all images share it: it is multiplied into U then, which saves a multiplication in each call.
        """
        assert self.joined_low_rank is not None
        if target not in self.downs:
            self.downs[target] = self.joined_low_rank.down.to(*target)
        if target not in self.ups:
            up, gain = self._gain_on(target[0])
            shared = gain.dim() == 1
            self.ups[target] = (
                ((up.float() * gain).to(target[1]), None) if shared else (up.to(target[1]), gain.to(target[1]))
            )
        return self.downs[target], *self.ups[target]

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Returns output + ΔW·x (+ Δbias); None, which leaves the output as it is, where all weights are 0."""
        if self._is_scheduled and self._step_values != self._present_step_values():
            self._set_weights()
        if self.is_idle:
            return None
        x = args[0]
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return output + self._norm(module, x).to(output.dtype)
        if self.joined_low_rank is not None:
            output = self._add_low(module, x, output)
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

    def _add_low(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """Returns output + U·(g·(D·x)): two thin products for any number of files."""
        dtype = output.dtype if output.is_floating_point() else x.dtype
        down, up, gain = self._cast((x.device, dtype))
        x = x.to(dtype)
        if not isinstance(module, nn.Conv2d):
            thin = F.linear(x, down)
            if gain is not None:
                thin = thin * self._spread(gain, thin, -1)
            if self.place_gains is not None:
                thin = thin * self._place_gain(thin)
            flat = torch.addmm(output.reshape(-1, output.shape[-1]), thin.reshape(-1, thin.shape[-1]), up.t())
            return flat.view_as(output)
        groups = module.groups  # each group of outputs has its own thin channels
        thin = convolve_like(module, x, down.repeat(groups, 1, 1, 1) if groups > 1 else down)
        if gain is not None:
            thin = thin * self._spread(gain.repeat(1, groups), thin, 1)
        if self.place_gains is not None:
            thin = thin * self._place_gain(thin).repeat(groups, 1, 1)
        if groups > 1 or not output.is_contiguous():
            return output + F.conv2d(thin, up[:, :, None, None], groups=groups)
        wide = torch.baddbmm(output.flatten(2), up.expand(len(thin), -1, -1), thin.flatten(2))
        return wide.view_as(output)

    def _place_gain(self, thin: Tensor) -> Tensor:
        """The factors of the thin channels: (r, h, w), (tokens, r) or (r,), as `thin` has its axes."""
        assert self.place_gains is not None
        pairs = [(one.place, form.rank) for one, form in zip(self.applied, self.low_rank_forms, strict=True) if form]
        states = tuple(place.state for place, _ in pairs if place is not None)
        key = (thin.shape[1:], thin.device, thin.dtype, states)
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


def _side_by_side(parts: list[tuple[Tensor, float | Tensor]]) -> Tensor:
    """Concatenates gains times weights: (R,), or (batch, R) where a weight is (batch,)."""
    gains = [gain * (w.unsqueeze(-1).to(gain.device) if isinstance(w, Tensor) else w) for gain, w in parts]
    size = max((gain.shape[0] for gain in gains if gain.dim() == 2), default=0)
    return torch.cat([gain.expand(size, -1) if size else gain for gain in gains], dim=-1)


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

"""The low-rank path beside a layer, as a forward hook. Nothing in the model changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import FitError
from ..lowrank import LowRank, concat
from .applied_adapter import AppliedAdapter, sum_bias_deltas, weight_shape

DeviceAndDtype: TypeAlias = "tuple[torch.device, torch.dtype]"


class ForwardHook:
    """For Linear, Conv2d and norms: a forward hook adds ΔW's part of the output."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.applied: tuple[AppliedAdapter, ...] = ()
        self.low_rank_forms: list[LowRank | None] = []
        self.joined_low_rank: LowRank | None = None
        self.dense: list[tuple[Tensor, Tensor | None]] = []
        """ΔW's without a low-rank form, each with its weight for each picture, None where that is in it already."""
        self.bias_shift: Tensor | None = None
        self.downs: dict[DeviceAndDtype, Tensor] = {}
        self.ups: dict[DeviceAndDtype, tuple[Tensor, Tensor | None]] = {}
        """U·diag(g) and None; U and g where g differs from picture to picture."""
        self.is_idle = True
        self.handle = module.register_forward_hook(self.hook)

    def remove(self) -> None:
        """Takes the hook off."""
        self.handle.remove()

    def update(self, applied: tuple[AppliedAdapter, ...], weight: Tensor | None) -> None:
        """Same pieces with new weights: only the gains move. Otherwise the factors are laid side by side anew."""
        shape = weight_shape(self.module)
        assert shape is not None
        if len(applied) != len(self.applied) or not all(map(AppliedAdapter.is_same_adapter, applied, self.applied)):
            self.low_rank_forms = [piece.low_rank(shape) for piece in applied]
            plain = [form for form in self.low_rank_forms if form is not None]
            self.joined_low_rank = concat(plain) if plain else None
            self.downs.clear()
        self.applied = applied
        acting = [piece for piece in applied if piece.is_acting()]
        self.is_idle = not acting
        self.ups.clear()
        if self.joined_low_rank is not None:
            rows = zip(applied, self.low_rank_forms, strict=True)
            gain = _side_by_side([(form.gain, piece.weight) for piece, form in rows if form is not None])
            self.joined_low_rank = replace(self.joined_low_rank, gain=gain)
        dense = [
            piece
            for piece, form in zip(applied, self.low_rank_forms, strict=True)
            if form is None and piece.is_acting()
        ]
        self.dense = _dense(dense, weight)
        self.bias_shift = sum_bias_deltas(acting, shape[0])

    def _cast(self, place: DeviceAndDtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """D, U and g on the layer's device in its compute dtype, kept for the next call.

        g is None where all pictures share it: U has it on it then, which saves each call a pass over the thin result.
        """
        assert self.joined_low_rank is not None
        if place not in self.downs:
            self.downs[place] = self.joined_low_rank.down.to(*place)
        if place not in self.ups:
            up, gain = self.joined_low_rank.up.to(place[0]), self.joined_low_rank.gain.to(place[0])
            shared = gain.dim() == 1
            self.ups[place] = (
                ((up.float() * gain).to(place[1]), None) if shared else (up.to(place[1]), gain.to(place[1]))
            )
        return self.downs[place], *self.ups[place]

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """output + ΔW·x (+ Δbias)."""
        if self.is_idle:
            return None
        x = args[0]
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return output + self._norm(module, x).to(output.dtype)
        if self.joined_low_rank is not None:
            output = self._add_low(module, x, output)
        for delta, weight in self.dense:
            dense = delta.to(x.device, x.dtype)
            more = convolve_like(module, x, dense) if is_convolution(module) else F.linear(x, dense)
            output = output + (more if weight is None else more * _spread(weight[:, None], more, -1))
        if self.bias_shift is not None:
            output = output + _spread(self.bias_shift, output, 1 if is_convolution(module) else -1)
        return output

    def _add_low(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """output + U·(g·(D·x)): two thin products, whatever the number of files."""
        dtype = output.dtype if output.is_floating_point() else x.dtype
        down, up, gain = self._cast((x.device, dtype))
        x = x.to(dtype)
        if not isinstance(module, nn.Conv2d):
            thin = F.linear(x, down)
            if gain is not None:
                thin = thin * _spread(gain, thin, -1)
            flat = torch.addmm(output.reshape(-1, output.shape[-1]), thin.reshape(-1, thin.shape[-1]), up.t())
            return flat.view_as(output)
        groups = module.groups  # each group of outputs has its own thin channels
        thin = convolve_like(module, x, down.repeat(groups, 1, 1, 1) if groups > 1 else down)
        if gain is not None:
            thin = thin * _spread(gain.repeat(1, groups), thin, 1)
        if groups > 1 or not output.is_contiguous():
            return output + F.conv2d(thin, up[:, :, None, None], groups=groups)
        wide = torch.baddbmm(output.flatten(2), up.expand(len(thin), -1, -1), thin.flatten(2))
        return wide.view_as(output)

    def _norm(self, module: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
        """The norm with Δweight and Δbias in the place of its weight and bias: a norm is linear in them."""
        axis = -1 if isinstance(module, nn.LayerNorm) else 1
        if isinstance(module, nn.LayerNorm):
            plain = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        else:
            plain = F.group_norm(x, module.num_groups, None, None, module.eps)
        total = torch.zeros_like(plain)
        for delta, weight in self.dense:
            rows = delta if weight is None else delta * weight.to(delta).unsqueeze(-1)
            total = total + plain * _spread(rows, plain, axis)
        return total if self.bias_shift is None else total + _spread(self.bias_shift, plain, axis)


def _dense(applied: list[AppliedAdapter], weight: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """(ΔW, weight for each picture) of kinds without a low-rank form; those of one weight for all are summed."""
    if not applied:
        return []
    assert weight is not None
    rows = [(piece.acting_adapter.delta(weight), piece.weight) for piece in applied]
    plain = [delta * w for delta, w in rows if not isinstance(w, Tensor)]
    several: list[tuple[Tensor, Tensor | None]] = [(delta, w) for delta, w in rows if isinstance(w, Tensor)]
    return [*several, (sum(plain[1:], plain[0]), None)] if plain else several


def _spread(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """(n,) or (pictures, n) for multiplying with `like`, whose `axis` has the n; in its device and dtype.

    A guided batch holds the pictures once for each condition, in turn. Raises FitError for another batch.
    """
    shape = [1] * like.dim()
    shape[axis] = -1
    if values.dim() == 2:
        if like.shape[0] % values.shape[0]:
            raise FitError(f"a batch of {like.shape[0]} for {values.shape[0]} sets of LoRA weights")
        values = values.repeat(like.shape[0] // values.shape[0], 1)
        shape[0] = values.shape[0]
    return values.to(like.device, like.dtype).view(shape)


def _side_by_side(parts: list[tuple[Tensor, float | Tensor]]) -> Tensor:
    """Gains times weights, joined: (R,), or (batch, R) where some weight is a (batch,) tensor."""
    gains = [gain * (w.unsqueeze(-1) if isinstance(w, Tensor) else w) for gain, w in parts]
    size = max((gain.shape[0] for gain in gains if gain.dim() == 2), default=0)
    return torch.cat([gain.expand(size, -1) if size else gain for gain in gains], dim=-1)


def is_convolution(module: nn.Module) -> bool:
    """Whether the layer takes (batch, channels, height, width)."""
    return isinstance(module, nn.Conv2d)


def convolve_like(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """`module`'s convolution with another weight: its stride, padding (and padding mode), dilation, groups; no bias."""
    assert isinstance(module, nn.Conv2d)
    return module._conv_forward(x, weight, None)

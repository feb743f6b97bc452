"""The low-rank path beside a layer, as a forward hook. Nothing in the model changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import FitError
from ..lowrank import LowRank, concat
from .pieces import Piece, bias_delta, weight_shape

Place: TypeAlias = "tuple[torch.device, torch.dtype]"


class HookPath:
    """For Linear, Conv2d and norms: a forward hook adds ΔW's part of the output."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.pieces: tuple[Piece, ...] = ()
        self.forms: list[LowRank | None] = []
        self.low: LowRank | None = None
        self.dense: Tensor | None = None
        self.shift: Tensor | None = None
        self.factors: dict[Place, tuple[Tensor, Tensor]] = {}
        self.gains: dict[Place, Tensor] = {}
        self.idle = True
        self.handle = module.register_forward_hook(self.hook)

    def remove(self) -> None:
        """Takes the hook off."""
        self.handle.remove()

    def update(self, pieces: tuple[Piece, ...], weight: Tensor | None) -> None:
        """Same pieces with new weights: only the gains move. Otherwise the factors are laid side by side anew."""
        shape = weight_shape(self.module)
        assert shape is not None
        if len(pieces) != len(self.pieces) or not all(map(Piece.same, pieces, self.pieces)):
            self.forms = [piece.low_rank(shape) for piece in pieces]
            plain = [form for form in self.forms if form is not None]
            self.low = concat(plain) if plain else None
            self.factors.clear()
        self.pieces = pieces
        acting = [piece for piece in pieces if piece.acts()]
        self.idle = not acting
        self.gains.clear()
        if self.low is not None:
            rows = zip(pieces, self.forms, strict=True)
            gain = _side_by_side([(form.gain, piece.weight) for piece, form in rows if form is not None])
            self.low = replace(self.low, gain=gain)
        dense = [piece for piece, form in zip(pieces, self.forms, strict=True) if form is None and piece.acts()]
        self.dense = None
        if dense:
            assert weight is not None
            if any(isinstance(piece.weight, Tensor) for piece in dense):
                raise FitError(f"{dense[0].adapter.kind} cannot have another weight for each picture of a batch")
            self.dense = sum((p.acting.delta(weight) * p.weight for p in dense), torch.zeros(()))
        self.shift = bias_delta(acting, shape[0])

    def _cast(self, place: Place) -> tuple[Tensor, Tensor, Tensor]:
        """D, g and U on the layer's device in its compute dtype, kept for the next call."""
        assert self.low is not None
        if place not in self.factors:
            self.factors[place] = (self.low.down.to(*place), self.low.up.to(*place))
        if place not in self.gains:
            self.gains[place] = self.low.gain.to(*place)
        down, up = self.factors[place]
        return down, self.gains[place], up

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """output + ΔW·x (+ Δbias)."""
        if self.idle:
            return None
        x = args[0]
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return output + self._norm(module, x).to(output.dtype)
        if self.low is not None:
            output = self._add_low(module, x, output)
        if self.dense is not None:
            dense = self.dense.to(x.device, x.dtype)
            output = output + (conv_like(module, x, dense) if x_is_image(module) else F.linear(x, dense))
        if self.shift is not None:
            shift = self.shift.to(output.device, output.dtype)
            output = output + (shift.view(-1, 1, 1) if x_is_image(module) else shift)
        return output

    def _add_low(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """output + U·(g·(D·x)): two thin products, whatever the number of files."""
        dtype = output.dtype if output.is_floating_point() else x.dtype
        down, gain, up = self._cast((x.device, dtype))
        x = x.to(dtype)
        if gain.dim() == 2:  # a guided batch holds the pictures once for each condition, in turn
            if x.shape[0] % gain.shape[0]:
                raise FitError(f"a batch of {x.shape[0]} for {gain.shape[0]} sets of LoRA weights")
            gain = gain.repeat(x.shape[0] // gain.shape[0], 1)
        if not isinstance(module, nn.Conv2d):
            gain = gain.view(-1, *[1] * (x.dim() - 2), gain.shape[-1]) if gain.dim() == 2 else gain
            thin = F.linear(x, down) * gain
            flat = torch.addmm(output.reshape(-1, output.shape[-1]), thin.reshape(-1, thin.shape[-1]), up.t())
            return flat.view_as(output)
        groups = module.groups  # each group of outputs has its own thin channels
        thin = conv_like(module, x, down.repeat(groups, 1, 1, 1) if groups > 1 else down)
        gain = gain.repeat(*[1] * (gain.dim() - 1), groups)[..., None, None]
        return output + F.conv2d(thin * gain, up[:, :, None, None], groups=groups)

    def _norm(self, module: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
        """The norm with Δweight and Δbias in the place of its weight and bias: a norm is linear in them."""
        weight = None if self.dense is None else self.dense.to(x.device, x.dtype)
        shift = None if self.shift is None else self.shift.to(x.device, x.dtype)
        if weight is None and shift is not None:
            weight = torch.zeros_like(shift)
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(x, module.normalized_shape, weight, shift, module.eps)
        return F.group_norm(x, module.num_groups, weight, shift, module.eps)


def _side_by_side(parts: list[tuple[Tensor, float | Tensor]]) -> Tensor:
    """Gains times weights, joined: (R,), or (batch, R) where some weight is a (batch,) tensor."""
    gains = [gain * (w.unsqueeze(-1) if isinstance(w, Tensor) else w) for gain, w in parts]
    size = max((gain.shape[0] for gain in gains if gain.dim() == 2), default=0)
    return torch.cat([gain.expand(size, -1) if size else gain for gain in gains], dim=-1)


def x_is_image(module: nn.Module) -> bool:
    """Whether the layer takes (batch, channels, height, width)."""
    return isinstance(module, nn.Conv2d)


def conv_like(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """`module`'s convolution with another weight: its stride, padding (and padding mode), dilation, groups; no bias."""
    assert isinstance(module, nn.Conv2d)
    return module._conv_forward(x, weight, None)

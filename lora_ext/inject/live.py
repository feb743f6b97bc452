"""The low-rank path beside a layer, as a forward hook. Nothing in the model changes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..lowrank import LowRank, concat
from .pieces import Piece, bias_delta, split, weight_shape


class HookPath:
    """For Linear, Conv2d and norms: a forward hook adds ΔW's part of the output."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.pieces: tuple[Piece, ...] = ()
        self.low: LowRank | None = None
        self.dense: Tensor | None = None
        self.shift: Tensor | None = None
        self.cast: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self.idle = True
        self.handle = module.register_forward_hook(self.hook)

    def remove(self) -> None:
        """Takes the hook off."""
        self.handle.remove()

    def update(self, pieces: tuple[Piece, ...], weight: Tensor | None) -> None:
        """Same pieces with new weights: only the gains move. Otherwise the factors are laid side by side anew."""
        shape = weight_shape(self.module)
        assert shape is not None
        known = len(pieces) == len(self.pieces) and all(map(Piece.same, pieces, self.pieces))
        if not known:
            lows, dense = split(pieces, shape)
            self.plain = concat([low for _, low in lows]) if lows else None
            self.gains = [low.gain for _, low in lows]
            self.low_at = [pieces.index(piece) for piece, _ in lows]
            self.dense_at = [pieces.index(piece) for piece in dense]
            self.cast.clear()
        self.pieces = pieces
        self.idle = not any(piece.acts() for piece in pieces)
        if self.plain is not None:
            self.low = replace(
                self.plain, gain=_joined([(pieces[i], g) for i, g in zip(self.low_at, self.gains, strict=True)])
            )
            for key, (down, _) in self.cast.items():
                self.cast[key] = (down, self._scaled_up(*key))
        dense_pieces = [pieces[i] for i in self.dense_at if pieces[i].acts()]
        self.dense = None
        if dense_pieces:
            assert weight is not None
            self.dense = sum((p.acting.delta(weight) * p.weight for p in dense_pieces), torch.zeros(()))
        self.shift = bias_delta([p for p in pieces if p.acts()], shape[0])

    def _scaled_up(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """U·diag(g) for the layer's compute dtype (U alone where each picture has its own g)."""
        assert self.low is not None
        up = self.low.up.to(device, torch.float32)
        if self.low.gain.dim() == 1:
            up = up * self.low.gain.to(device, torch.float32)
        return up.to(dtype)

    def _factors(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert self.low is not None
        if (device, dtype) not in self.cast:
            self.cast[device, dtype] = (self.low.down.to(device, dtype), self._scaled_up(device, dtype))
        return self.cast[device, dtype]

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
        assert self.low is not None
        dtype = output.dtype if output.is_floating_point() else x.dtype
        down, up = self._factors(x.device, dtype)
        x = x.to(dtype)
        gain = self.low.gain
        if not x_is_image(module):
            thin = F.linear(x, down)
            if gain.dim() == 2:
                rows = _per_row(gain, x.shape[0]).to(x.device, dtype)
                thin = thin * rows.view(rows.shape[0], *[1] * (x.dim() - 2), -1)
            flat = torch.addmm(output.reshape(-1, output.shape[-1]), thin.reshape(-1, thin.shape[-1]), up.t())
            return flat.view_as(output)
        assert isinstance(module, nn.Conv2d)
        groups = module.groups
        rank = down.shape[0]
        thin = conv_like(module, x, down.repeat(groups, 1, 1, 1) if groups > 1 else down)
        if gain.dim() == 2:
            rows = _per_row(gain, x.shape[0]).to(x.device, dtype).repeat(1, groups)
            thin = thin * rows[:, :, None, None]
        return output + F.conv2d(thin, up.view(*up.shape[:1], rank, 1, 1), groups=groups)

    def _norm(self, module: nn.LayerNorm | nn.GroupNorm, x: Tensor) -> Tensor:
        """The norm with Δweight and Δbias in the place of its weight and bias: a norm is linear in them."""
        weight = None if self.dense is None else self.dense.to(x.device, x.dtype)
        shift = None if self.shift is None else self.shift.to(x.device, x.dtype)
        if weight is None and shift is not None:
            weight = torch.zeros_like(shift)
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(x, module.normalized_shape, weight, shift, module.eps)
        return F.group_norm(x, module.num_groups, weight, shift, module.eps)


def _joined(parts: list[tuple[Piece, Tensor]]) -> Tensor:
    """The gains of several pieces side by side, each times its piece's weight: (R,) or (batch, R)."""
    gains = [g * p.weight.unsqueeze(-1) if isinstance(p.weight, Tensor) else g * p.weight for p, g in parts]
    size = max((g.shape[0] for g in gains if g.dim() == 2), default=0)
    return torch.cat([g.expand(size, -1) if size else g for g in gains], dim=-1)


def _per_row(gain: Tensor, batch: int) -> Tensor:
    """(pictures, r) → (batch, r): a guided batch holds the pictures once for each condition, in turn."""
    if batch % gain.shape[0]:
        raise ValueError(f"a batch of {batch} for {gain.shape[0]} sets of LoRA weights")
    return gain.repeat(batch // gain.shape[0], 1)


def x_is_image(module: nn.Module) -> bool:
    """Whether the layer takes (batch, channels, height, width)."""
    return isinstance(module, nn.Conv2d)


def conv_like(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """`module`'s convolution with another weight: its stride, padding (and padding mode), dilation, groups; no bias."""
    assert isinstance(module, nn.Conv2d)
    return module._conv_forward(x, weight, None)

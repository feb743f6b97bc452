"""One trainable module: the factors of a layer, what of them acts in a step, and the hook that applies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..lowrank import LowRank
from .block_rates import Size
from .dylora import Share, whole
from .path import ConvPath, LinearPath, convolution, masked


class Factors(nn.Module):
    """D (R, in[, kh, kw]) and Uᵀ (R, out) of one layer, float32, with a Parameter for every `unit` ranks of each.

    The Parameters share the memory of `down` and `up`, so that any number of first ranks is a view. Parameters of
    ranks that were not drawn have no gradient, so that an optimizer leaves them alone.
    Initialised as kohya's modules: D uniform within ±1/√fan_in (Kaiming, a = √5), U zero.
    """

    down: Tensor
    up: Tensor

    def __init__(self, shape: tuple[int, ...], size: Size, unit: int | None, generator: torch.Generator | None) -> None:
        super().__init__()
        self.alpha = size.alpha or float(size.rank)  # 0 means the rank, as in kohya's scripts
        bound = torch.Size(shape[1:]).numel() ** -0.5
        down = torch.empty(size.rank, *shape[1:]).uniform_(-bound, bound, generator=generator)
        up = torch.zeros(size.rank, shape[0])
        self.unit = unit or size.rank
        self.downs = nn.ParameterList(nn.Parameter(rows) for rows in down.split(self.unit))
        self.ups = nn.ParameterList(nn.Parameter(rows) for rows in up.split(self.unit))
        self.multiplier = 1.0
        self.skipped = False
        self.dropout = self.rank_dropout = 0.0
        self.seed: int | None = None
        self._hold(down, up)
        self.act(whole(self.rank, self.alpha))

    # --- the shared memory

    @torch.no_grad()
    def _hold(self, down: Tensor, up: Tensor) -> None:
        """Makes `down` and `up` the memory of all Parameters."""
        self.__dict__["down"], self.__dict__["up"] = down, up
        for parameters, whole_factor in ((self.downs, down), (self.ups, up)):
            for parameter, rows in zip(parameters, whole_factor.split(self.unit), strict=True):
                parameter.data = rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Factors:
        """As nn.Module's (`to`, `cuda`, `half` …), keeping the memory shared."""
        self._hold(fn(self.down), fn(self.up))
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = fn(parameter.grad)
        return self

    def gather(self) -> None:
        """Takes the Parameters' values back into one memory where someone gave them other memory."""
        apart = any(
            p.data_ptr() != rows.data_ptr()
            for parameters, factor in ((self.downs, self.down), (self.ups, self.up))
            for p, rows in zip(parameters, factor.split(self.unit), strict=True)
        )
        if apart:
            self._hold(torch.cat([p.data for p in self.downs]), torch.cat([p.data for p in self.ups]))

    @property
    def rank(self) -> int:
        """R, all ranks."""
        return self.down.shape[0]

    # --- what acts

    def act(self, share: Share) -> None:
        """From now on `share` of the ranks acts and learns."""
        self.share = share
        units = range(share.first // self.unit, -(-share.last // self.unit))
        self.learning = (*(self.downs[i] for i in units), *(self.ups[i] for i in units))

    @property
    def now(self) -> Share:
        """The share with the multiplier on its scale."""
        return self.share if self.multiplier == 1.0 else replace(self.share, scale=self.share.scale * self.multiplier)

    def pieces(self) -> tuple[Tensor, Tensor]:
        """The acting ranks of D and Uᵀ, the learning ones as part of the graph."""
        share, half = self.share, len(self.learning) // 2
        sides = ((self.down, self.learning[:half]), (self.up, self.learning[half:]))
        down, up = (torch.cat([f[: share.first], *rows, f[share.last : share.acting]]) for f, rows in sides)
        return down, up

    def low_rank(self) -> LowRank:
        """ΔW at weight 1 with all ranks, detached, on the CPU."""
        self.gather()
        down, up = self.down.detach().cpu().clone(), self.up.detach().cpu().t().clone()
        return LowRank(up, torch.full((self.rank,), self.alpha / self.rank), down)

    def delta(self) -> Tensor:
        """scale · U·D as the layer's weight has it, differentiable; dropout of ranks is common to the batch."""
        down, up = self.pieces()
        if self.training and self.seed is not None and self.rank_dropout:
            down = down * self.rank_mask(down[None, :, 0])[0][:, None]
        return (up.t() @ down.flatten(1) * self.now.scale).unflatten(1, down.shape[1:])

    # --- masks

    def _bernoulli(self, shape: tuple[int, ...], drop: float, like: Tensor, stream: int) -> Tensor:
        """1/(1-drop) with probability 1-drop, else 0; the same for every call in a step."""
        generator = torch.Generator(like.device).manual_seed((self.seed or 0) * 2 + stream)
        mask = torch.empty(shape, device=like.device, dtype=torch.float32)
        return mask.bernoulli_(1 - drop, generator=generator).div_(1 - drop).to(like.dtype)

    def value_mask(self, thin: Tensor) -> Tensor:
        """Dropout of single thin values, in their shape."""
        return self._bernoulli(tuple(thin.shape), self.dropout, thin, 0)

    def rank_mask(self, thin: Tensor) -> Tensor:
        """Dropout of whole ranks, (n, acting ranks), one draw a picture; axis 1 of an image, else the last."""
        ranks = thin.shape[1] if thin.dim() == 4 else thin.shape[-1]
        return self._bernoulli((thin.shape[0], ranks), self.rank_dropout, thin, 1)

    # --- the hook

    def hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """output + scale · U·D·x."""
        if self.skipped and self.training:
            return None
        x, share = args[0], self.now
        if self.training and self.seed is not None and (self.dropout or self.rank_dropout):
            masks = (self.value_mask if self.dropout else None, self.rank_mask if self.rank_dropout else None)
            return masked(module, x, output, *self.pieces(), share.scale, masks)
        if not isinstance(module, nn.Conv2d):
            return LinearPath.apply(x, output, self.down, self.up, share, *self.learning)
        x, how = convolution(module, x)
        return ConvPath.apply(x, output, self.down, self.up, share, how, *self.learning)

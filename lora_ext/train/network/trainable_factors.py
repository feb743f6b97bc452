"""`TrainableFactors`: the factors of one layer, the ranks that a step uses, and the hooks that apply them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...adapters import Adapter, Lora
from ...adapters.lora import DOWN, UP
from ...errors import TrainError
from ...lowrank import LowRank
from ..config.block_settings import RankAndAlpha
from ..config.dylora import RankSelection, select_all_ranks
from .autograd import (
    ConvLoraFunction,
    LinearLoraFunction,
    forward_with_dropout,
    frozen_weight,
    is_computed_in,
    is_product_of_pixels,
    prepare_convolution,
)
from .trainable_layer import TrainableLayer, wrong_kind

is_compiling: Callable[[], bool] = getattr(torch.compiler, "is_compiling", lambda: False)
"""Whether torch.compile traces the running code; torch before 2.2 cannot tell."""


class TrainableFactors(TrainableLayer):
    """The factors of one layer, float32, with one Parameter for every `unit` ranks of each factor.

    The Parameters share the memory of `down` and `up`, so that the first ranks of both are views. Parameters of ranks
    that a step does not train have no gradient, and an optimizer leaves them alone. Factors start as kohya's: D uniform
    within ±1/√fan_in (Kaiming with a = √5), U zero.

    Args:
        shape: Shape of the layer's weight: (out, in) or (out, in, kh, kw).
        rank_and_alpha: R, and alpha; an alpha of 0 means R, as in kohya's scripts.
        unit: Ranks of one Parameter; None for all.
        generator: The random numbers of D.
        start: D₀ and U₀ᵀ of a LoRA that starts with other factors (PiSSA, OLoRA): ΔW is U·D − U₀·D₀, a LoRA of 2R ranks
            of which the first R are trained.

    Attributes:
        rank: R, the trained ranks.
        down: D, (R, in) or (R, in, kh, kw); with `start` D₀ follows, (2R, …).
        up: Uᵀ, (R, out); with `start` −U₀ᵀ follows.
        downs: Parameters of D, (unit, in[, kh, kw]) each.
        ups: Parameters of Uᵀ, (unit, out) each.
        alpha: The update is scaled by alpha / R.
        trained_parameters: The Parameters that the step trains, those of D before those of Uᵀ.
        layer_dtype: What the layer computed in last.
        casts: D and Uᵀ in `layer_dtype`.
    """

    down: Tensor
    up: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        rank_and_alpha: RankAndAlpha,
        unit: int | None,
        generator: torch.Generator | None,
        start: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.rank = rank_and_alpha.rank
        self.alpha = rank_and_alpha.alpha or float(rank_and_alpha.rank)  # 0 means the rank, as in kohya's scripts
        bound = torch.Size(shape[1:]).numel() ** -0.5
        down = torch.empty(rank_and_alpha.rank, *shape[1:]).uniform_(-bound, bound, generator=generator)
        up = torch.zeros(rank_and_alpha.rank, shape[0])
        if start is not None:
            down, up = torch.cat([start[0], start[0]]), torch.cat([start[1], -start[1]])
        self.unit = unit or rank_and_alpha.rank
        self.downs = nn.ParameterList(nn.Parameter(rows) for rows in down[: self.rank].split(self.unit))
        self.ups = nn.ParameterList(nn.Parameter(rows) for rows in up[: self.rank].split(self.unit))
        self.layer_dtype: torch.dtype | None = None
        self.casts: tuple[Tensor, Tensor] | None = None
        self.cast_version = 0
        self._pending_input: tuple[Tensor, Tensor] | None = None
        self._use_memory(down, up)
        self.select_ranks(self._all_ranks())

    # --- the shared memory

    @torch.no_grad()
    def _use_memory(self, down: Tensor, up: Tensor) -> None:
        """Makes `down` and `up` the memory of all Parameters."""
        self.__dict__["down"], self.__dict__["up"] = down, up
        self.casts = None
        for parameters, whole_factor in ((self.downs, down), (self.ups, up)):
            for parameter, rows in zip(parameters, whole_factor[: self.rank].split(self.unit), strict=True):
                parameter.data = rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TrainableFactors:
        """As that of nn.Module (`to`, `cuda`, `half` …), keeping the memory shared."""
        self._use_memory(fn(self.down), fn(self.up))
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = fn(parameter.grad)
        return self

    def restore_shared_memory(self) -> None:
        """Copies the Parameters into one memory again, where something (loading a state dict) replaced theirs."""
        apart = any(
            p.data_ptr() != rows.data_ptr()
            for parameters, factor in self._sides()
            for p, rows in zip(parameters, factor[: self.rank].split(self.unit), strict=True)
        )
        if apart:
            down, up = ([*(p.data for p in some), f[self.rank :]] for some, f in self._sides())
            self._use_memory(torch.cat(down), torch.cat(up))

    def _sides(self) -> tuple[tuple[nn.ParameterList, Tensor], tuple[nn.ParameterList, Tensor]]:
        """(Parameters of a factor, the factor) of D and Uᵀ."""
        return (self.downs, self.down), (self.ups, self.up)

    def _all_ranks(self) -> RankSelection:
        """All ranks are used, and R of them trained."""
        return replace(select_all_ranks(self.rank, self.alpha), active=len(self.down))

    def reset_step(self) -> None:
        """Uses all ranks until the next step begins."""
        super().reset_step()
        self.select_ranks(self._all_ranks())
        self.casts = None

    # --- the ranks that are used

    def select_ranks(self, selection: RankSelection) -> None:
        """Sets the ranks that are used and trained from now on."""
        self.selection = selection
        units = range(selection.first // self.unit, -(-selection.last // self.unit))
        self.trained_parameters = (*(self.downs[i] for i in units), *(self.ups[i] for i in units))

    @property
    def weighted_selection(self) -> RankSelection:
        """The ranks of this step, with its weight in their scale."""
        selection = self.selection
        return selection if self.step_weight == 1 else replace(selection, scale=selection.scale * self.step_weight)

    def active_factors(self) -> tuple[Tensor, Tensor]:
        """The used ranks of both factors, with the trained ones in the graph.

        Returns:
            D (r, in[, kh, kw]) and Uᵀ (r, out).
        """
        selection, half = self.selection, len(self.trained_parameters) // 2
        sides = ((self.down, self.trained_parameters[:half]), (self.up, self.trained_parameters[half:]))
        parts = ([f[: selection.first], *rows, f[selection.last : selection.active]] for f, rows in sides)
        down, up = (torch.cat([part for part in some if len(part)]) for some in parts)
        return down, up

    def low_rank(self) -> LowRank:
        """ΔW with all ranks at weight 1, detached, on the CPU."""
        self.restore_shared_memory()
        down, up = self.down.detach().cpu().clone(), self.up.detach().cpu().t().clone()
        return LowRank(up, torch.full((len(down),), self.alpha / self.rank), down)

    def delta(self) -> Tensor:
        """Computes scale · U·D in the shape of the layer's weight, differentiable.

        Rank dropout is the same for the whole batch here, because the weight is.
        """
        down, up = self.active_factors()
        if self.training and self._drops and self.rank_dropout:
            down = down * self.rank_mask(down[None, :, 0])[0][:, None]
        return (up.t() @ down.flatten(1) * self.weighted_selection.scale).unflatten(1, down.shape[1:])

    @torch.no_grad()
    def unscaled_square(self) -> Tensor:
        """Computes ‖U·D‖² (Frobenius) as ⟨UᵀU, DDᵀ⟩, 0-dim: ΔW is not formed."""
        down, up = self.down.flatten(1).float(), self.up.float()
        return torch.sum((up @ up.t()) * (down @ down.t()))

    @property
    def delta_scale(self) -> float:
        """Alpha / R."""
        return self.alpha / self.rank

    def linear_tensors(self) -> list[Tensor]:
        """D and Uᵀ."""
        return [self.down, self.up]

    def up_parameters(self) -> list[nn.Parameter]:
        """The Parameters of Uᵀ."""
        return list(self.ups)

    def to_adapter(self) -> Lora:
        """The LoRA that a file stores."""
        tensors = self.low_rank().to_tensors(self.alpha * len(self.down) / self.rank)
        return Lora({**tensors, **{name: tensors[name].to(self.down.dtype) for name in (DOWN, UP)}})

    def load_adapter(self, adapter: Adapter, shape: torch.Size) -> None:
        """Continues from a LoRA; a smaller rank fills the first ranks. Raises TrainError for other kinds and ranks."""
        low = adapter.low_rank()
        if low is None or adapter.kind != "LoRA":
            raise wrong_kind(adapter, "LoRA")
        if low.rank > self.rank:
            raise TrainError(
                f"the file has rank {low.rank}, the network {self.rank}; set dim_from_weights, or give the file's rank "
                "as network_dim"
            )
        stored = low.reshaped(shape).to_tensors(self.alpha / self.rank * low.rank)
        with torch.no_grad():
            self.up.zero_()
            self.down[: low.rank] = stored[DOWN].to(self.down)
            self.up[: low.rank] = stored[UP].flatten(1).t().to(self.up)

    # --- masks

    def _bernoulli(self, shape: tuple[int, ...], drop: float, like: Tensor, stream: int) -> Tensor:
        """1 / (1 − drop) with probability 1 − drop, else 0; the same for every call within a step."""
        generator = torch.Generator(like.device).manual_seed((self.seed or 0) * 2 + stream)
        mask = torch.empty(shape, device=like.device, dtype=torch.float32)
        return mask.bernoulli_(1 - drop, generator=generator).div_(1 - drop).to(like.dtype)

    def value_mask(self, low: Tensor) -> Tensor:
        """Dropout mask of single values, in the shape of `low`: (…, r) or (n, r, h, w)."""
        return self._bernoulli(tuple(low.shape), self.dropout, low, 0)

    def rank_mask(self, low: Tensor) -> Tensor:
        """Dropout mask of whole ranks, (n, r), drawn for each image; ranks are axis 1 of 4-dim `low`, else the last."""
        ranks = low.shape[1] if low.dim() == 4 else low.shape[-1]
        return self._bernoulli((low.shape[0], ranks), self.rank_dropout, low, 1)

    # --- the hooks

    def before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: runs the layer without a graph, where the node computes its backward pass too.

        Args:
            module: The layer.
            args: Its arguments; the first is x, (…, in) or (n, in, h, w).

        Returns:
            The arguments with a detached x, or None to leave them.
        """
        if is_compiling():  # torch.compile derives the backward pass itself
            return None
        self._pending_input = None
        if not torch.is_grad_enabled() or (self.training and (self.skipped or self._drops)):
            return None
        x = args[0]
        weight = frozen_weight(module)
        if weight is None or not is_computed_in(weight, x):
            return None
        self._pending_input = (x, weight)
        return (x.detach(), *args[1:])

    def after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: output + scale · U·D·x.

        Args:
            module: The layer.
            args: Its arguments; the first is x, (…, in) or (n, in, h, w).
            output: Its output, (…, out) or (n, out, h', w').

        Returns:
            The sum in the output's shape and dtype, or None to leave the output.
        """
        if is_compiling():
            return forward_with_dropout(
                module, args[0], output, *self.active_factors(), self.weighted_selection.scale, (None, None)
            )
        x, weight = self._pending_input or (args[0], None)
        self._pending_input = None
        if self.training and self.skipped:
            return None
        selection = self.weighted_selection
        if self.training and self._drops:
            masks = (self.value_mask if self.dropout else None, self.rank_mask if self.rank_dropout else None)
            return forward_with_dropout(module, x, output, *self.active_factors(), selection.scale, masks)
        down, up = self._factors_in(output.dtype)
        into: Any = output if weight is None else (output,)
        if not isinstance(module, nn.Conv2d):
            return LinearLoraFunction.apply(x, into, weight, down, up, selection, *self.trained_parameters)
        if weight is not None and is_product_of_pixels(module, x, output):
            # the pixels of images with the channels last are rows, as tokens are
            rows, into = x.permute(0, 2, 3, 1), (output.permute(0, 2, 3, 1),)
            factors = down.flatten(1), up
            # the weight as it is: a flat view would keep what a swapped block gives back
            summed: Tensor = LinearLoraFunction.apply(rows, into, weight, *factors, selection, *self.trained_parameters)
            return summed.permute(0, 3, 1, 2)
        x, conv_options = prepare_convolution(module, x)
        return ConvLoraFunction.apply(x, into, weight, down, up, selection, conv_options, *self.trained_parameters)

    @property
    def _drops(self) -> bool:
        return self.seed is not None and bool(self.dropout or self.rank_dropout)

    def _factors_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """D and Uᵀ in the layer's dtype, if `cast_factors` made them when the step began; else the factors."""
        if dtype == self.down.dtype:
            return self.down, self.up
        self.layer_dtype = dtype
        if (
            self.casts is not None
            and self.casts[0].dtype == dtype
            and self.cast_version == self.trained_parameters[-1]._version
        ):
            return self.casts
        return self.down, self.up


def cast_factors(modules: Sequence[TrainableFactors]) -> None:
    """Casts the factors of all modules to the dtypes that their layers computed in last.

    A few kernels once a step replace two casts in every layer.

    Args:
        modules: The modules.
    """
    wanted = [m for m in modules if m.layer_dtype is not None and m.layer_dtype != m.down.dtype]
    if not wanted or not hasattr(torch, "_foreach_copy_"):
        return
    for module in wanted:
        if module.casts is None or module.casts[0].dtype != module.layer_dtype:
            module.casts = (module.down.to(module.layer_dtype), module.up.to(module.layer_dtype))
        module.cast_version = module.trained_parameters[-1]._version
    with torch.no_grad():
        into = [cast for m in wanted if m.casts is not None for cast in m.casts]
        torch._foreach_copy_(into, [factor for m in wanted for factor in (m.down, m.up)])

"""`AppliedAdapter` (an adapter with its weight at a layer) and `LayerTarget` (a parameter of a loaded model)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..layer_names import LayerId, find_layer_id
from ..lowrank import LowRank
from .condition_rows import ConditionRows
from .place import PlaceGain
from .quantized_weight import quantized_shape


class StepWeight:
    """The U-Net weight of a scheduled file at the present step, shared by all its layers.

    Forward hooks read it at each call, so that a step changes one number and touches no layer.

    Args:
        value: the weight.
    """

    __slots__ = ("value",)

    def __init__(self, value: float = 0.0) -> None:
        self.value = value


@dataclass(frozen=True)
class AppliedAdapter:
    """One adapter applied at one layer.

    Attributes:
        adapter: the adapter.
        weight (float | Tensor): a number, or (n,) with one weight for each image or condition (live only).
        dyn: use only the first `dyn` ranks; None uses all.
        rows: first and last row (exclusive) of the parameter that it acts on; None means all. OpenCLIP stacks q, k
            and v in one matrix.
        is_scheduled: whether the weight changes from step to step; the mode "auto" then prefers live.
        step_weight: the file's weight at the present step, which hooks multiply with `block_weight` in place of
            `weight`; None where a change of the weight is always applied anew.
        block_weight: the layer's part of the weight that no step changes.
        place: what the layer's output is multiplied by, where the file acts in a part of the picture (live only).
        condition_rows: which of the weights (n,) each row of the batch has; None: one for each image.
    """

    adapter: Adapter
    weight: float | Tensor
    dyn: int | None = None
    rows: tuple[int, int] | None = None
    is_scheduled: bool = False
    step_weight: StepWeight | None = None
    block_weight: float | Tensor = 1.0
    place: PlaceGain | None = None
    condition_rows: ConditionRows | None = None

    def at_present(self) -> AppliedAdapter:
        """Returns the adapter with the weight of the present step."""
        return self if self.step_weight is None else replace(self, weight=self.step_weight.value * self.block_weight)

    @property
    def differs_by_row(self) -> bool:
        """Whether the weight differs from image to image or from condition to condition."""
        return isinstance(self.weight, Tensor) or isinstance(self.block_weight, Tensor)

    def low_rank(self, shape: torch.Size) -> LowRank | None:
        """Returns ΔW at weight 1 as U·diag(g)·D.

        Args:
            shape: shape of the layer's weight.

        Returns:
            ΔW in that shape; None for kinds without that form.
        """
        low = self.acting_adapter.low_rank()
        return None if low is None else low.reshaped(shape)

    @property
    def acting_adapter(self) -> Adapter:
        """The adapter with its first `dyn` ranks."""
        return self.adapter if self.dyn is None else self.adapter.truncated(self.dyn)

    def scale_by_weight(self, low: LowRank) -> LowRank:
        """Multiplies a ΔW by the weight."""
        return low.times(self.weight.unsqueeze(-1) if isinstance(self.weight, Tensor) else self.weight)

    def is_acting(self) -> bool:
        """Whether the weight is not 0."""
        return bool((self.weight != 0).any()) if isinstance(self.weight, Tensor) else self.weight != 0

    def is_same_adapter(self, other: AppliedAdapter) -> bool:
        """Whether the other one differs at most in its weight."""
        return (self.adapter, self.dyn, self.rows) == (other.adapter, other.dyn, other.rows)

    def is_equal(self, other: AppliedAdapter) -> bool:
        """Whether the other one is the same at the same weight; `==` is ambiguous for weights of shape (batch,)."""
        same_schedule = self.is_scheduled == other.is_scheduled and self.step_weight is other.step_weight
        alike = _is_same_weight(self.weight, other.weight) and _is_same_weight(self.block_weight, other.block_weight)
        return alike and same_schedule and self.place is other.place and self.is_same_adapter(other)


def _is_same_weight(a: float | Tensor, b: float | Tensor) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and (a is b or torch.equal(a, b))
    return a == b


@dataclass(frozen=True, eq=False)
class LayerTarget:
    """A layer's parameter in a loaded model. It equals itself alone: `find_layer_targets` makes one for each parameter.

    Attributes:
        module: the module that owns the parameter.
        slot: the parameter's name, such as `weight` or `in_proj_weight`.
        shape: the shape of ΔW there.
        rows: first and last row (exclusive) of the parameter; None means all.
    """

    module: nn.Module
    slot: str
    shape: torch.Size
    rows: tuple[int, int] | None = None


def find_layer_targets(part: str, root: nn.Module) -> dict[LayerId, LayerTarget]:
    """Finds all layers of a loaded network.

    Args:
        part: "unet", "te" or "te2".
        root: the network.

    Returns:
        Layer id → its parameter.
    """
    found: dict[LayerId, LayerTarget] = {}
    for name, module in root.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found.update(_attention_targets(part, name, module))
            continue
        shape = weight_shape(module)
        layer_id = find_layer_id(part, name) if shape is not None else None
        if layer_id is not None and shape is not None:
            found.setdefault(layer_id, LayerTarget(module, "weight", shape))
    return found


def _attention_targets(part: str, name: str, module: nn.MultiheadAttention) -> Iterator[tuple[LayerId, LayerTarget]]:
    """q, k, v are thirds of `in_proj_weight`. out_proj's own forward is never called, so the attention owns it."""
    width = module.embed_dim
    square = torch.Size((width, width))
    for index, projection in enumerate(("q_proj", "k_proj", "v_proj")):
        layer_id = find_layer_id(part, f"{name}.{projection}")
        if layer_id is not None and module.in_proj_weight is not None:
            yield layer_id, LayerTarget(module, "in_proj_weight", square, (index * width, (index + 1) * width))
    layer_id = find_layer_id(part, f"{name}.out_proj")
    if layer_id is not None:
        yield layer_id, LayerTarget(module, "out_proj.weight", square)


def weight_shape(module: nn.Module) -> torch.Size | None:
    """Returns the shape of a layer's weight by the layer's attributes, since quantised storage may be packed.

    Layers of Forge and its kin with NF4 or GGUF weights have no such attributes; there the weight tells its shape.

    Args:
        module: any module.

    Returns:
        (out, in), (out, in/groups, kh, kw) or (n,); None for modules that are no Linear, Conv2d or norm.
    """
    if isinstance(module, nn.Conv2d):
        return torch.Size((module.out_channels, module.in_channels // module.groups, *module.kernel_size))
    if isinstance(module, nn.Linear) or hasattr(module, "in_features"):
        return torch.Size((int(module.out_features), int(module.in_features)))  # type: ignore[arg-type]
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
        return torch.Size(module.weight.shape)
    return quantized_shape(getattr(module, "weight", None))


def are_equal(some: Sequence[AppliedAdapter], others: Sequence[AppliedAdapter]) -> bool:
    """Whether both are the same adapters at the same weights in the same order.

    Args:
        some: adapters of one layer.
        others: adapters to compare with.

    Returns:
        True where nothing differs.
    """
    return len(some) == len(others) and all(map(AppliedAdapter.is_equal, some, others))


def split_low_rank_and_dense(
    applied: tuple[AppliedAdapter, ...], shape: torch.Size
) -> tuple[list[tuple[AppliedAdapter, LowRank]], list[AppliedAdapter]]:
    """Separates adapters with a low-rank form (each with that form at weight 1) from the others."""
    forms = [(one, one.low_rank(shape)) for one in applied]
    return [(one, low) for one, low in forms if low is not None], [one for one, low in forms if low is None]


def sum_bias_deltas(applied: Sequence[AppliedAdapter], size: int) -> Tensor | None:
    """Sums weight·Δbias, each in the rows of its adapter.

    Args:
        applied: the adapters.
        size: length of the bias.

    Returns:
        (size,) float32, or (batch, size) where a weight is (batch,); None when no adapter changes the bias.
    """
    shifts = [(one, shift) for one in applied if (shift := one.adapter.bias_delta()) is not None]
    if not shifts:
        return None
    total = torch.zeros(size)
    for one, shift in shifts:
        part = torch.zeros(size)
        part[slice(*one.rows) if one.rows else slice(None)] = shift.float().flatten().cpu()
        weight = one.weight
        total = total + part * (weight.cpu().unsqueeze(-1) if isinstance(weight, Tensor) else weight)
    return total

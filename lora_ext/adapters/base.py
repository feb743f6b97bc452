"""`Adapter`: the tensors of a LoRA-family file for one layer, and the ΔW that they make.

A kind of adapter is one file in this folder and one row of `ADAPTERS`. It names the suffixes that it stores, and
computes ΔW either as a `LowRank` or from the layer's weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import FitError
from ..lowrank import LowRank

_SPARSE = frozenset({"bias_indices", "bias_values", "bias_size"})

COMMON_SUFFIXES = frozenset({"alpha", "scale", "bias", "dora_scale", "lora_magnitude_vector"}) | _SPARSE
"""Suffixes that any kind may store beside its own."""

_SCALAR_SUFFIXES = frozenset(
    {"alpha", "scale", "on_input", "bias_indices", "bias_size", "oft_R.scaled_oft", "oft_terms"}
)
"""Suffixes whose dtype need not be that of the factors."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """The tensors of one layer in a file. Instances compare by identity.

    A kind implements `unscaled_delta` and `is_shape`, and overrides `low_rank`, `rank`, `scaling` or `bias_delta`
    where it has them, `delta_shape` where ΔW needs no layer, and `_times` where alpha is no factor of ΔW.

    Attributes:
        tensors: suffix → tensor exactly as the file has it (suffixes as in kohya's and LyCORIS' files).
        kind: the name shown to users: "LoRA", "LoHa", …
        required_suffixes: alternative sets of suffixes; a layer is of this kind when it has all of one set.
        optional_suffixes: further suffixes of this kind.
        flattens_kernel: whether a ΔW of two axes may also belong to a Conv2d, its kernel flattened into the columns.
    """

    tensors: Mapping[str, Tensor]

    kind: ClassVar[str]
    required_suffixes: ClassVar[tuple[frozenset[str], ...]]
    optional_suffixes: ClassVar[frozenset[str]] = frozenset()
    flattens_kernel: ClassVar[bool] = False

    @classmethod
    def accepts(cls, suffixes: frozenset[str]) -> bool:
        """Whether a layer with these suffixes is of this kind."""
        return any(need <= suffixes for need in cls.required_suffixes)

    @property
    def rank(self) -> int | None:
        """The rank of the factors; None for kinds without a rank."""
        return None

    @cached_property
    def alpha(self) -> float | None:
        """The stored alpha; None when the file has none, which means alpha = rank."""
        alpha = self.tensors.get("alpha")
        return None if alpha is None else float(alpha)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stored factors."""
        return next(t.dtype for name, t in self.tensors.items() if name not in _SCALAR_SUFFIXES)

    def scaling(self) -> float:
        """Returns the factor of ΔW: `scale` if stored, else alpha/rank, else 1."""
        if "scale" in self.tensors:
            return float(self.tensors["scale"])
        if self.rank and self.alpha is not None:
            return self.alpha / self.rank
        return 1.0

    def low_rank(self) -> LowRank | None:
        """Returns ΔW at weight 1 as U·diag(g)·D, or None for a kind or file without that form."""
        return None

    def changes_nothing(self) -> bool:
        """Whether ΔW is 0, by its factors: False without that form, with a bias, and for tensors without numbers."""
        if any(tensor.is_meta for tensor in self.tensors.values()) or self.bias_delta() is not None:
            return False
        low = self.low_rank()
        if low is None:
            return False
        return not all(bool(factor.float().any()) for factor in (low.gain, low.up, low.down))

    def truncated(self, rank: int) -> Adapter:
        """Keeps the first `rank` ranks (`dyn` in a prompt).

        Args:
            rank: how many ranks to keep.

        Returns:
            The adapter with these ranks at the scale of all; itself for kinds other than LoRA.
        """
        return self

    def times(self, factor: float) -> Adapter | None:
        """Makes the adapter whose changes of weight and bias are `factor` times this one's.

        Args:
            factor: the factor.

        Returns:
            The adapter; None where its kind cannot hold that (DoRA, BOFT, OFTv2).
        """
        if factor == 1:
            return self
        return None if self.magnitude() is not None else self._times(factor)

    def _times(self, factor: float) -> Adapter | None:
        """`times` by alpha, so that factors stay bit-identical; by `scale` where there is no rank or a `scale`."""
        if self.rank and "scale" not in self.tensors:
            changed = {"alpha": torch.tensor(self.scaling() * self.rank * factor)}
        else:
            changed = {"scale": torch.tensor(self.scaling() * factor)}
        return replace(self, tensors={**self.tensors, **changed})

    def _times_tensors(self, factor: float, *names: str) -> Adapter:
        """`times` by the tensors of these names (those that are stored) and the residual's."""
        stored = [name for name in (*names, "bias", "bias_values") if name in self.tensors]
        scaled = {name: (self.tensors[name].float() * factor).to(self.tensors[name].dtype) for name in stored}
        return replace(self, tensors={**self.tensors, **scaled})

    def delta_shape(self) -> tuple[int, ...] | None:
        """Returns the shape of ΔW, (out, in[, kh, kw]), from the stored tensors alone.

        None where ΔW depends on the layer's weight or is not a matrix.
        """
        return None

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes ΔW before scaling and DoRA.

        Args:
            weight (Tensor): (out, in) or (out, in, kh, kw), or (n,) for norms; float32. All kinds use its shape, some
                also its values.

        Returns:
            Float32 tensor with as many elements as `weight`.
        """
        raise NotImplementedError

    def has_consistent_factors(self) -> bool:
        """Whether the shapes of the factors agree with each other, whatever layer they are for."""
        return True

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether the stored shapes agree with each other and make a ΔW of `shape`; computes with shapes only."""
        raise NotImplementedError

    def delta(self, weight: Tensor) -> Tensor:
        """Computes ΔW at weight 1: (unscaled ΔW + residual) · scaling, then DoRA.

        Args:
            weight (Tensor): the layer's weight, any dtype.

        Returns:
            Float32 tensor of the shape of `weight`.

        Raises:
            FitError: the stored shapes do not fit `weight`.
        """
        weight = weight.detach().float()
        if not self.fits(weight.shape):
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in self.tensors.items() if t.dim())
            raise FitError(f"{self.kind} with {shapes} does not fit a weight of {tuple(weight.shape)}")
        low = self.low_rank()
        if low is not None:
            low = LowRank(*(t.to(weight.device) for t in (low.up, low.gain, low.down)))
            return low.reshaped(weight.shape).delta()
        delta = self.unscaled_delta(weight).reshape(weight.shape)
        residual = self.full_residual(weight)
        if residual is not None:
            delta = delta + residual
        delta = delta * self.scaling()
        magnitude = self.magnitude()
        return delta if magnitude is None else dora_delta(weight, delta, magnitude)

    def full_residual(self, weight: Tensor) -> Tensor | None:
        """Returns the full-rank residual: `bias`, or its sparse form `bias_indices`, `bias_values`, `bias_size`.

        LyCORIS' extraction writes both, for the largest entries of ΔW that the low rank misses.

        Args:
            weight (Tensor): the layer's weight, for shape and device.

        Returns:
            Float32 tensor of the shape of `weight`, or None.
        """
        if "bias" in self.tensors:
            return self.stored_tensor("bias", weight).to_dense().reshape(weight.shape)
        if "bias_values" not in self.tensors:
            return None
        dense = torch.zeros(self.tensors["bias_size"].tolist())
        indices = tuple(self.tensors["bias_indices"].long().cpu())
        # index_put checks its bounds, which a sparse tensor made from a file's indices would not
        dense.index_put_(indices, self.tensors["bias_values"].float().cpu(), accumulate=True)
        return dense.to(weight.device).reshape(weight.shape)

    def magnitude(self) -> Tensor | None:
        """Returns DoRA's magnitude in the shape that `dora_delta` expects, or None.

        PEFT stores (out,), or (1, out, 1, 1) for a Conv2d. It is flattened here, since (1, n, …) means one magnitude
        for each input in LyCORIS' files.
        """
        vector = self.tensors.get("lora_magnitude_vector")
        return self.tensors.get("dora_scale") if vector is None else vector.flatten()

    def bias_delta(self) -> Tensor | None:
        """Returns the change of the layer's bias at weight 1, (out,) float32, or None."""
        return None

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether ΔW has the shape of a layer's weight. Computes with shapes only.

        Args:
            shape: shape of the layer's weight.

        Returns:
            True where `delta` would not raise.
        """
        shape = torch.Size(shape)
        try:
            return bool(shape) and self.is_shape(shape) and self._extras_fit(shape)
        except (IndexError, TypeError, ValueError, RuntimeError):  # a tensor with fewer axes than its format has
            return False

    def _extras_fit(self, shape: torch.Size) -> bool:
        magnitude = self.magnitude()
        if magnitude is not None and magnitude_axis(magnitude.shape, shape) is None:
            return False
        if "bias" in self.tensors:
            return self.tensors["bias"].numel() == shape.numel()
        if not self.tensors.keys() & _SPARSE:
            return True
        if not self.tensors.keys() >= _SPARSE:
            return False
        indices, values, size = (self.tensors[name] for name in ("bias_indices", "bias_values", "bias_size"))
        if size.is_floating_point() or size.dim() != 1 or len(indices) != len(size):
            return False
        inside = (indices >= 0) & (indices < size.reshape(-1, 1))
        return prod(size.tolist()) == shape.numel() and indices.shape[1:] == values.shape and bool(inside.all())

    def stored_tensor(self, name: str, like: Tensor) -> Tensor:
        """Returns the stored tensor `name` in float32 on the device of `like`."""
        return self.tensors[name].to(like.device, torch.float32)

    def stored_shape(self, name: str) -> torch.Size:
        """Returns the shape of the stored tensor `name`."""
        return self.tensors[name].shape


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns (rows, columns) of a tensor flattened after its first axis."""
    return shape[0], prod(shape[1:])


def product_shape(left: Sequence[int], right: Sequence[int]) -> tuple[int, int] | None:
    """Returns (rows, columns) of left @ right, both flattened after the first axis; None where inner sizes differ."""
    (rows, inner), (outer, columns) = matrix_shape(left), matrix_shape(right)
    return (rows, columns) if inner == outer else None


def magnitude_axis(magnitude: Sequence[int], shape: Sequence[int]) -> int | None:
    """Returns the axis of a layer's weight that DoRA's magnitude spans.

    Args:
        magnitude: shape of the magnitude: (1, in, …) has one number for each input, also where in = out; any other
            shape with `out` numbers has one for each output.
        shape: shape of the layer's weight.

    Returns:
        0 (outputs), 1 (inputs), or None where it fits neither.
    """
    if len(shape) > 1 and len(magnitude) > 1 and tuple(magnitude[:2]) == (1, shape[1]) and prod(magnitude) == shape[1]:
        return 1
    return 0 if prod(magnitude) == shape[0] else None


def dora_delta(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """Computes the ΔW of a DoRA (arXiv 2402.09353, equation 5): m · V/‖V‖ − W with V = W + ΔW.

    The norm runs over all axes but the one that the magnitude spans.

    Args:
        weight (Tensor): (out, in, *kernel), float32.
        delta (Tensor): (out, in, *kernel), the scaled ΔW before DoRA, float32.
        magnitude (Tensor): (out, 1, …) or (out,) for one norm per output (the paper, newer LyCORIS, PEFT), or
            (1, in, …) for one norm per input (older LyCORIS).

    Returns:
        Float32 tensor of the shape of `weight`.

    Raises:
        FitError: the magnitude fits neither outputs nor inputs.
    """
    axis = magnitude_axis(magnitude.shape, weight.shape)
    if axis is None:
        raise FitError(f"dora_scale of shape {tuple(magnitude.shape)} does not fit a weight of {tuple(weight.shape)}")
    merged = weight + delta
    over = [d for d in range(merged.dim()) if d != axis]
    span = [1] * merged.dim()
    span[axis] = -1
    norm = torch.linalg.vector_norm(merged, dim=over, keepdim=True)
    # a pruned row of zeros has no direction: it stays zero instead of becoming NaN
    norm = norm.clamp(min=torch.finfo(norm.dtype).eps)
    return merged * (magnitude.to(weight.device, torch.float32).reshape(span) / norm) - weight

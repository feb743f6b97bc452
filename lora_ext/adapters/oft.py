"""Orthogonal fine-tuning: W' = R·W (OFT, arXiv 2306.07280) and its butterfly product (BOFT, arXiv 2311.06243)."""

from __future__ import annotations

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from .base import COMMON_SUFFIXES, Adapter


class Oft(Adapter):
    """ΔW = R·W − W. R is block-diagonal over the outputs: k blocks of n × n with k·n = out.

    R = (I + Q)(I − Q)⁻¹, the Cayley transform of a skew-symmetric Q. There is no scale: a weight m in the prompt means
    W + m·(R·W − W).

    Tensors: oft_blocks (k, n, n), with Q = blocks − blocksᵀ (kohya's OFT and LyCORIS' diag-OFT, both of which apply
    Rᵀ), or oft_blocks (m, k, n, n), m butterfly factors (BOFT), which apply R, or oft_diag (k, n, n), R itself
    (LyCORIS of November 2023); alpha (), the constraint of COFT, ‖Q‖ ≤ alpha · out, where 0 or none means no
    constraint; rescale (out, 1, …), a factor for each output.
    """

    kind: ClassVar[str] = "OFT"
    required_suffixes: ClassVar = (frozenset({"oft_blocks"}), frozenset({"oft_diag"}))
    optional_suffixes: ClassVar = frozenset({"rescale"})

    @property
    def _name(self) -> str:
        return "oft_blocks" if "oft_blocks" in self.tensors else "oft_diag"

    def scaling(self) -> float:
        """Returns 1: alpha is a constraint here."""
        return 1.0

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether the square blocks cover all outputs."""
        blocks = self.stored_shape(self._name)
        factors = blocks[0] if len(blocks) == 4 else 1
        rescale = self.tensors.get("rescale")
        # butterfly factor i pairs rows n/2 · 2^i apart, the last of m factors n·2^(m−2)
        pairs = len(blocks) == 3 or (blocks[-1] % 2 == 0 and shape[0] % (blocks[-1] << (factors - 1)) == 0)
        return (
            len(shape) > 1
            and len(blocks) in (3, 4)
            and blocks[-1] == blocks[-2]
            and blocks[-3] * blocks[-1] == shape[0]
            and pairs
            and (rescale is None or rescale.numel() == shape[0])
        )

    def has_consistent_factors(self) -> bool:
        """Whether the blocks are square, and `rescale` has a number for each output of theirs."""
        blocks = self.stored_shape(self._name)
        return self.is_shape(torch.Size((blocks[-3] * blocks[-1], 1)))

    def rotation(self, like: Tensor) -> Tensor:
        """Computes R in float32, in the shape of the stored blocks.

        Args:
            like (Tensor): the layer's weight, for the number of outputs and the device.
        """
        blocks = self.stored_tensor(self._name, like)
        if self._name == "oft_diag":
            return blocks
        skew = blocks - blocks.mT
        bound = (self.alpha or 0.0) * like.shape[0]
        if bound:
            norm = skew.norm()
            skew = skew * ((norm.clamp(max=bound) + 1e-8) / (norm + 1e-8))
        eye = torch.eye(skew.shape[-1], device=skew.device)
        # (I + Q) and (I − Q)⁻¹ commute, so one solve gives the product
        return torch.linalg.solve(eye - skew, eye + skew)

    def _times(self, factor: float) -> Adapter | None:
        """None for a butterfly, whose product of factors has no such sum.

        W + m·(s·Rᵀ·W − W) = ((1 − m)·I + m·R·s)ᵀ·W, stored as `oft_diag` in float32, since fp16 rounds away small
        differences from 1.
        """
        blocks = self.stored_shape(self._name)
        if len(blocks) == 4:
            return None
        number, size = blocks[:2]
        rotation = self.rotation(torch.zeros(number * size, 1))
        if "rescale" in self.tensors:
            rotation = rotation * self.tensors["rescale"].float().reshape(number, 1, size)
        mixed = torch.lerp(torch.eye(size).expand_as(rotation), rotation, torch.tensor(factor))
        residual = {
            name: tensor for name, tensor in self.tensors.items() if name in COMMON_SUFFIXES and name != "alpha"
        }
        for name in ("bias", "bias_values"):
            if name in residual:
                residual[name] = (residual[name].float() * factor).to(residual[name].dtype)
        return Oft({"oft_diag": mixed, **residual})

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes Rᵀ·W − W, or R·W − W for butterfly factors."""
        rotation = self.rotation(weight)
        rows = weight.flatten(1)
        turned = apply_butterfly(rotation, rows) if rotation.dim() == 4 else apply_block_diagonal(rotation.mT, rows)
        if "rescale" in self.tensors:
            turned = turned * self.stored_tensor("rescale", weight).reshape(-1, 1)
        return turned - rows


def apply_butterfly(factors: Tensor, rows: Tensor) -> Tensor:
    """Multiplies the rows of a matrix by BOFT's butterfly factors (arXiv 2311.06243).

    Factor i rotates blocks of rows that lie n/2 · 2^i apart: rows are permuted, multiplied, and permuted back.

    Args:
        factors (Tensor): (m, k, n, n).
        rows (Tensor): (k·n, columns).

    Returns:
        Tensor (k·n, columns).
    """
    for i, factor in enumerate(factors):
        distance = (factor.shape[-1] // 2) << i
        pairs = rearrange(rows, "(group pair row) c -> (group row pair) c", pair=2, row=distance)
        rotated = apply_block_diagonal(factor, pairs)
        rows = rearrange(rotated, "(group row pair) c -> (group pair row) c", pair=2, row=distance)
    return rows


def apply_block_diagonal(blocks: Tensor, rows: Tensor) -> Tensor:
    """Multiplies the rows of a matrix by a block-diagonal matrix.

    Args:
        blocks (Tensor): (k, n, n).
        rows (Tensor): (k·n, columns).

    Returns:
        Tensor (k·n, columns).
    """
    return rearrange(blocks @ rearrange(rows, "(k n) c -> k n c", k=len(blocks)), "k n c -> (k n) c")

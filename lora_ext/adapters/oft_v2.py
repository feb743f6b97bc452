"""OFTv2 (arXiv 2506.19847) of PEFT (since 0.16) and OneTrainer: the layer's inputs are rotated, blocks are vectors."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from .base import Adapter, matrix_shape

_ONETRAINER_TERMS = 5


class OftV2(Adapter):
    """ΔW = W·Rᵀ − W. R is block-diagonal over the inputs (a kernel flattened into them), k blocks of n × n.

    Q is skew-symmetric, with the stored numbers above its diagonal. R is the Neumann series of (I + Q)(I − Q)⁻¹ cut
    after some terms, or exactly (I − Q)(I + Q)⁻¹. There is no scale: a weight m means W + m·(W·Rᵀ − W).

    Tensors: oft_R.weight (k, n·(n − 1)/2), or (1, …) for one block that all inputs share; oft_R.scaled_oft (), true
    where Q is the stored numbers divided by 2·√(n − 1) (OneTrainer); oft_terms (), made from PEFT's configuration: the
    terms of the series, 0 for the exact form. Without it the file is OneTrainer's: 5 terms, and W·R for a Conv2d.
    """

    kind: ClassVar[str] = "OFTv2"
    required_suffixes: ClassVar = (frozenset({"oft_R.weight"}),)
    optional_suffixes: ClassVar = frozenset({"oft_R.scaled_oft", "oft_terms"})

    def scaling(self) -> float:
        """Returns 1."""
        return 1.0

    @property
    def block_size(self) -> int:
        """The size n of a block, from its n·(n − 1)/2 numbers."""
        return (1 + math.isqrt(1 + 8 * self.stored_shape("oft_R.weight")[1])) // 2

    def has_consistent_factors(self) -> bool:
        """Whether the numbers of a block fill a triangle."""
        shape, size = self.stored_shape("oft_R.weight"), self.block_size
        return len(shape) == 2 and size > 1 and size * (size - 1) // 2 == shape[1]

    def is_shape(self, shape: torch.Size) -> bool:
        """Whether the blocks cover all inputs."""
        number, columns = self.stored_shape("oft_R.weight")[0], matrix_shape(shape)[1]
        covered = columns == number * self.block_size or (number == 1 and columns % self.block_size == 0)
        return len(shape) > 1 and covered and self.has_consistent_factors()

    def _times(self, factor: float) -> Adapter | None:
        """None: a mixture of a rotation and the identity is no rotation."""
        return None

    def rotation(self, like: Tensor) -> Tensor:
        """Computes the blocks of R, (k, n, n) in float32, on the device of `like`."""
        numbers, size = self.stored_tensor("oft_R.weight", like), self.block_size
        if "oft_R.scaled_oft" in self.tensors and bool(self.tensors["oft_R.scaled_oft"]):
            numbers = numbers / (2 * math.sqrt(size - 1))
        rows, columns = torch.triu_indices(size, size, 1, device=numbers.device)
        q = numbers.new_zeros(len(numbers), size, size)
        q[:, rows, columns] = numbers
        q = q - q.mT
        terms = int(self.tensors.get("oft_terms", torch.tensor(_ONETRAINER_TERMS)))
        eye = torch.eye(size, device=q.device)
        if terms < 1:
            return torch.linalg.solve(eye + q, eye - q, left=False)
        return _neumann_series(q, eye.expand_as(q), terms)

    def unscaled_delta(self, weight: Tensor) -> Tensor:
        """Computes W·Rᵀ − W."""
        rotation = self.rotation(weight)
        if "oft_terms" in self.tensors or weight.dim() == 2:
            rotation = rotation.mT
        rows = weight.flatten(1)
        # In memory of its own: small products round by where their factors lie, and a weight read from a file may lie
        # anywhere. So a merged checkpoint has the bits of the baked model.
        blocks = rearrange(rows, "o (b k) -> b o k", k=self.block_size).clone(memory_format=torch.contiguous_format)
        rotated = blocks @ rotation.expand(len(blocks), -1, -1)
        return rearrange(rotated, "b o c -> o (b c)") - rows


def _neumann_series(q: Tensor, eye: Tensor, terms: int) -> Tensor:
    """I + 2Q + 2Q² + … + Qⁿ as PEFT cuts it: the last power, of at least the third, counts once.

    Args:
        q (Tensor): (k, n, n), skew-symmetric.
        eye (Tensor): (k, n, n).
        terms: `num_cayley_neumann_terms`; 1 gives I, 2 gives I + 2Q.
    """
    if terms < 3:
        return eye + 2 * q if terms == 2 else eye.clone()
    power = q @ q
    total = eye + 2 * q + 2 * power
    for _ in range(3, terms - 1):
        power = power @ q
        total = total + 2 * power
    return total + power @ q

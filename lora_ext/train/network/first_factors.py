"""First factors of a LoRA that are parts of the layer's own weight: PiSSA and OLoRA."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.block_settings import RankAndAlpha

_POWER_ITERATIONS = 16
"""Of PiSSA's singular vectors; PEFT's `pissa_niter_16`."""


@torch.no_grad()
def first_factors(weight: Tensor, size: RankAndAlpha, init: str) -> tuple[Tensor, Tensor] | None:
    """Computes the factors that a LoRA starts with, as PEFT does.

    PiSSA (Meng et al. 2024, arXiv 2404.02948): scale · U·D are the R largest singular values of W with their vectors,
    the root of each value in either factor. OLoRA (Büyükakyüz 2024, arXiv 2406.01775): the first columns of Q and rows
    of R of W = Q·R.

    Args:
        weight: W, (out, in[, kh, kw]).
        size: Rank R, at most both sides of W as a matrix, and alpha.
        init: "pissa", "olora" or "kaiming".

    Returns:
        D (R, in[, kh, kw]) and Uᵀ (R, out), float32, on the CPU; filled with zeros where W has fewer ranks. None for
        "kaiming".
    """
    if init == "kaiming":
        return None
    matrix = weight.detach().cpu().float().flatten(1)
    rank = min(size.rank, *matrix.shape)
    if init == "olora":
        q, r = torch.linalg.qr(matrix)
        up, down = q[:, :rank], r[:rank]
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the same factors when a run is resumed
            u, s, v = torch.svd_lowrank(matrix, q=min(rank + 8, *matrix.shape), niter=_POWER_ITERATIONS)
        root = (s[:rank] * size.rank / (size.alpha or size.rank)).sqrt()
        up, down = u[:, :rank] * root, root[:, None] * v[:, :rank].t()
    missing = size.rank - rank
    down, up = (torch.cat([t, t.new_zeros(missing, t.shape[1])]) for t in (down, up.t()))
    return down.unflatten(1, weight.shape[1:]), up

"""`Batch`: what one forward pass of training gets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .buckets import PixelSize


@dataclass(frozen=True)
class Batch:
    """n pictures of one size, for one process. Tensors are on the CPU, float32; sizes and places in pixels.

    pixels: (n, 3, h, w) in −1..1, or None where `latents` (n, 4, h/8, w/8) were cached.
    captions: as trained in this step. regularisation: which pictures are for that. weights: (n,), 1 or
    `prior_loss_weight` for those.
    mask: (n, 1, h/8, w/8) in 0..1, or None. bucket: (w, h).
    original_sizes: (w, h) of each picture before scaling. crops: (left, top) of the cut in the scaled picture.
    seeds: a number for each picture that depends only on (seed, epoch, picture, repeat): noise and timesteps drawn
    from it are the same however the pictures are spread over batches and processes.
    scale: multiply the mean of the rows' weighted losses by it, so that the mean over all processes is the mean over
    the whole batch. 1, but for an epoch's last batches, which may not be full: there a process without a picture gets
    a row of weight 0.
    """

    pixels: Tensor | None
    latents: Tensor | None
    captions: list[str]
    regularisation: tuple[bool, ...]
    weights: Tensor
    mask: Tensor | None
    paths: tuple[str, ...]
    original_sizes: tuple[PixelSize, ...]
    crops: tuple[tuple[int, int], ...]
    bucket: PixelSize
    seeds: tuple[int, ...]
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.captions)

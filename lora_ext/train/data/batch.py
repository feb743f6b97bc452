"""`Batch`: the input of one forward pass of training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .buckets import PixelSize


@dataclass(frozen=True)
class Batch:
    """n images of one size for one process, with their captions. Tensors are on the CPU, float32.

    Attributes:
        pixels: (n, 3, h, w) in −1..1; None where `latents` are cached.
        latents: (n, 4, h/8, w/8), scaled; None where pixels are given.
        captions: The captions of this step, n.
        regularisation: Which images are regularisation images, n.
        weights: (n,), 1 or `prior_loss_weight` of regularisation images.
        mask: (n, 1, h/8, w/8) in 0..1, or None.
        paths: The image files, n.
        original_sizes: (w, h) of each image before scaling, in pixels.
        crops: (left, top) of the crop in the scaled image, in pixels.
        bucket: (w, h) in pixels.
        seeds: One number for each image that depends only on (seed, epoch, image, repeat). Noise and timesteps drawn
            from it are the same for any number of processes and any batch size.
        scale: Factor on the mean of the weighted losses, so that the mean over all processes is that of the whole
            batch. It is 1 except for an epoch's last batches, which may not be full; there a process without an image
            gets one of weight 0.
        step: Optimizer steps of the run before this batch.
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
    step: int = 0

    def __len__(self) -> int:
        return len(self.captions)

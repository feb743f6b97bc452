"""Buckets: the sizes at which images of different aspect ratios are trained.

Sizes are (width, height) in pixels. The rules are those of kohya's scripts (`model_util.make_bucket_resolutions`): a
grid of sizes whose area is below the resolution's; the nearest aspect ratio is chosen; the image is scaled to cover its
bucket, and what exceeds the bucket is cropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ...errors import TrainError
from ...protocols import VAE_SCALE_FACTOR
from ..config.recipe import Recipe

PixelSize = tuple[int, int]


@dataclass(frozen=True)
class BucketRules:
    """The options of kohya's scripts of the same names. Raises TrainError for impossible sizes.

    Attributes:
        resolution: (width, height) that gives the area of all buckets.
        enable_bucket: Whether images keep their aspect ratios; without it all are cropped to `resolution`.
        min_bucket_reso: Shortest side of a bucket.
        max_bucket_reso: Longest side of a bucket.
        bucket_reso_steps: Sides of buckets are multiples of it.
        bucket_no_upscale: Whether images are only reduced, never enlarged.
    """

    resolution: PixelSize = (512, 512)
    enable_bucket: bool = Recipe.enable_bucket
    min_bucket_reso: int = Recipe.min_bucket_reso
    max_bucket_reso: int = Recipe.max_bucket_reso
    bucket_reso_steps: int = Recipe.bucket_reso_steps
    bucket_no_upscale: bool = Recipe.bucket_no_upscale

    def __post_init__(self) -> None:
        width, height = self.resolution
        if min(width, height) < VAE_SCALE_FACTOR:
            raise TrainError(f"resolution {width}x{height} is too small to train at; give 512, or 768 for SD2")
        if not self.enable_bucket:
            if width % VAE_SCALE_FACTOR or height % VAE_SCALE_FACTOR:
                near = f"{_down(width, VAE_SCALE_FACTOR)}x{_down(height, VAE_SCALE_FACTOR)}"
                raise TrainError(f"resolution {width}x{height} is not a multiple of {VAE_SCALE_FACTOR}; give {near}")
            return
        if self.bucket_reso_steps < VAE_SCALE_FACTOR or self.bucket_reso_steps % VAE_SCALE_FACTOR:
            raise TrainError(
                f"bucket_reso_steps {self.bucket_reso_steps} is not a multiple of {VAE_SCALE_FACTOR}; give 64"
            )
        if self.bucket_no_upscale:
            if self.bucket_reso_steps > math.isqrt(width * height):
                raise TrainError(f"bucket_reso_steps {self.bucket_reso_steps} is above the resolution {width}x{height}")
            return
        if self.min_bucket_reso > min(width, height):
            raise TrainError(
                f"min_bucket_reso {self.min_bucket_reso} is above the resolution {width}x{height}; "
                f"give {min(width, height)} or less"
            )
        if self.max_bucket_reso < max(width, height):
            raise TrainError(
                f"max_bucket_reso {self.max_bucket_reso} is below the resolution {width}x{height}; "
                f"give {max(width, height)} or more"
            )
        if not bucket_sizes(self):
            raise TrainError(
                f"no bucket fits between min_bucket_reso {self.min_bucket_reso} and max_bucket_reso "
                f"{self.max_bucket_reso} in steps of {self.bucket_reso_steps}; a bucket_reso_steps of 8 or 64 does"
            )


class BucketFit(NamedTuple):
    """The bucket of an image, and the size it is scaled to before it is cropped.

    Attributes:
        bucket: (width, height).
        resized: (width, height), at least the bucket's on both sides.
    """

    bucket: PixelSize
    resized: PixelSize

    @property
    def cut_share(self) -> float:
        """The share of the image that is cropped, from 0 to 1."""
        return 1 - self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])


@lru_cache(maxsize=64)
def bucket_sizes(rules: BucketRules) -> tuple[PixelSize, ...]:
    """All buckets, sorted: every width in steps with the largest height that the area allows, and both swapped."""
    step, low = rules.bucket_reso_steps, rules.min_bucket_reso
    area = rules.resolution[0] * rules.resolution[1]
    square = _down(math.isqrt(area), step)
    sizes = {(square, square)} if square else set()
    for width in range(low, rules.max_bucket_reso + 1, step):
        height = min(rules.max_bucket_reso, _down(area // width, step))
        if height >= low:
            sizes |= {(width, height), (height, width)}
    # a min_bucket_reso that is not a multiple of 8 would give sizes that no latent has
    return tuple(sorted(size for size in sizes if not size[0] % VAE_SCALE_FACTOR and not size[1] % VAE_SCALE_FACTOR))


def fit_to_bucket(size: PixelSize, rules: BucketRules) -> BucketFit:
    """Chooses the bucket of an image.

    Args:
        size: (width, height) of the image.
        rules: The bucket rules.

    Returns:
        The bucket, and the size to scale the image to.

    Raises:
        TrainError: The image has no pixels.

    Example:
        >>> fit_to_bucket((1000, 500), BucketRules(enable_bucket=True))
        BucketFit(bucket=(704, 320), resized=(704, 352))
    """
    if min(size) < 1:
        raise TrainError(f"a picture of {size[0]}x{size[1]} pixels cannot be trained")
    if not rules.enable_bucket:
        return BucketFit(rules.resolution, covering_size(size, rules.resolution))
    if rules.bucket_no_upscale:
        return _without_upscaling(size, rules)
    sizes = bucket_sizes(rules)
    aspect = size[0] / size[1]
    bucket = size if size in sizes else min(sizes, key=lambda s: abs(s[0] / s[1] - aspect))
    return BucketFit(bucket, covering_size(size, bucket))


def covering_size(size: PixelSize, bucket: PixelSize) -> PixelSize:
    """The smallest size that covers `bucket` with the aspect ratio of `size`."""
    wide = size[0] * bucket[1] > bucket[0] * size[1]
    scale = bucket[1] / size[1] if wide else bucket[0] / size[0]
    width, height = (int(side * scale + 0.5) for side in size)
    return max(width, bucket[0]), max(height, bucket[1])


def _without_upscaling(size: PixelSize, rules: BucketRules) -> BucketFit:
    """The fit with `bucket_no_upscale`: reduced to the resolution's area, one side on a step; the bucket is inside."""
    step, area = rules.bucket_reso_steps, rules.resolution[0] * rules.resolution[1]
    resized = size
    if size[0] * size[1] > area:
        aspect = size[0] / size[1]
        width = math.sqrt(area * aspect)
        by_width, by_height = _round_down(width, step), _round_down(area / width, step)
        other_height = _round_down(by_width / aspect, step)
        other_width = _round_down(by_height * aspect, step)
        off_width = abs(by_width / other_height - aspect) if other_height else math.inf
        off_height = abs(other_width / by_height - aspect) if by_height else math.inf
        if off_width < off_height or not by_height:
            resized = by_width, int(by_width / aspect + 0.5)
        else:
            resized = int(by_height * aspect + 0.5), by_height
    if min(resized) >= step:
        return BucketFit((_down(resized[0], step), _down(resized[1], step)), resized)
    # where kohya's scripts divide by zero: a side shorter than a step is enlarged to one, and the other is cropped to
    # what the area allows
    width, height = (max(step, _down(min(side, area // step), step)) for side in resized)
    return BucketFit((width, height), covering_size(size, (width, height)))


def _down(value: int, step: int) -> int:
    return value - value % step


def _round_down(value: float, step: int) -> int:
    return _down(int(value + 0.5), step)

"""Measures of pictures without any model: difference, sharpness, clipping, noise, likeness, nearness (plain NumPy)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from einops import reduce
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[np.float32]

COLOUR_EDGE_LABEL = "colours and edges"
"""What `colour_edge_features` measures, for messages where it replaces an image model."""


def image_array(image: Image.Image, size: tuple[int, int] | None = None) -> Array:
    """A picture as a float32 array (h, w, 3) with values 0 to 1.

    Args:
        image: the picture.
        size: (width, height) to crop to (around the middle) and resize to; None for its own size.
    """
    flat = image.convert("RGB")
    if size is not None:
        flat = ImageOps.fit(
            flat, size, Image.Resampling.BOX if min(flat.size) > max(size) else Image.Resampling.BICUBIC
        )
    return np.asarray(flat, dtype=np.float32) / np.float32(255)


def _grey(values: Array) -> Array:
    """The brightness, (h, w), with the weights of ITU-R BT.601."""
    return np.asarray(values @ np.array([0.299, 0.587, 0.114], np.float32))


def colour_difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of all colour values, 0 to 1; the second picture is resized to the size of the first.

    A difference of 1 of 255 counts as 0: by so much the same picture may differ from batch to batch by rounding.
    """
    distance = np.abs(image_array(one) - image_array(other, one.size))
    return float(np.where(distance < 1.5 / 255, 0, distance).mean())


def sharpness(image: Image.Image) -> float:
    """Standard deviation of the Laplacian of the brightness, at up to 512 pixels: it grows with detail and noise."""
    shown = image.copy()
    shown.thumbnail((512, 512))
    grey = _grey(image_array(shown))
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(laplacian.std()) if laplacian.size else 0.0


def clipped_share(image: Image.Image) -> float:
    """Share of colour values within 1 % of an end of their scale, 0 to 1; it is large for overdriven pictures."""
    values = image_array(image)
    return float(((values < 0.01) | (values > 0.99)).mean())


def noise_level(image: Image.Image) -> float:
    """Standard deviation of the noise in the brightness, 0 to 1, at up to 512 pixels.

    σ = median |L| / (6 · 0.6745). L is the second difference down and across, which is zero on flat areas and along
    straight edges (mask: Immerkaer 1996; 6 is its norm). The median (Donoho 1995; 0.6745 is that of |x| for a normal
    distribution) ignores what only a few pixels have, so that edges, frames and stripes do not count as noise.
    """
    shown = image.copy()
    shown.thumbnail((512, 512))
    grey = _grey(image_array(shown))
    down = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    both = down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:]
    return float(np.median(np.abs(both)) / (6 * 0.6745)) if both.size else 0.0


def colour_edge_features(image: Image.Image) -> Array:
    """A unit vector of a picture's colours and edges, whose scalar products measure likeness (not meaning).

    Returns:
        (4³ + 16·3 + 16·8,) float32: a histogram of the colours, the mean colours in a 4×4 grid, and the directions of
        edges in that grid (Dalal & Triggs 2005).
    """
    values = image_array(image, (64, 64))
    bins = np.minimum((values * 4).astype(int), 3) @ np.array([16, 4, 1])
    colours = np.sqrt(np.bincount(bins.ravel(), minlength=64) / bins.size)
    grid = reduce(values, "(row h) (column w) c -> row column c", "mean", row=4, column=4) - 0.5
    down, right = np.gradient(_grey(values))
    angle = ((np.arctan2(down, right) / np.pi % 1) * 8).astype(int) % 8
    cell = (np.arange(64) // 16)[:, None] * 4 + np.arange(64) // 16
    edges = np.bincount((cell * 8 + angle).ravel(), weights=np.hypot(down, right).ravel(), minlength=128)
    parts = [_unit(part.ravel()) for part in (colours, grid, np.sqrt(edges))]
    return np.concatenate(parts).astype(np.float32) / np.float32(np.sqrt(3))


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


def mean_likeness(features: Array, references: Array) -> Array:
    """The mean scalar product of each feature vector with its three nearest references.

    Args:
        features: (n, d), unit rows.
        references: (m, d), unit rows.

    Returns:
        (n,)
    """
    near = np.sort(features @ references.T, axis=1)[:, ::-1]
    return np.asarray(near[:, : min(3, references.shape[0])].mean(axis=1))


def thumbnail_vectors(images: Sequence[Image.Image]) -> Array:
    """Small copies of pictures, (n, 32·32·3), by which `nearest_image` finds near-duplicates."""
    return np.stack([image_array(image, (32, 32)).ravel() for image in images])


def nearest_image(image: Image.Image, others: Array) -> tuple[int, float]:
    """Finds the picture that is nearest to another one or to its mirror image.

    Args:
        image: the picture.
        others: the others, from `thumbnail_vectors`.

    Returns:
        The index of the nearest one, and the root mean square of the colour differences to it, 0 to 1.
    """
    small = image_array(image, (32, 32))
    both = np.stack([small.ravel(), small[:, ::-1].ravel()])
    distance = np.sqrt(((both[:, None] - others[None]) ** 2).mean(axis=2)).min(axis=0)
    index = int(distance.argmin())
    return index, float(distance[index])

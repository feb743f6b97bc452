"""`Region`: a part of the picture, parsed from `at=` in a tag, and its mask at any resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ..counted_words import counted
from ..errors import PromptError

PLACE_WORDS = ("left", "right", "top", "bottom", "center", "col", "row")
"""The words of `at=`; a mask has none of these names."""
MASK_GRID = 1 << 20
"""Masks are rounded to multiples of 1/MASK_GRID, so that sums of masks are exact in float32, in any order."""

_HALVES = {"left": (0.0, 0.5), "right": (0.5, 1.0), "top": (0.0, 0.5), "bottom": (0.5, 1.0)}
_WORDS = re.compile(
    r"(?P<half>left|right|top|bottom|cent(?:er|re))|(?P<axis>col|row)\s*(?P<place>\d+)\s*/\s*(?P<of>\d+)"
)
_NUMBER = r"\s*(\d+\.?\d*|\.\d+)\s*"
_RECTANGLE = re.compile(rf"{_NUMBER}-{_NUMBER};{_NUMBER}-{_NUMBER}")
_NO_NAME = re.compile(r'[\x00-\x1f<>:;=,"|?*\\/]')
_MOST_TEXT = 200
"""Characters of the text of a region."""
_ACCEPTED = "write left, right, top, bottom, center, col 2/3, row 1/2, x0-x1;y0-y1 in shares of the sides, or a mask"


@dataclass(frozen=True)
class Region:
    """A rectangle, in shares of the picture's sides, or a mask.

    Attributes:
        left: where it begins, 0 for the left edge of the picture.
        right: where it ends, 1 for the right edge of the picture.
        top: where it begins, 0 for the upper edge.
        bottom: where it ends, 1 for the lower edge.
        feather: width of the soft edge as a share of the side, half of it on each side of the edge; edges of the
            picture stay hard.
        mask_name: the mask's name; "" for a rectangle.
        pixels: (height, width) float32 in 0..1 of a mask; None until it is loaded.
    """

    left: float = 0.0
    right: float = 1.0
    top: float = 0.0
    bottom: float = 1.0
    feather: float = 0.0
    mask_name: str = ""
    pixels: Tensor | None = field(default=None, compare=False, repr=False)

    def with_pixels(self, pixels: Tensor) -> Region:
        """Returns the region with the pixels of its mask, (height, width) in 0..1."""
        return replace(self, pixels=pixels)

    def format_region(self) -> str:
        """Formats the text of `at=` that parses to this region, without the soft edge.

        Example:
            >>> parse_region("col 1/2").format_region()
            '0-0.5;0-1'
        """
        return self.mask_name or f"{self.left:.6g}-{self.right:.6g};{self.top:.6g}-{self.bottom:.6g}"

    def mask(self, height: int, width: int) -> Tensor:
        """Computes how much of each pixel the region covers.

        Args:
            height: rows of the mask: the picture's, its latent's or a layer's.
            width: columns of the mask.

        Returns:
            (height, width) float32 on the CPU in 0..1, multiples of 1/MASK_GRID; 1 where a pixel is covered.

        Raises:
            PromptError: the region names a mask that is not loaded.

        Example:
            >>> parse_region("left").mask(1, 4).tolist()
            [[1.0, 1.0, 0.0, 0.0]]
        """
        if self.mask_name:
            if self.pixels is None:
                raise PromptError(f"the mask {self.mask_name!r} is not loaded")
            return _round(_scale(_blur(self.pixels.float(), self.feather), height, width))
        rows = _axis_profile(self.top, self.bottom, self.feather, height)
        columns = _axis_profile(self.left, self.right, self.feather, width)
        return _round(rows[:, None] * columns)


@lru_cache(maxsize=256)
def parse_region(text: str, feather: float = 0.0) -> Region:
    """Parses the text of `at=`. Several words narrow the region: `top left`.

    Args:
        text: such as `left`, `top right`, `center`, `col 2/3`, `row 1/2`, `0-0.5;0.25-1` (columns, then rows), or the
            name of a mask.
        feather: width of the soft edge as a share of the side, 0 to 1.

    Returns:
        The region. What is no place is the name of a mask, whether there is one or not.

    Raises:
        PromptError: the text is no region; the message says what is accepted.

    Example:
        >>> parse_region("col 2/4")
        Region(left=0.25, right=0.5, top=0.0, bottom=1.0, feather=0.0, mask_name='')
    """
    if not 0 <= feather <= 1:
        raise PromptError(f"feather={feather:g} is outside 0 to 1, a share of the picture's side")
    text = " ".join(text.split())
    if len(text) > _MOST_TEXT:  # the patterns take quadratic time
        raise PromptError(f"at={text[:100]}… is no region; {_ACCEPTED}'s name")
    if rectangle := _RECTANGLE.fullmatch(text):
        left, right, top, bottom = map(float, rectangle.groups())
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise PromptError(f"at={text}: each side is from a smaller to a larger share of 0 to 1, such as 0-0.5;0-1")
        return Region(left, right, top, bottom, feather)
    sides = _parse_words(text)
    if sides is not None:
        return Region(*sides["x"], *sides["y"], feather)
    if not text or _NO_NAME.search(text) or re.match(r"(col|row)\b|[\d.]+\s*-", text) or len(text) > 100:
        raise PromptError(f"at={text[:100]} is no region; {_ACCEPTED}'s name")
    return Region(feather=feather, mask_name=text)


def _parse_words(text: str) -> dict[str, tuple[float, float]] | None:
    """The sides that words of a place leave; None where the text has anything else. Raises PromptError."""
    sides = {"x": (0.0, 1.0), "y": (0.0, 1.0)}
    if not text or _WORDS.sub("", text.lower()).strip():
        return None
    for match in _WORDS.finditer(text.lower()):
        word = match["half"] or match["axis"]
        if match["axis"]:
            place, count = int(match["place"]), int(match["of"])
            if not 1 <= place <= count:
                raise PromptError(
                    f"at={text}: {match[0]} is none of {counted(count, 'part')}; they count from 1, as in {word} 1/2"
                )
            new = ((place - 1) / count, place / count)
        else:
            new = _HALVES.get(word, (0.25, 0.75))
        for axis in ("x", "y") if word.startswith("cent") else ("x",) if word in ("left", "right", "col") else ("y",):
            begin, end = max(sides[axis][0], new[0]), min(sides[axis][1], new[1])
            if begin >= end:
                raise PromptError(f"at={text} is empty: nothing of the picture is in all of these places")
            sides[axis] = begin, end
    return sides


def combine_masks(masks: Tensor, base_share: float = 0.0, with_base: bool = True) -> Tensor:
    """Computes the weights with which the predictions of overlapping regions are added; they sum to 1 at each pixel.

    Args:
        masks: (regions, height, width) in 0..1.
        base_share: the share of the base within the regions (Regional Prompter's base ratio), 0 to 1.
        with_base: whether the base has a weight map; without it the regions share what none of them covers.

    Returns:
        (1 + regions, height, width), the base first, or (regions, height, width) without it.

    Example:
        >>> combine_masks(torch.tensor([[[1.0, 0.5]], [[1.0, 0.0]]])).tolist()
        [[[0.0, 0.5]], [[0.5, 0.5]], [[0.5, 0.0]]]
    """
    total = masks.sum(0)  # exact in any order, see MASK_GRID
    if not with_base:
        return torch.where(total > 0, masks / total.clamp(min=1.0 / MASK_GRID), 1.0 / len(masks))
    shares = masks / total.clamp(min=1.0) * (1.0 - base_share)
    return torch.cat([(1.0 - total.clamp(max=1.0) * (1.0 - base_share))[None], shares])


def _axis_profile(begin: float, end: float, feather: float, size: int) -> Tensor:
    """(size,) float64: the mean over each pixel of a profile that rises at `begin` and falls at `end`.

    It is the difference of two ramps, so that neighbours with equal feather add up to 1.
    """
    edges = torch.linspace(0, 1, size + 1, dtype=torch.float64)

    def ramp(edge: float) -> Tensor:
        if edge in (0.0, 1.0):
            return torch.full((size,), 1.0 - edge, dtype=torch.float64)
        distance = (edges - (edge - feather / 2)).clamp(min=0)
        rising = distance.clamp(max=feather)
        integral = (rising * rising / (2 * feather) if feather else 0.0) + (distance - feather).clamp(min=0)
        return _round((integral[1:] - integral[:-1]) * size)

    return ramp(begin) - ramp(end)


def _round(values: Tensor) -> Tensor:
    return (values * MASK_GRID).round().div(MASK_GRID).clamp(0, 1).to(torch.float32)


def _blur(pixels: Tensor, feather: float) -> Tensor:
    """Averages over a square of `feather` of the shorter side, which makes a hard edge a ramp of that width."""
    reach = round(feather * min(pixels.shape) / 2)
    if not reach:
        return pixels
    padded = functional.pad(pixels[None, None], (reach,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * reach + 1, stride=1)[0, 0]


def _scale(pixels: Tensor, height: int, width: int) -> Tensor:
    """Averages over the area of each new pixel."""
    return functional.adaptive_avg_pool2d(pixels[None, None], (height, width))[0, 0]

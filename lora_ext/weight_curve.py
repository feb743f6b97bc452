"""Weights that change from step to step: `0@0,1@0.5,0@1` in a tag, and block weights `INALL@0;OUTALL@0.5`.

The syntax is sd-webui-loractl's. A keyframe is `VALUE@PLACE`; between two keyframes the value changes linearly, before
the first and after the last it is constant. Places are shares of the pass where the last one is at most 1, else steps;
with an `s`, `1@s14.6,0@s0.5`, they are noise levels (sigma), so that a curve means the same at 8 and at 40 steps.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .block_weights import BlockWeights, parse_finite_number
from .blocks import BASE, BLOCK_LABELS
from .errors import BlockError, did_you_mean

EASINGS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "ease-in": lambda share: share * share,
    "ease-out": lambda share: share * (2.0 - share),
    "cosine": lambda share: 0.5 - 0.5 * math.cos(math.pi * share),
    "step": lambda share: 0.0,
}
"""How a curve goes from one keyframe to the next: share of the way in time → share of the difference in value."""

_KEYFRAME = re.compile(r"^(?P<value>[^@~]*?)\s*(?:[@~]\s*(?P<place>\S+)(?:\s+(?P<easing>\S+))?)?$")


@dataclass(frozen=True)
class Keyframes:
    """The places of a curve's keyframes.

    Attributes:
        places: in the order of time: ascending, noise levels descending.
        easings: for each keyframe how the curve comes to it from the one before, a name of `EASINGS`.
        in_steps: whether places are steps from 0; otherwise they are shares: 0 is the first step, 1 the last one.
        in_sigmas: whether places are noise levels.
    """

    places: tuple[float, ...]
    easings: tuple[str, ...]
    in_steps: bool
    in_sigmas: bool = False

    def locate(self, step: int, total: int, sigma: float | None = None) -> tuple[int, float]:
        """Finds where a step lies.

        Between noise levels the way is measured in log sigma, in which the steps of samplers are about evenly spread.

        Args:
            step: the step, from 0.
            total: the number of steps.
            sigma: the noise level at the step; infinite before the first one.

        Returns:
            (index of a keyframe, share from 0 to below 1 of the way from its value to the next one's).

        Raises:
            BlockError: places are noise levels, and `sigma` is not given.
        """
        if not self.in_sigmas:
            places, place = self.places, step if self.in_steps else step / max(total - 1, 1)
        elif sigma is None:
            raise BlockError("a weight curve over noise levels (@s) needs the noise level; pass at_step(…, sigma=…)")
        else:
            places = tuple(-math.log(level) for level in self.places)
            place = -math.log(sigma) if sigma > 0 else math.inf
        after = bisect_right(places, place)
        if after in (0, len(places)):
            return max(after - 1, 0), 0.0
        first, last = places[after - 1], places[after]
        return after - 1, EASINGS[self.easings[after]]((place - first) / (last - first))

    def format_values(self, values: tuple[str, ...], separator: str = ",") -> str:
        """Formats keyframes with their values as text that parses to them again."""
        rows = zip(values, self.places, self.easings, strict=True)
        sign = "s" if self.in_sigmas else ""
        return separator.join(
            f"{value}@{sign}{place:g}" + (f" {easing}" if easing != "linear" else "") for value, place, easing in rows
        )


@dataclass(frozen=True)
class WeightCurve:
    """A weight that changes from step to step.

    Attributes:
        keyframes: their places.
        values: the weight at each keyframe.
    """

    keyframes: Keyframes
    values: tuple[float, ...]

    def at(self, step: int, total: int, sigma: float | None = None) -> float:
        """Returns the weight at a step.

        Args:
            step: the step, from 0.
            total: the number of steps.
            sigma: the noise level, for a curve over noise levels; as for `Keyframes.locate`.

        Example:
            >>> curve = parse_curve("0@0,1@0.5,0@1")
            >>> [curve.at(step, 5) for step in range(5)]
            [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        index, share = self.keyframes.locate(step, total, sigma)
        value = self.values[index]
        return value + share * (self.values[index + 1] - value) if share else value

    def times(self, weight: float) -> WeightCurve:
        """Returns the curve with all its weights multiplied by a number."""
        return WeightCurve(self.keyframes, tuple(value * weight for value in self.values))

    def format_curve(self) -> str:
        """Formats the curve as text that parses to it again."""
        return self.keyframes.format_values(tuple(f"{value:g}" for value in self.values))


@dataclass(frozen=True)
class BlockWeightCurve:
    """Block weights that change from step to step.

    Attributes:
        keyframes: their places.
        values: the block weights at each keyframe.
    """

    keyframes: Keyframes
    values: tuple[BlockWeights, ...]

    def at(self, step: int, total: int, sigma: float | None = None) -> BlockWeights:
        """Returns the block weights at a step. BASE, the text encoder's, is always the first keyframe's.

        Args:
            step: the step, from 0.
            total: the number of steps.
            sigma: as for `WeightCurve.at`.
        """
        return self._between_keyframes(*self.keyframes.locate(step, total, sigma))

    def at_keyframes(self) -> list[BlockWeights]:
        """The block weights at each keyframe; those between two keyframes lie between theirs."""
        return [self._between_keyframes(index, 0.0) for index in range(len(self.values))]

    def _between_keyframes(self, index: int, share: float) -> BlockWeights:
        start = self.values[index]
        end = self.values[index + 1] if share else start
        weights = {name: _between(start, end, name, share) for name in BLOCK_LABELS}
        return BlockWeights(weights | {BASE: self.values[0].weight_of(BASE)}, start.rules, start.labels)


def _between(start: BlockWeights, end: BlockWeights, block: str, share: float) -> float:
    first = start.weights.get(block, 1.0)
    return first + share * (end.weights.get(block, 1.0) - first) if share else first


def is_curve(text: str) -> bool:
    """Whether a weight or block weights are written with keyframes."""
    return "@" in text or "~" in text


def parse_weight(text: str, where: str) -> tuple[float, WeightCurve | None]:
    """Parses a weight, a number or keyframes.

    Args:
        text: the weight.
        where: the whole text it stands in, which the message quotes.

    Returns:
        (the number, None), or (1, the curve). A curve that never changes is a number.

    Raises:
        BlockError: it is neither; the message quotes it.
    """
    if not is_curve(text):
        return parse_finite_number(text, where), None
    curve = parse_curve(text)
    return (1.0, curve) if len(set(curve.values)) > 1 else (curve.values[0], None)


@lru_cache(maxsize=1024)
def parse_curve(text: str) -> WeightCurve:
    """Parses a weight's keyframes.

    Args:
        text: keyframes `VALUE@PLACE` (or `VALUE~PLACE`), separated by `,` or `;`, in any order; a word after the place
            says how the curve comes to it: `linear` (the default), `ease-in`, `ease-out`, `cosine`, or `step`, which
            keeps the value before it until the place. A keyframe without a place is at the end, place 1. Places with
            an `s`, such as `s14.6`, are noise levels; then all of them are.

    Returns:
        The curve.

    Raises:
        BlockError: the text cannot be parsed; the message quotes it.

    Example:
        >>> parse_curve("1@0.5 cosine; 0@0").format_curve()
        '0@0,1@0.5 cosine'
    """
    rows, keyframes = _split_keyframes(text, re.split(r"[,;]", text))
    return WeightCurve(keyframes, tuple(parse_finite_number(value, text) for value in rows))


def parse_blocks_or_curve(text: str, parse: Callable[[str], BlockWeights]) -> BlockWeights | BlockWeightCurve:
    """Parses block weights, constant or with keyframes.

    Args:
        text: the value of `lbw=`.
        parse: parses constant weights, a preset's name or numbers.

    Raises:
        BlockError: it is neither; the message quotes it.
    """
    return parse_block_curve(text, parse) if is_curve(text) else parse(text)


def parse_block_curve(text: str, parse: Callable[[str], BlockWeights]) -> BlockWeightCurve:
    """Parses keyframes of block weights.

    Args:
        text: keyframes `WEIGHTS@PLACE`, separated by `;`, where all weights are presets also by `,`.
        parse: parses the weights of one keyframe, a preset's name or numbers.

    Returns:
        The curve.

    Raises:
        BlockError: the text cannot be parsed; the message quotes it.
    """
    rows, keyframes = _split_keyframes(text, split_block_keyframes(text))
    return BlockWeightCurve(keyframes, tuple(parse(value) for value in rows))


def split_block_keyframes(text: str) -> list[str]:
    """Splits keyframes of block weights: at `;`, or at `,` where all weights are presets."""
    parts = text.split(";")
    if len(parts) == 1 and all(is_curve(part) for part in text.split(",")):
        return text.split(",")
    return parts


def _split_keyframes(text: str, parts: list[str]) -> tuple[list[str], Keyframes]:
    """Returns the values of keyframes as text, in the order of their places, and the places."""
    rows: list[tuple[float, str, str]] = []
    in_sigmas = re.search(r"[@~]\s*s", text, re.IGNORECASE) is not None
    for part in filter(None, map(str.strip, parts)):
        match = _KEYFRAME.match(part)
        if match is None or not match["value"]:
            raise BlockError(f"{part!r} in {text!r} is not a keyframe VALUE@PLACE, such as 0.8@0.5")
        easing = (match["easing"] or "linear").lower()
        if easing not in EASINGS:
            raise BlockError(f"unknown easing {easing!r} in {text!r}{did_you_mean(easing, EASINGS)}")
        rows.append((_parse_place(match["place"], in_sigmas, text), match["value"], easing))
    if not rows:
        raise BlockError(f"{text!r} has no keyframe VALUE@PLACE, such as 0.8@0.5")
    rows.sort(key=lambda row: -row[0] if in_sigmas else row[0])  # two at one place, in the order written, are a jump
    places, values, easings = zip(*rows, strict=True)
    return list(values), Keyframes(places, easings, in_steps=not in_sigmas and places[-1] > 1, in_sigmas=in_sigmas)


def _parse_place(place: str | None, in_sigmas: bool, text: str) -> float:
    """Parses a keyframe's place; `in_sigmas` says that a place of `text` is a noise level."""
    if in_sigmas:
        if place is None or place[0].lower() != "s":
            raise BlockError(f"{text!r} mixes noise levels (@s14.6) with other places; write s at all places or none")
        sigma = parse_finite_number(place[1:], text)
        if sigma <= 0:
            raise BlockError(
                f"noise level {place[1:]} in {text!r} is not above 0; "
                "Stable Diffusion goes from about 14.6 down to about 0.03"
            )
        return sigma
    number = 1.0 if place is None else parse_finite_number(place, text)
    if number < 0:
        raise BlockError(f"place {place} in {text!r} is negative; 0 is the first step")
    return number

"""Block weights (`lbw=`), element rules (`lbwe=`) and their presets, as the block-weight extension has them."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .blocks import BASE, BLOCK_LABELS, BLOCK_LAYOUTS, BlockLayout, parse_block_range
from .errors import BlockError, did_you_mean

BLOCK_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        name: ",".join([values] if "," in values else [values] * 17)
        for name, values in {
            "NONE": "0",
            "ALL": "1",
            "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
            "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
            "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
            "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
            "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
            "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
            "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
            "ALL0.5": "0.5",
        }.items()
    }
)
"""Presets of the block-weight extension (sd-webui-lora-block-weight): name → 17 numbers."""


ELEMENT_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "ATTNDEEPON": "IN05-OUT05:attn:1",
        "ATTNDEEPOFF": "IN05-OUT05:attn:0",
        "PROJDEEPOFF": "IN05-OUT05:proj:0",
    }
)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_FLUX_BLOCKS = 61
"""Block weights of Flux in the block-weight extension: CLIP, T5, IN, 19 double blocks, 38 single blocks and OUT."""


@dataclass(frozen=True)
class ElementRule:
    """An element rule, `BLOCKS:ELEMENTS:weight`: layers in these blocks whose name contains an element get the weight.

    Attributes:
        blocks: labels of blocks; empty means every block.
        elements: parts of layer names; empty means every layer.
        weight: the weight that replaces the block's.
        blocks_not: whether all blocks except `blocks` are meant (written with NOT).
        elements_not: whether all layers except those with `elements` are meant (written with NOT).
        text: the rule as it was written.
    """

    blocks: tuple[str, ...]
    elements: tuple[str, ...]
    weight: float
    blocks_not: bool = False
    elements_not: bool = False
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> ElementRule:
        """Parses a rule.

        Args:
            text: `BLOCKS:ELEMENTS:weight`; BLOCKS and ELEMENTS may begin with NOT.

        Returns:
            The rule.

        Raises:
            BlockError: the text is no rule; the message quotes it.

        Example:
            >>> rule = ElementRule.parse("IN05-IN06:attn:0.5")
            >>> rule.blocks, rule.elements, rule.weight
            (('IN05', 'IN06'), ('attn',), 0.5)
        """
        parts = text.split(":")
        if len(parts) != 3:
            raise BlockError(f"element rule {text!r} is not BLOCKS:ELEMENTS:weight, such as IN05-OUT05:attn:0")
        (blocks_not, blocks), (elements_not, elements) = (_negated(p) for p in parts[:2])
        return cls(
            parse_block_range(blocks),
            tuple(elements.split()),
            parse_finite_number(parts[2], text),
            blocks_not,
            elements_not,
            text,
        )

    def applies_to(self, block: str, names: Iterable[str]) -> bool:
        """Whether the rule applies to a layer.

        Args:
            block: the layer's block label.
            names: the layer's names, any of which may contain an element (`layer_names.element_rule_names`).
        """
        in_blocks = not self.blocks or (block in self.blocks) != self.blocks_not
        named = any(element in name for element in self.elements for name in names)
        return in_blocks and (not self.elements or named != self.elements_not)


def _negated(text: str) -> tuple[bool, str]:
    words = text.split()
    return (True, " ".join(words[1:])) if words[:1] == ["NOT"] else (False, text)


def parse_finite_number(text: str, where: str) -> float:
    """Parses a number other than NaN and infinity.

    Args:
        text: the number.
        where: the whole text, which the message quotes.

    Returns:
        The number.

    Raises:
        BlockError: `text` is not a finite number.
    """
    try:
        value = float(text)
    except ValueError:
        raise BlockError(f"{text.strip()!r} in {where!r} is not a number") from None
    if value != value or abs(value) == float("inf"):
        raise BlockError(f"{text.strip()!r} in {where!r} is not finite; write a number")
    return value


@dataclass(frozen=True)
class BlockWeights:
    """Block weights: one weight for each block, and rules for single layers.

    Attributes:
        weights: block label → weight; a label that is absent has weight 1.
        rules: element rules, which override the block's weight; the last rule that applies counts.
        labels: the labels of the vector that the weights were parsed from; None without a vector.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    rules: tuple[ElementRule, ...] = ()
    labels: tuple[str, ...] | None = field(default=None, compare=False)

    def weight_of(self, block: str, names: Iterable[str] = ()) -> float:
        """Returns the weight of a layer.

        Args:
            block: the layer's block label; a layer outside the blocks ("") has weight 1 unless a rule applies to it.
            names: the layer's names for `rules` (`layer_names.element_rule_names`).

        Returns:
            The weight of the last rule that applies, else the block's.
        """
        value = self.weights.get(block, 1.0) if block else 1.0
        if self.rules:
            names = tuple(names)
            for rule in self.rules:
                if rule.applies_to(block, names):
                    value = rule.weight
        return value

    def vector(self, layout: BlockLayout = BLOCK_LAYOUTS[26]) -> tuple[float, ...]:
        """Returns the weights in the order of a layout's labels.

        Args:
            layout: the layout; by default all 26 labels.

        Returns:
            One weight for each label.
        """
        return tuple(self.weights.get(name, 1.0) for name in layout.labels)

    def format_weights(self) -> str:
        """Formats the weights as comma-separated numbers for `lbw=`, in the shortest layout that holds all of them."""
        for layout in sorted(BLOCK_LAYOUTS.values(), key=lambda item: len(item.labels)):
            others = (name for name in BLOCK_LABELS if name not in layout.labels)
            absent = 1.0 if len(layout.labels) == 25 else 0.0
            if all(self.weights.get(name, 1.0) == absent for name in others):
                return ",".join(format(value, "g") for value in self.vector(layout))
        raise AssertionError("26 labels hold every vector")


UNIFORM_WEIGHTS = BlockWeights()
"""Weight 1 for every block: the meaning of a tag without `lbw`."""


def parse_block_weights(
    text: str,
    *,
    presets: Mapping[str, str] = BLOCK_PRESETS,
    x: float = 1.0,
    random_uniform: Callable[[float, float], float] | None = None,
) -> BlockWeights:
    """Parses the block weights of `lbw=`.

    Args:
        text: the name of a preset, or 12, 17, 20, 25 or 26 values separated by commas, also as a JSON list. A value is
            a number, `R` (random from 0 to 1), `U` (random from −0.5 to 1.5), or `X`, `X+n`, `X-n` (`x` plus or minus
            n).
        presets: name → values.
        x: the number that `X` stands for.
        random_uniform: `random_uniform(low, high)` returns a random number; by default it is unseeded. Random values
            are rounded to 3 digits, as they are written into the infotext.

    Returns:
        Weights for all 26 labels. A label that the layout lacks has weight 0, but BASE of a 25-value vector, which is
        kohya's layout for training the U-Net, has weight 1.

    Raises:
        BlockError: the text is neither a preset nor a vector; the message quotes it and names the nearest preset.

    Example:
        >>> parse_block_weights("MIDD").weight_of("MID"), parse_block_weights("MIDD").weight_of("IN01")
        (1.0, 0.0)
    """
    body = unicodedata.normalize("NFC", text.strip())
    known = {name.upper(): value for name, value in presets.items()}
    body = presets.get(body) or known.get(body.upper(), body)
    if body.startswith("[") and body.endswith("]"):  # a JSON list, as kohya's scripts take
        body = body[1:-1]
    values = [value.strip() for value in body.split(",")]
    layout = BLOCK_LAYOUTS.get(len(values))
    if layout is None:
        if len(values) == _FLUX_BLOCKS:
            raise BlockError(
                f"{_FLUX_BLOCKS} block weights are for Flux, whose LoRAs cannot act on SD1, SD2 and SDXL models"
            )
        sizes = ", ".join(str(size) for size in BLOCK_LAYOUTS)
        if _NUMBER.fullmatch(body):
            raise BlockError(
                f"{text.strip()!r} is a single number; block weights are a preset's name, or {sizes} values"
            )
        if len(values) == 1:
            raise BlockError(f"unknown block-weight preset {text.strip()!r}{did_you_mean(body, presets)}")
        raise BlockError(f"{len(values)} block weights in {text.strip()!r}; accepted are {sizes} values")
    random_uniform = random_uniform or random.Random().uniform
    weights = dict.fromkeys(BLOCK_LABELS, 0.0)
    if BASE not in layout.labels:
        weights[BASE] = 1.0
    weights.update(zip(layout.labels, (_parse_weight(v, x, random_uniform, body) for v in values), strict=True))
    return BlockWeights(weights, labels=layout.labels)


def _parse_weight(text: str, x: float, random_uniform: Callable[[float, float], float], where: str) -> float:
    """Parses one value of a vector: a number, R, U, X, X+n or X-n."""
    special = text.upper()
    if special == "R":
        return round(random_uniform(0.0, 1.0), 3)
    if special == "U":
        return round(random_uniform(-0.5, 1.5), 3)
    if special.startswith("X"):
        return x + (parse_finite_number(special[1:], where) if special[1:] else 0.0)
    return parse_finite_number(text, where)


def parse_element_rules(text: str, presets: Mapping[str, str] = ELEMENT_PRESETS) -> tuple[ElementRule, ...]:
    """Parses the element rules of `lbwe=`.

    Args:
        text: the name of a preset, or rules `BLOCKS:ELEMENTS:weight` separated by commas or line ends.
        presets: name → rules.

    Returns:
        The rules in order.

    Raises:
        BlockError: no such preset, or a rule that cannot be parsed.
    """
    body = text.strip()
    if ":" not in body and body not in presets:
        raise BlockError(f"unknown element preset {body!r}{did_you_mean(body, presets)}")
    body = presets.get(body, body)
    return tuple(ElementRule.parse(rule) for rule in re.split(r"[,\n]", body) if rule.strip(" :"))


def parse_block_presets(text: str) -> dict[str, str]:
    r"""Parses a preset file of the block-weight extension.

    Args:
        text: lines `NAME:v,v,…`; a line that begins with `#` is a comment.

    Returns:
        Name → values as text.

    Example:
        >>> parse_block_presets("# mine\nFACE:1,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0")["FACE"][:7]
        '1,0,0,0'
    """
    rows = (line.split(":", 1) for line in text.splitlines() if ":" in line and not line.lstrip().startswith("#"))
    return {unicodedata.normalize("NFC", name.strip()): values.strip() for name, values in rows}

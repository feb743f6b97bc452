"""U-Net addressing: block labels, layouts, block-weight vectors, presets and element rules.

The U-Net of SD1.x/2.x has IN00–IN11, MID, OUT00–OUT11; SDXL's IN00–IN08, MID, OUT00–OUT08. BASE stands for the
text encoders. Two facts a family (all blocks, blocks with attention) generate every layout that users know
(names and lengths: the block-weight extension, kohya's training options).
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .errors import BlockError, did_you_mean

BASE, MID = "BASE", "MID"


def _blocks(depth: int) -> tuple[str, ...]:
    return (*(f"IN{i:02}" for i in range(depth)), MID, *(f"OUT{i:02}" for i in range(depth)))


def _pick(inputs: Iterable[int], outputs: Iterable[int]) -> tuple[str, ...]:
    return (*(f"IN{i:02}" for i in inputs), MID, *(f"OUT{i:02}" for i in outputs))


BLOCK_LABELS: tuple[str, ...] = (BASE, *_blocks(12))
"""The 26 labels, in order. A shorter family uses a subset."""


@dataclass(frozen=True)
class UNetBlocks:
    """A U-Net's two facts: its blocks, and which of them hold attention."""

    name: str
    blocks: tuple[str, ...]
    attention_blocks: tuple[str, ...]


SD_BLOCKS = UNetBlocks("SD1/SD2", _blocks(12), _pick((1, 2, 4, 5, 7, 8), range(3, 12)))
SDXL_BLOCKS = UNetBlocks("SDXL", _blocks(9), _pick((4, 5, 7, 8), range(6)))


@dataclass(frozen=True)
class BlockLayout:
    """The labels that a vector of `len(labels)` numbers speaks about, in order."""

    name: str
    labels: tuple[str, ...]


BLOCK_LAYOUTS: Mapping[int, BlockLayout] = MappingProxyType(
    {
        layout_size: BlockLayout(name, labels)
        for layout_size, name, labels in (
            (12, "SDXL attention blocks", (BASE, *SDXL_BLOCKS.attention_blocks)),
            (17, "SD1/SD2 attention blocks", (BASE, *SD_BLOCKS.attention_blocks)),
            (20, "SDXL all blocks", (BASE, *SDXL_BLOCKS.blocks)),
            (25, "SD1/SD2 all blocks, no BASE", SD_BLOCKS.blocks),
            (26, "SD1/SD2 all blocks", (BASE, *SD_BLOCKS.blocks)),
        )
    }
)

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
"""The presets that users of the block-weight extension know."""

ELEMENT_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "ATTNDEEPON": "IN05-OUT05:attn:1",
        "ATTNDEEPOFF": "IN05-OUT05:attn:0",
        "PROJDEEPOFF": "IN05-OUT05:proj:0",
    }
)


def parse_block_label(text: str) -> str:
    """The canonical label of a block as people write it: `m00`, `in4`, `OUT05` → MID, IN04, OUT05.

    Raises BlockError with the nearest label.
    """
    name = text.strip().upper()
    if name in ("M00", "M0", "MIDDLE"):
        return MID
    match = re.fullmatch(r"(IN|OUT)(\d{1,2})", name)
    if match:
        name = f"{match[1]}{int(match[2]):02}"
    if name not in BLOCK_LABELS:
        raise BlockError(f"unknown block {text.strip()!r}{did_you_mean(name, BLOCK_LABELS)}")
    return name


def parse_block_range(text: str) -> tuple[str, ...]:
    """Labels of `IN04-OUT05`, of one label, of IN / OUT / ALL, or of several separated by blanks, in order."""
    found: set[str] = set()
    for item in text.split():
        ends = item.split("-")
        if len(ends) == 2:
            first, last = sorted(BLOCK_LABELS.index(parse_block_label(end)) for end in ends)
            found.update(BLOCK_LABELS[first : last + 1])
        elif item.upper() in ("IN", "OUT"):
            found.update(name for name in BLOCK_LABELS if name.startswith(item.upper()))
        elif item.upper() == "ALL":
            found.update(BLOCK_LABELS)
        else:
            found.add(parse_block_label(item))
    return tuple(name for name in BLOCK_LABELS if name in found)


@dataclass(frozen=True)
class ElementRule:
    """`BLOCKS:ELEMENTS:weight`: in these blocks, layers whose name contains an element get this weight.

    An empty list means every block, or every layer; a list that begins with NOT means all others.
    """

    blocks: tuple[str, ...]
    elements: tuple[str, ...]
    weight: float
    blocks_not: bool = False
    elements_not: bool = False

    @classmethod
    def parse(cls, text: str) -> ElementRule:
        """From its text form. Raises BlockError that quotes it."""
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
        )

    def applies_to(self, block: str, names: Iterable[str]) -> bool:
        """Whether the layer in `block`, known under any of `names`, is meant."""
        in_blocks = not self.blocks or (block in self.blocks) != self.blocks_not
        named = any(element in name for element in self.elements for name in names)
        return in_blocks and (not self.elements or named != self.elements_not)


def _negated(text: str) -> tuple[bool, str]:
    words = text.split()
    return (True, " ".join(words[1:])) if words[:1] == ["NOT"] else (False, text)


def parse_finite_number(text: str, where: str) -> float:
    """A finite float. Raises BlockError that quotes `where`."""
    try:
        value = float(text)
    except ValueError:
        raise BlockError(f"{text.strip()!r} in {where!r} is not a number") from None
    if value != value or abs(value) == float("inf"):
        raise BlockError(f"{text.strip()!r} in {where!r} is not finite")
    return value


@dataclass(frozen=True)
class BlockWeights:
    """One weight a block label; `rules` override it for single layers. Layers outside every block keep 1."""

    weights: Mapping[str, float] = field(default_factory=dict)
    rules: tuple[ElementRule, ...] = ()
    labels: tuple[str, ...] | None = field(default=None, compare=False)
    """The positions of the vector it was read from, None where there was none."""

    def weight_of(self, block: str, names: Iterable[str] = ()) -> float:
        """The weight of a layer in `block` (its label, "" outside every block), known under any of `names`."""
        value = self.weights.get(block, 1.0) if block else 1.0
        if self.rules:
            names = tuple(names)
            for rule in self.rules:
                if rule.applies_to(block, names):
                    value = rule.weight
        return value

    def vector(self, layout: BlockLayout = BLOCK_LAYOUTS[26]) -> tuple[float, ...]:
        """The weights in a layout's order."""
        return tuple(self.weights.get(name, 1.0) for name in layout.labels)

    def format_weights(self) -> str:
        """The shortest layout that holds these weights, as numbers: what `lbw=` reads back to the same weights."""
        for layout in sorted(BLOCK_LAYOUTS.values(), key=lambda item: len(item.labels)):
            others = (name for name in BLOCK_LABELS if name not in layout.labels)
            absent = 1.0 if len(layout.labels) == 25 else 0.0
            if all(self.weights.get(name, 1.0) == absent for name in others):
                return ",".join(format(value, "g") for value in self.vector(layout))
        raise AssertionError("26 labels hold every vector")


UNIFORM_WEIGHTS = BlockWeights()
"""1 everywhere: what a tag without `lbw` means."""


def parse_block_weights(
    text: str,
    *,
    presets: Mapping[str, str] = BLOCK_PRESETS,
    x: float = 1.0,
    random_uniform: Callable[[float, float], float] | None = None,
) -> BlockWeights:
    """`lbw=`: a preset's name, or 12, 17, 20, 25 or 26 comma-separated values.

    A value is a number, `R` (drawn from 0..1), `U` (drawn from −0.5..1.5), or `X`, `X+n`, `X-n` (taken from `x`).
    `random_uniform(low, high)` draws; drawn values are rounded to 3 digits, as they are written into the infotext.
    Positions that a shorter layout lacks count as 0 (BASE of a 25-value vector as 1).
    Raises BlockError that quotes the text and names the nearest preset.
    """
    body = unicodedata.normalize("NFC", text.strip())
    known = {name.upper(): value for name, value in presets.items()}
    body = presets.get(body) or known.get(body.upper(), body)
    values = [value.strip() for value in body.split(",")]
    layout = BLOCK_LAYOUTS.get(len(values))
    if layout is None:
        if len(values) == 1:
            raise BlockError(f"unknown block-weight preset {text.strip()!r}{did_you_mean(body, presets)}")
        sizes = ", ".join(str(size) for size in BLOCK_LAYOUTS)
        raise BlockError(f"{len(values)} block weights in {text.strip()!r}; a vector has {sizes} values")
    random_uniform = random_uniform or random.Random().uniform
    weights = dict.fromkeys(BLOCK_LABELS, 0.0)
    if BASE not in layout.labels:
        weights[BASE] = 1.0
    weights.update(zip(layout.labels, (_parse_weight(v, x, random_uniform, body) for v in values), strict=True))
    return BlockWeights(weights, labels=layout.labels)


def _parse_weight(text: str, x: float, random_uniform: Callable[[float, float], float], where: str) -> float:
    """One entry of a vector: a number or R, U, X, X+n, X-n."""
    special = text.upper()
    if special == "R":
        return round(random_uniform(0.0, 1.0), 3)
    if special == "U":
        return round(random_uniform(-0.5, 1.5), 3)
    if special.startswith("X"):
        return x + (parse_finite_number(special[1:], where) if special[1:] else 0.0)
    return parse_finite_number(text, where)


def parse_element_rules(text: str, presets: Mapping[str, str] = ELEMENT_PRESETS) -> tuple[ElementRule, ...]:
    """`lbwe=`: a preset's name, or rules separated by commas or line ends. Raises BlockError."""
    body = text.strip()
    if ":" not in body and body not in presets:
        raise BlockError(f"unknown element preset {body!r}{did_you_mean(body, presets)}")
    body = presets.get(body, body)
    return tuple(ElementRule.parse(rule) for rule in re.split(r"[,\n]", body) if rule.strip(" :"))


def parse_block_presets(text: str) -> dict[str, str]:
    """Presets from lines `NAME:v,v,…` (the block-weight extension's file); `#` begins a comment line."""
    rows = (line.split(":", 1) for line in text.splitlines() if ":" in line and not line.lstrip().startswith("#"))
    return {unicodedata.normalize("NFC", name.strip()): values.strip() for name, values in rows}

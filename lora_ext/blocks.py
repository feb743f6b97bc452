"""Blocks of a U-Net: labels, layouts, block weights, presets and element rules.

The U-Net of SD1.x/2.x has the blocks IN00–IN11, MID, OUT00–OUT11; SDXL's has IN00–IN08, MID, OUT00–OUT08. BASE stands
for the text encoders. Every layout is generated from two facts of a model family: all its blocks, and its blocks with
attention. Names and lengths of layouts are those of the block-weight extension and of kohya's training options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .errors import BlockError, did_you_mean

BASE, MID = "BASE", "MID"


def _blocks(depth: int) -> tuple[str, ...]:
    return (*(f"IN{i:02}" for i in range(depth)), MID, *(f"OUT{i:02}" for i in range(depth)))


def _pick(inputs: Iterable[int], outputs: Iterable[int]) -> tuple[str, ...]:
    return (*(f"IN{i:02}" for i in inputs), MID, *(f"OUT{i:02}" for i in outputs))


BLOCK_LABELS: tuple[str, ...] = (BASE, *_blocks(12))
"""The 26 labels in order. SDXL, which has fewer blocks, uses a subset."""


@dataclass(frozen=True)
class UNetBlocks:
    """The blocks of a model family's U-Net.

    Attributes:
        name: the family.
        blocks: labels of all blocks in order, without BASE.
        attention_blocks: labels of the blocks that have attention layers.
    """

    name: str
    blocks: tuple[str, ...]
    attention_blocks: tuple[str, ...]


SD_BLOCKS = UNetBlocks("SD1/SD2", _blocks(12), _pick((1, 2, 4, 5, 7, 8), range(3, 12)))
SDXL_BLOCKS = UNetBlocks("SDXL", _blocks(9), _pick((4, 5, 7, 8), range(6)))


@dataclass(frozen=True)
class BlockLayout:
    """The order of labels in a block-weight vector.

    Attributes:
        name: what a user calls the layout.
        labels: the label of each position; `len(labels)` identifies the layout.
    """

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


def parse_block_label(text: str) -> str:
    """Parses the label of a block as people write it.

    Args:
        text: the label in any case, with one or two digits; M00 and MIDDLE mean MID.

    Returns:
        A label of `BLOCK_LABELS`.

    Raises:
        BlockError: no such block; the message names the nearest label.

    Example:
        >>> [parse_block_label(text) for text in ("m00", "in4", "OUT05")]
        ['MID', 'IN04', 'OUT05']
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
    """Parses a set of blocks.

    Args:
        text: items separated by spaces: a label, a range such as IN04-OUT05, or IN, OUT or ALL.

    Returns:
        The labels in the order of `BLOCK_LABELS`.

    Raises:
        BlockError: an item is no block.

    Example:
        >>> parse_block_range("IN10-OUT01")
        ('IN10', 'IN11', 'MID', 'OUT00', 'OUT01')
    """
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

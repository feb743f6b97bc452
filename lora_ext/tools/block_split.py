"""How the blocks of conflicting LoRA files can be split between them: block weights for each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from ..blocks import BASE, BLOCK_LABELS, BLOCK_LAYOUTS
from ..file.base_model import block_layout_sizes
from ..lora_tags import LoraTag
from .conflicts import ConflictReport

CONFLICT_THRESHOLD = 0.1
"""Interference from which a block counts as a conflict."""


@dataclass(frozen=True)
class FileSplit:
    """The blocks that one file keeps.

    Attributes:
        name: The file's name.
        weight: Its weight.
        keeps: Labels of the blocks that it keeps, in the U-Net's order.
        gives_up: Labels of the blocks that it leaves to another file.
        kept: The share of its energy ‖ΔW‖² that it keeps.
        lbw: Its block weights, the values of a preset; "" where it keeps everything.
        tag: Its tag.
    """

    name: str
    weight: float
    keeps: list[str]
    gives_up: list[str]
    kept: float
    lbw: str
    tag: str


def suggest_split(
    report: ConflictReport, *, threshold: float = CONFLICT_THRESHOLD, every_block: bool = False
) -> list[FileSplit]:
    """Suggests which file keeps which block.

    Files that conflict in a block, directly or through another file, leave it to the one for which it counts most: the
    one with the largest share of its own energy there. Shares are compared, since a strong file would else take every
    block of a weak one. Text encoders stay with every file: they hold what the words of its captions mean.

    Args:
        report: the comparison.
        threshold: the interference from which a block counts as a conflict.
        every_block: whether each block goes to one file only, also without a conflict.

    Returns:
        One suggestion for each file.
    """
    shares = []
    for energies in report.energies:
        total = sum(energies.values())
        shares.append({block: energy / total if total else 0.0 for block, energy in energies.items()})
    given_up: list[set[str]] = [set() for _ in report.names]
    for block in BLOCK_LABELS:
        if block == BASE:
            continue
        for group in _conflicting_groups(report, block, threshold, every_block):
            owner = max(group, key=lambda i: shares[i][block])  # of equal ones the first file
            for i in group - {owner}:
                given_up[i].add(block)
    return [_file_split(report, i, blocks) for i, blocks in enumerate(given_up)]


def _conflicting_groups(report: ConflictReport, block: str, threshold: float, every_block: bool) -> list[set[int]]:
    """Numbers of the files that conflict in a block, as groups that are connected by conflicts."""
    groups = [{i} for i, energies in enumerate(report.energies) if energies.get(block)]
    if every_block:
        return [set().union(*groups)] if groups else []
    for (i, k), pair in zip(combinations(range(len(report.names)), 2), report.pairs, strict=True):
        row = next((row for row in pair.blocks if row.block == block), None)
        if row is None or not row.layers or row.interference < threshold:
            continue
        joined = [group for group in groups if i in group or k in group]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    return groups


def _file_split(report: ConflictReport, i: int, given_up: set[str]) -> FileSplit:
    energies, weight = report.energies[i], report.weights[i]
    present = [label for label in BLOCK_LABELS if label in energies]
    keeps = [label for label in present if label not in given_up]
    total = sum(energies.values())
    kept = 1 - sum(energies[label] for label in given_up) / total if total else 1.0
    lbw = _block_weights(keeps, present, report.families[i]) if given_up else ""
    tag = LoraTag(report.names[i], te=weight, unet=weight, lbw=lbw or None)
    return FileSplit(
        report.names[i], weight, keeps, [label for label in present if label in given_up], kept, lbw, tag.format_tag()
    )


def _block_weights(keeps: Sequence[str], present: Sequence[str], family: str) -> str:
    """1 for blocks to keep and 0 for others, in the family's shorter layout where it has every block of the file."""
    short, full = (BLOCK_LAYOUTS[size] for size in block_layout_sizes(family))
    layout = short if set(present) <= set(short.labels) else full
    return ",".join("1" if label in keeps or label == BASE else "0" for label in layout.labels)

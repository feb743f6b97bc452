"""Which LoRA files conflict: for each pair and block, how much their changes have in common. No file is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from ..blocks import BLOCK_LABELS
from ..counted_words import counted, fill_counts
from ..errors import FitError, ToolError
from ..file.lora_file import LoraFile
from ..layer_names import LayerId
from ..progress import Track, no_progress
from .distinct_names import distinct_names, repeated_names
from .layer_changes import change_of, check_usable
from .layer_overlap import DENSE_DIRECTIONS, ChangeDirections, LayerOverlap, change_directions, layer_overlap

ALL_BLOCKS = "all"
"""The label of the row that adds up all blocks."""
_SAME_COSINE = 0.9
"""Cosine of two files' changes from which using both means using one at a larger weight."""


@dataclass(frozen=True)
class BlockConflict:
    """What the changes of two files, the first and the second, have in common in one block.

    Attributes:
        block: The block's label, "" for layers of no block, "all" for the whole files.
        layers: How many layers both files change.
        interference: 0 where the files share no more than unrelated ones do, 1 where one of them lies wholly in the
            directions of the other; the larger of both files' values.
        cosine: ⟨ΔWa, ΔWb⟩ / (‖ΔWa‖·‖ΔWb‖) over the block: above 0 the changes add up, below 0 they cancel.
        inside: The share of the first file's energy ‖ΔW‖² in the directions of the second, and the other way round.
        by_chance: `inside` as unrelated files of these ranks have it.
        output_angle: The smallest angle in degrees between directions that the files write to, the mean of all shared
            layers; 90 where none is shared.
        input_angle: The same of the directions that they read from.
        norms: ‖ΔW‖ of both files in this block, at their weights.
    """

    block: str
    layers: int
    interference: float
    cosine: float
    inside: tuple[float, float]
    by_chance: tuple[float, float]
    output_angle: float
    input_angle: float
    norms: tuple[float, float]


@dataclass(frozen=True)
class FilePairConflict:
    """The comparison of two files.

    Attributes:
        first: The first file's name.
        second: The second file's name.
        total: The whole files.
        blocks: Each block that at least one of the files changes, in the U-Net's order.
    """

    first: str
    second: str
    total: BlockConflict
    blocks: list[BlockConflict]


@dataclass(frozen=True)
class ConflictReport:
    """The comparison of several files.

    Attributes:
        names: The files' names.
        weights: The files' weights.
        pairs: Each pair of files.
        energies: For each file block → ‖ΔW‖² at its weight, of the layers that were measured.
        families: Each file's base model.
        warnings: Sentences on what was not measured, and on names that a tag cannot tell apart.
        notes: Sentences that inform: what files are called, which do nearly the same, and which are compared by their
            strongest directions.
    """

    names: list[str]
    weights: list[float]
    pairs: list[FilePairConflict]
    energies: list[dict[str, float]]
    families: list[str]
    warnings: list[str]
    notes: list[str]


@dataclass
class _BlockSums:
    """Sums over the layers of one block of two files."""

    layers: int = 0
    inner: float = 0.0
    energies: list[float] = field(default_factory=lambda: [0.0, 0.0])
    inside: list[float] = field(default_factory=lambda: [0.0, 0.0])
    chance: list[float] = field(default_factory=lambda: [0.0, 0.0])
    angles: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add_overlap(self, overlap: LayerOverlap) -> None:
        """Adds a layer that both files change."""
        self.layers += 1
        self.inner += overlap.inner
        for i in (0, 1):
            self.energies[i] += overlap.energies[i]
            self.inside[i] += overlap.inside[i]
            self.chance[i] += overlap.chance[i]
        for i, cosines in enumerate((overlap.column_cosines, overlap.row_cosines)):
            self.angles[i] += math.degrees(math.acos(float(cosines[0]))) if len(cosines) else 90.0

    def add_sums(self, other: _BlockSums) -> None:
        """Adds another block."""
        self.layers, self.inner = self.layers + other.layers, self.inner + other.inner
        for mine, others in zip(
            (self.energies, self.inside, self.chance, self.angles),
            (other.energies, other.inside, other.chance, other.angles),
            strict=True,
        ):
            mine[:] = [a + b for a, b in zip(mine, others, strict=True)]

    def result(self, block: str, weights: tuple[float, float]) -> BlockConflict:
        """The block's row. Weights scale the norms; of the cosine they change only the sign."""
        inside, chance = (
            tuple(min(1.0, part / energy) if energy else 0.0 for part, energy in zip(parts, self.energies, strict=True))
            for parts in (self.inside, self.chance)
        )
        product = math.sqrt(self.energies[0]) * math.sqrt(self.energies[1])
        cosine = math.copysign(1.0, weights[0] * weights[1]) * self.inner / product if product else 0.0
        angles = [angle / self.layers for angle in self.angles] if self.layers else [90.0, 90.0]
        first, second = (abs(w) * math.sqrt(energy) for w, energy in zip(weights, self.energies, strict=True))
        return BlockConflict(
            block,
            self.layers,
            max(_beyond_chance(inside[0], chance[0]), _beyond_chance(inside[1], chance[1])),
            max(-1.0, min(1.0, cosine)),
            (inside[0], inside[1]),
            (chance[0], chance[1]),
            angles[0],
            angles[1],
            (first, second),
        )


def _beyond_chance(share: float, chance: float) -> float:
    """A share as 0 where it is that of unrelated files or less, and 1 where it is 1."""
    if chance >= 1:  # ranks as large as the layer: every file lies inside
        return share
    return max(0.0, (share - chance) / (1 - chance))


def measure_conflicts(
    files: Sequence[LoraFile],
    weights: Sequence[float] | None = None,
    *,
    names: Sequence[str] | None = None,
    track: Track = no_progress,
) -> ConflictReport:
    """Compares the changes of each pair of files, layer by layer.

    Args:
        files: two files or more.
        weights: the weight of each file, by default 1.
        names: what the files are called; by default as `distinct_names` calls them.
        track: shows the progress.

    Returns:
        The comparison.

    Raises:
        ToolError: fewer than two files, NaN, files for different base models or without a common layer.
    """
    weights = list(weights or [1.0] * len(files))
    names, named = (list(names), list[str]()) if names else distinct_names(files)
    if len(files) < 2 or len(weights) != len(files):
        raise ToolError(f"conflicts needs two files or more and a weight for each; got {counted(len(files), 'file')}, "
                        f"{counted(len(weights), 'weight')}")  # fmt: skip
    files = [file.without_damaged() for file in files]
    for file in files:
        check_usable(file)
    sums: dict[tuple[int, int], dict[str, _BlockSums]] = {pair: {} for pair in combinations(range(len(files)), 2)}
    energies: list[dict[str, float]] = [{} for _ in files]
    unmeasured, dense = [0] * len(files), [False] * len(files)
    layer_ids = list(dict.fromkeys(layer_id for file in files for layer_id in file.adapters))
    for layer_id in track(layer_ids, "conflicts"):
        found = _layer_directions(files, layer_id, unmeasured)
        for i, directions in found.items():
            energies[i][layer_id.block] = energies[i].get(layer_id.block, 0.0) + weights[i] ** 2 * directions.energy
            dense[i] |= directions.dense is not None
        for (i, k), blocks in sums.items():
            if i in found or k in found:
                _add_layer(blocks.setdefault(layer_id.block, _BlockSums()), found, (i, k), names, layer_id)
    pairs = [
        _pair(names[i], names[k], blocks, (float(weights[i]), float(weights[k]))) for (i, k), blocks in sums.items()
    ]
    warnings = [*repeated_names(names, files), *_unmeasured_layers(files, names, unmeasured)]
    notes = [*named, *_nearly_same_files(pairs), *_approximated_files(files, names, dense)]
    return ConflictReport(names, weights, pairs, energies, [file.family for file in files], warnings, notes)


def _layer_directions(
    files: Sequence[LoraFile], layer_id: LayerId, unmeasured: list[int]
) -> dict[int, ChangeDirections]:
    """Number of a file → the directions of its ΔW of one layer; counts layers without a ΔW of their own."""
    found = {}
    for i, file in enumerate(files):
        if layer_id not in file.adapters:
            continue
        change = change_of(file, layer_id)
        if change is None:
            unmeasured[i] += 1
        else:
            found[i] = change_directions(change)
    return found


def _add_layer(
    sums: _BlockSums,
    found: Mapping[int, ChangeDirections],
    pair: tuple[int, int],
    names: Sequence[str],
    layer_id: LayerId,
) -> None:
    first, second = (found.get(i) for i in pair)
    if first is not None and second is not None:
        try:
            sums.add_overlap(layer_overlap(first, second))
        except FitError as error:
            raise ToolError(f"{names[pair[0]]} and {names[pair[1]]}, {layer_id}: {error}") from None
        return
    for i, directions in enumerate((first, second)):
        if directions is not None:
            sums.energies[i] += directions.energy


def _pair(first: str, second: str, blocks: Mapping[str, _BlockSums], weights: tuple[float, float]) -> FilePairConflict:
    total = _BlockSums()
    for sums in blocks.values():
        total.add_sums(sums)
    order = [*BLOCK_LABELS, ""]
    rows = [blocks[block].result(block, weights) for block in sorted(blocks, key=order.index)]
    return FilePairConflict(first, second, total.result(ALL_BLOCKS, weights), rows)


def _unmeasured_layers(files: Sequence[LoraFile], names: Sequence[str], unmeasured: Sequence[int]) -> Iterator[str]:
    for file, name, missed in zip(files, names, unmeasured, strict=True):
        text = (
            "{0}: {1} of {2} layers is not measured, since its change depends on the base model's weights ({3})"
            if missed == 1
            else "{0}: {1} of {2} layers are not measured, since their change depends on the base model's weights ({3})"
        )
        if missed:
            yield fill_counts(text, name, missed, len(file.adapters), ", ".join(file.kinds))


def _nearly_same_files(pairs: Sequence[FilePairConflict]) -> Iterator[str]:
    for pair in pairs:
        if pair.total.cosine >= _SAME_COSINE and pair.first != pair.second:  # of one name: `repeated_names` warns
            yield f"{pair.first} and {pair.second} do nearly the same: use one of them"


def _approximated_files(files: Sequence[LoraFile], names: Sequence[str], dense: Sequence[bool]) -> Iterator[str]:
    for file, name, is_dense in zip(files, names, dense, strict=True):
        kinds = ", ".join(file.kinds)
        if is_dense:
            yield f"{name}: {kinds} has no low-rank form; its {DENSE_DIRECTIONS} strongest directions are compared"

"""Axes → cells → batches: equal pictures once, and an order that changes what is on the model least."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..applied_networks import Presets
from ..errors import LoraError
from ..file.lora_library import Library
from . import axes
from .axis_kinds import Axis, Known
from .image_spec import Shot, tag_of

LARGEST = 20_000
"""Cells of a sheet, at most."""


@dataclass(frozen=True)
class Cell:
    """A place on the sheet (column, row, page, each from 0) and what is drawn there."""

    x: int
    y: int
    z: int
    shot: Shot

    @property
    def tag(self) -> str:
        """The tag that its axes speak about, as it stands in its prompt."""
        return tag_of(self.shot.prompt, self.shot.lora) if self.shot.lora else ""


@dataclass(frozen=True)
class Plan:
    """A sheet before it is drawn. cells: page by page, row by row."""

    base: Shot
    x: Axis
    y: Axis
    z: Axis
    cells: tuple[Cell, ...]

    def page(self, z: int) -> list[list[Cell]]:
        """One page's rows."""
        rows: list[list[Cell]] = [[] for _ in self.y.values]
        for cell in self.cells:
            if cell.z == z:
                rows[cell.y].append(cell)
        return rows


def plan(shot: Shot, x: str, y: str, z: str, library: Library, presets: Presets | None = None) -> Plan:
    """The plan of a sheet from its axes as text ("" for none); `shot.lora` names the LoRA that they speak about.

    Raises LoraError: an axis that cannot be read, files that are not there, too many cells.
    """
    known = Known(library, shot, presets or Presets())
    three = [axes.parse(text, known) for text in (x, y, z)]
    count = len(three[0].values) * len(three[1].values) * len(three[2].values)
    if count > LARGEST:
        raise LoraError(f"{' × '.join(str(len(axis.values)) for axis in three)} are {count} cells; at most {LARGEST}")
    base = replace(shot, lora=axes.subject(three, shot, shot.lora))
    return Plan(base, three[0], three[1], three[2], tuple(_cells(base, three)))


def _cells(base: Shot, three: Sequence[Axis]) -> Iterable[Cell]:
    order = sorted(range(3), key=lambda axis: three[axis].order)
    x, y, z = (range(len(axis.values)) for axis in three)
    for place in ((i, j, k) for k in z for j in y for i in x):
        shot = base
        for axis in order:
            shot = three[axis].values[place[axis]].edit(shot)
        yield Cell(*place, shot=shot)


def once(shots: Iterable[Shot], key: Callable[[Shot], str]) -> dict[str, Shot]:
    """Key → shot, each picture once."""
    found: dict[str, Shot] = {}
    for shot in shots:
        found.setdefault(key(shot), shot)
    return found


def batches(shots: Iterable[Shot], size: int, group: Callable[[Shot], Hashable] = Shot.group) -> list[list[Shot]]:
    """Shots in batches of up to `size` that share `group`; those with the same files, then with the same tags, lie
    together (so do groups), so that files and weights are switched least from one batch to the next."""
    rows = list(shots)
    files: dict[Hashable, int] = {}
    tags: dict[Hashable, int] = {}
    groups: dict[Hashable, list[tuple[int, int, int]]] = {}
    for place, shot in enumerate(rows):
        requests = tuple(shot.tags())
        names = tuple(request.name for request in requests)
        order = files.setdefault(names, len(files)), tags.setdefault(requests, len(tags)), place
        groups.setdefault(group(shot), []).append(order)
    made = []
    for members in sorted(groups.values(), key=min):
        ordered = [rows[place] for _, _, place in sorted(members)]
        made += [ordered[at : at + size] for at in range(0, len(ordered), size)]
    return made

"""Axes → cells → batches: equal pictures once, and an order that changes what is on the model least."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..adapter_spec import Presets
from ..errors import LoraError
from ..file.lora_library import LoraLibrary
from . import axes
from .axis_kinds import Axis, AxisContext
from .image_spec import ImageSpec, find_tag

MAX_CELLS = 20_000
"""Cells of a sheet, at most."""


@dataclass(frozen=True)
class Cell:
    """A place on the sheet (column, row, page, each from 0) and what is drawn there."""

    x: int
    y: int
    z: int
    image_spec: ImageSpec

    @property
    def tag(self) -> str:
        """The tag that its axes speak about, as it stands in its prompt."""
        return find_tag(self.image_spec.prompt, self.image_spec.lora) if self.image_spec.lora else ""


@dataclass(frozen=True)
class SheetPlan:
    """A sheet before it is drawn. cells: page by page, row by row."""

    base: ImageSpec
    x: Axis
    y: Axis
    z: Axis
    cells: tuple[Cell, ...]

    def page_rows(self, z: int) -> list[list[Cell]]:
        """One page's rows."""
        rows: list[list[Cell]] = [[] for _ in self.y.values]
        for cell in self.cells:
            if cell.z == z:
                rows[cell.y].append(cell)
        return rows


def plan_sheet(
    image_spec: ImageSpec, x: str, y: str, z: str, library: LoraLibrary, presets: Presets | None = None
) -> SheetPlan:
    """The plan of a sheet from its axes as text ("" for none); `image_spec.lora` names the LoRA that they speak about.

    Raises LoraError: an axis that cannot be read, files that are not there, too many cells.
    """
    known = AxisContext(library, image_spec, presets or Presets())
    three = [axes.parse_axis(text, known) for text in (x, y, z)]
    count = len(three[0].values) * len(three[1].values) * len(three[2].values)
    if count > MAX_CELLS:
        raise LoraError(f"{' × '.join(str(len(axis.values)) for axis in three)} are {count} cells; at most {MAX_CELLS}")
    base = replace(image_spec, lora=axes.default_axis_lora(three, image_spec, image_spec.lora))
    return SheetPlan(base, three[0], three[1], three[2], tuple(_cells(base, three)))


def _cells(base: ImageSpec, three: Sequence[Axis]) -> Iterable[Cell]:
    order = sorted(range(3), key=lambda axis: three[axis].order)
    x, y, z = (range(len(axis.values)) for axis in three)
    for place in ((i, j, k) for k in z for j in y for i in x):
        shot = base
        for axis in order:
            shot = three[axis].values[place[axis]].edit(shot)
        yield Cell(*place, image_spec=shot)


def unique_image_specs(image_specs: Iterable[ImageSpec], key: Callable[[ImageSpec], str]) -> dict[str, ImageSpec]:
    """Key → shot, each picture once."""
    found: dict[str, ImageSpec] = {}
    for shot in image_specs:
        found.setdefault(key(shot), shot)
    return found


def batch_image_specs(
    image_specs: Iterable[ImageSpec], size: int, batch_key: Callable[[ImageSpec], Hashable] = ImageSpec.batch_key
) -> list[list[ImageSpec]]:
    """Shots in batches of up to `size` that share `batch_key`; those with the same files, then with the same tags, lie
    together (so do groups), so that files and weights are switched least from one batch to the next."""
    rows = list(image_specs)
    files: dict[Hashable, int] = {}
    tags: dict[Hashable, int] = {}
    groups: dict[Hashable, list[tuple[int, int, int]]] = {}
    for place, shot in enumerate(rows):
        requests = tuple(shot.tags())
        names = tuple(request.name for request in requests)
        order = files.setdefault(names, len(files)), tags.setdefault(requests, len(tags)), place
        groups.setdefault(batch_key(shot), []).append(order)
    made = []
    for members in sorted(groups.values(), key=min):
        ordered = [rows[place] for _, _, place in sorted(members)]
        made += [ordered[at : at + size] for at in range(0, len(ordered), size)]
    return made

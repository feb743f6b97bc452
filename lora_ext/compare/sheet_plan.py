"""The plan of a sheet: axes become cells, and cells become batches in which each picture is drawn once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..adapter_spec import Presets
from ..errors import FileError, LoraError
from ..file.lora_library import LoraLibrary
from . import axes
from .axis_kinds import Axis, AxisContext
from .axis_values import weight_label
from .image_spec import ImageSpec, find_tag

MAX_CELLS = 20_000
"""The largest number of cells of a sheet."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sheet.

    Attributes:
        x: column, from 0.
        y: row, from 0.
        z: page, from 0.
        image_spec: the picture that is drawn there.
    """

    x: int
    y: int
    z: int
    image_spec: ImageSpec

    @property
    def tag(self) -> str:
        """The tag that the axes change, as it is written in the cell's prompt; "" without one."""
        return find_tag(self.image_spec.prompt, self.image_spec.lora) if self.image_spec.lora else ""


@dataclass(frozen=True)
class SheetPlan:
    """A sheet before it is drawn.

    Attributes:
        base: the picture that is varied.
        x: the axis of the columns.
        y: the axis of the rows.
        z: the axis of the pages.
        cells: all cells, page by page and row by row.
    """

    base: ImageSpec
    x: Axis
    y: Axis
    z: Axis
    cells: tuple[Cell, ...]


def plan_sheet(
    image_spec: ImageSpec, x: str, y: str, z: str, library: LoraLibrary, presets: Presets | None = None
) -> SheetPlan:
    """Plans a sheet from its axes.

    Args:
        image_spec: the picture that is varied; `image_spec.lora` names the LoRA that axes without a name change.
        x: the axis of the columns as text, such as "weight:0.2-1.0(+0.2)"; "" for none.
        y: the axis of the rows.
        z: the axis of the pages.
        library: where LoRA files are looked up.
        presets: block weight presets; None for none.

    Returns:
        The sheet's axes and the picture of each cell.

    Raises:
        LoraError: an axis that cannot be parsed, a file of an axis or a tag that does not exist, an axis that another
            one overrides, or more than `MAX_CELLS` cells.
    """
    context = AxisContext(library, image_spec, presets or Presets())
    three = [axes.parse_axis(text, context) for text in (x, y, z)]
    count = len(three[0].values) * len(three[1].values) * len(three[2].values)
    if count > MAX_CELLS:
        sizes = " × ".join(str(len(axis.values)) for axis in three)
        raise LoraError(f"{sizes} are {count} cells; a sheet has at most {MAX_CELLS}")
    base = replace(image_spec, lora=axes.default_axis_lora(three, image_spec, image_spec.lora))
    cells = tuple(_cells(base, three))
    _check_overridden(base, three, cells)
    _check_files(cells, library)
    x_axis, y_axis, z_axis = (_with_no_lora(axis, place, cells) for axis, place in zip(three, "xyz", strict=True))
    return SheetPlan(base, x_axis, y_axis, z_axis, cells)


def _with_no_lora(axis: Axis, place: str, cells: Iterable[Cell]) -> Axis:
    """The axis; a weight at which none of its cells has a LoRA is called so."""
    if axis.kind != "weight":
        return axis
    acting = {getattr(cell, place) for cell in cells if cell.image_spec.acting_tags()}
    values = enumerate(axis.values)
    return replace(axis, values=tuple(v if at in acting else replace(v, label=weight_label(0)) for at, v in values))


def _check_overridden(base: ImageSpec, three: Sequence[Axis], cells: Sequence[Cell]) -> None:
    """Raises LoraError for an axis whose values another one replaces: labels would tell what was never drawn."""
    for number, axis in enumerate(three):
        if len({value.edit(base) for value in axis.values}) < 2:
            continue
        seen: dict[tuple[int, ...], set[ImageSpec]] = {}
        for cell in cells:
            others = tuple(at for index, at in enumerate((cell.x, cell.y, cell.z)) if index != number)
            seen.setdefault(others, set()).add(cell.image_spec)
        if all(len(specs) == 1 for specs in seen.values()):
            raise LoraError(f"the axis {axis.text!r} has no effect: another axis sets the same; leave one of them out")


def _check_files(cells: Sequence[Cell], library: LoraLibrary) -> None:
    """Raises FileError for a tag whose file is not in the library: the whole sheet would be drawn without it.

    Axes are applied before, so that a tag whose file an axis replaces is none.
    """
    for name in dict.fromkeys(tag.name for cell in cells for tag in cell.image_spec.tags()):
        try:
            library.find(name)
        except FileError as error:
            if str(error).endswith("?"):
                text = f"{error} Correct the tag, or take it out of the prompt to draw without it"
            else:
                text = f"{error}. Correct the tag, or take it out of the prompt to draw without it"
            raise FileError(text) from None


def _cells(base: ImageSpec, three: Sequence[Axis]) -> Iterable[Cell]:
    sort_key = sorted(range(3), key=lambda axis: three[axis].order)
    x, y, z = (range(len(axis.values)) for axis in three)
    for index in ((i, j, k) for k in z for j in y for i in x):
        image_spec = base
        for axis in sort_key:
            image_spec = three[axis].values[index[axis]].edit(image_spec)
        yield Cell(*index, image_spec=image_spec)


def unique_image_specs(image_specs: Iterable[ImageSpec], key: Callable[[ImageSpec], str]) -> dict[str, ImageSpec]:
    """Key → image spec, each picture once, in the order of `image_specs`."""
    found: dict[str, ImageSpec] = {}
    for image_spec in image_specs:
        found.setdefault(key(image_spec), image_spec)
    return found


def batch_image_specs(
    image_specs: Iterable[ImageSpec], size: int, batch_key: Callable[[ImageSpec], Hashable] = ImageSpec.batch_key
) -> list[list[ImageSpec]]:
    """Groups image specs into batches of up to `size` that share `batch_key`.

    Those with the same files, then those with the same tags, come one after another, so that files and weights
    change as rarely as possible from one batch to the next.

    Args:
        image_specs: the pictures.
        size: pictures in a batch, at most.
        batch_key: a key that the pictures of a batch share.

    Returns:
        The batches; each picture is in one of them.

    Raises:
        PromptError: a prompt with a tag that cannot be parsed.
    """
    rows = list(image_specs)
    file_order: dict[Hashable, int] = {}
    tag_order: dict[Hashable, int] = {}
    groups: dict[Hashable, list[tuple[int, int, int]]] = {}
    for index, image_spec in enumerate(rows):
        tags = tuple(image_spec.tags())
        names = tuple(tag.name for tag in tags)
        sort_key = file_order.setdefault(names, len(file_order)), tag_order.setdefault(tags, len(tag_order)), index
        groups.setdefault(batch_key(image_spec), []).append(sort_key)
    batches = []
    for members in sorted(groups.values(), key=min):
        ordered = [rows[index] for _, _, index in sorted(members)]
        batches += [ordered[at : at + size] for at in range(0, len(ordered), size)]
    return batches

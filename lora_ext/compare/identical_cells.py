"""Find cells of a sheet with identical pictures, and pictures that are identical to the one without a LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from . import image_measures
from .cell_store import CellStore
from .sheet_plan import Cell, SheetPlan

WITHOUT_LORA = "without a LoRA"
"""The label for the picture without a LoRA."""
COPY_SIDE = 16
"""Side in pixels of the small copies by which pictures are compared first."""
MAX_NEAREST = 8
"""How many earlier pictures, those with the nearest small copies, a picture is compared with pixel by pixel."""


def find_identical_cells(keys: Sequence[str], store: CellStore) -> dict[int, int]:
    """Finds the cells whose picture is identical to that of an earlier cell.

    Cells are identical if their keys are equal, or their pixels up to rounding (see
    `image_measures.colour_difference`).

    Args:
        keys: the key of each cell; all are drawn.
        store: where the pictures are.

    Returns:
        Index of a cell → index of the first cell with the same picture.
    """
    seen = _SeenImages(len(set(keys)))
    first: dict[str, int] = {}
    images: list[int] = []
    """Index of the first cell with each picture in `seen`."""
    found = {}
    for index, key in enumerate(keys):
        if key not in first:
            image = store.load_image(key)
            assert image is not None
            like = seen.near(image)
            first[key] = next(
                (images[one] for one in like if _equal(image, store.load_image(keys[images[one]]))), index
            )
            if first[key] == index:
                seen.add(image)
                images.append(index)
        if first[key] != index:
            found[index] = first[key]
    return found


class _SeenImages:
    """Small copies of the pictures seen so far, with room for `most` of them."""

    def __init__(self, most: int) -> None:
        self.small = np.empty((most, COPY_SIDE * COPY_SIDE * 3), np.float32)
        self.count = 0

    def near(self, image: Image.Image) -> list[int]:
        """Numbers of the pictures that may be identical, nearest first."""
        if not self.count:
            return []
        apart = np.abs(self.small[: self.count] - self._copy(image)).max(axis=1)
        order = np.argsort(apart)[:MAX_NEAREST]
        # Pixels of identical pictures may differ by 1 of 255, and their rounded means by 1 more.
        return [int(number) for number in order if apart[number] < 2.5 / 255]

    def add(self, image: Image.Image) -> None:
        """Adds a picture under the next number."""
        self.small[self.count] = self._copy(image)
        self.count += 1

    @staticmethod
    def _copy(image: Image.Image) -> image_measures.Array:
        return image_measures.image_array(image, (COPY_SIDE, COPY_SIDE)).ravel()


def _equal(one: Image.Image, other: Image.Image | None) -> bool:
    return other is not None and one.size == other.size and image_measures.colour_difference(one, other) == 0


def identical_cell_labels(plan: SheetPlan, identical: Mapping[int, int], unchanged: Sequence[int]) -> dict[int, str]:
    """Says for each cell what its picture is identical to.

    Args:
        plan: the sheet.
        identical: the result of `find_identical_cells`.
        unchanged: indices of the cells whose picture is identical to the one without a LoRA; those whose tags all have
            weight 0 are not reported.

    Returns:
        Index of a cell → "without a LoRA" or the label of another cell.
    """
    found = {index: shared_label(plan, [plan.cells[other]]) for index, other in identical.items()}
    acting = [index for index in unchanged if plan.cells[index].image_spec.acting_tags()]
    return dict(sorted((found | dict.fromkeys(acting, WITHOUT_LORA)).items()))


def identical_cells_sentence(plan: SheetPlan, labels_by_place: Mapping[int, str]) -> str:
    """A sentence about identical cells.

    Args:
        plan: the sheet.
        labels_by_place: cell → label of the cell with the same picture, as `identical_cell_labels` returns them.

    Returns:
        The sentence; "" where no two cells have the same picture.
    """
    if not labels_by_place:
        return ""
    groups: dict[str, list[str]] = {}
    for index, other in labels_by_place.items():
        groups.setdefault(other, []).append(shared_label(plan, [plan.cells[index]]) or "the only cell")
    rows = [_equation(labels, other) for other, labels in groups.items()]
    more = [f"and {len(rows) - 3} more"] if len(rows) > 3 else []
    return f"The same picture in {len(labels_by_place)} of {len(plan.cells)} cells: {'; '.join([*rows[:3], *more])}."


def _equation(labels: Sequence[str], other: str) -> str:
    few = " = ".join(labels[:3])
    return f"{few} and {len(labels) - 3} more = {other}" if len(labels) > 3 else f"{few} = {other}"


def shared_label(plan: SheetPlan, cells: Sequence[Cell]) -> str:
    """Names cells by the values of the rows, columns and pages that all of them share.

    Args:
        plan: the sheet.
        cells: the cells.

    Returns:
        Such as "epoch 3 × weight 0.5"; whole prompts are called by their number, "prompt 2", since they cannot be read
        in a row.
    """
    heads = []
    for axis, indices in (
        (plan.x, {c.x for c in cells}),
        (plan.y, {c.y for c in cells}),
        (plan.z, {c.z for c in cells}),
    ):
        if len(indices) == 1 and len(axis.values) > 1:
            index = indices.pop()
            heads.append(f"prompt {index + 1}" if axis.kind == "prompt" else axis.values[index].label)
    return " × ".join(heads)

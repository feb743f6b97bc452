"""Cells of a sheet that show the same picture, and pictures that a LoRA left as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from . import image_measures
from .cell_store import CellStore
from .sheet_plan import Cell, SheetPlan

WITHOUT_LORA = "without a LoRA"
COPY_SIDE = 16
"""Pixels of the small copies by which pictures are compared first."""
MAX_NEAREST = 8
"""Earlier pictures that one is compared with pixel for pixel: those whose small copies come nearest to its own."""


def find_identical_cells(keys: Sequence[str], store: CellStore) -> dict[int, int]:
    """Place of a cell → place of the first cell with the same picture, for all cells but the first ones.

    The same are cells of one key, and pictures whose pixels are equal but for rounding (see `measures.difference`).
    keys: one a cell, all drawn.
    """
    seen = _SeenImages(len(set(keys)))
    first: dict[str, int] = {}
    images: list[int] = []
    """The first cell of each picture in `seen`."""
    found = {}
    for place, key in enumerate(keys):
        if key not in first:
            image = store.load_image(key)
            assert image is not None
            like = seen.near(image)
            first[key] = next(
                (images[one] for one in like if _equal(image, store.load_image(keys[images[one]]))), place
            )
            if first[key] == place:
                seen.add(image)
                images.append(place)
        if first[key] != place:
            found[place] = first[key]
    return found


class _SeenImages:
    """Small copies of the pictures so far, for at most `most` pictures."""

    def __init__(self, most: int) -> None:
        self.small = np.empty((most, COPY_SIDE * COPY_SIDE * 3), np.float32)
        self.count = 0

    def near(self, image: Image.Image) -> list[int]:
        """Numbers of the pictures that may be the same, nearest first."""
        if not self.count:
            return []
        apart = np.abs(self.small[: self.count] - self._copy(image)).max(axis=1)
        order = np.argsort(apart)[:MAX_NEAREST]
        # Pixels of the same picture may be 1 of 255 apart, and their rounded means 1 more.
        return [int(number) for number in order if apart[number] < 2.5 / 255]

    def add(self, image: Image.Image) -> None:
        """Remembers a picture by the next number."""
        self.small[self.count] = self._copy(image)
        self.count += 1

    @staticmethod
    def _copy(image: Image.Image) -> image_measures.Array:
        return image_measures.image_array(image, (COPY_SIDE, COPY_SIDE)).ravel()


def _equal(one: Image.Image, other: Image.Image | None) -> bool:
    return other is not None and one.size == other.size and image_measures.colour_difference(one, other) == 0


def identical_cell_labels(plan: SheetPlan, identical: Mapping[int, int], unchanged: Sequence[int]) -> dict[int, str]:
    """Place → what its picture is the same as: "without a LoRA" for the places in `unchanged` whose tags have weight,
    the label of another cell for those in `identical`."""
    found = {place: shared_label(plan, [plan.cells[other]]) for place, other in identical.items()}
    acting = [place for place in unchanged if any(tag.te or tag.unet for tag in plan.cells[place].image_spec.tags())]
    return dict(sorted((found | dict.fromkeys(acting, WITHOUT_LORA)).items()))


def identical_cells_sentence(plan: SheetPlan, labels_by_place: Mapping[int, str]) -> str:
    """A sentence about the cells of `identical_cell_labels`; "" where there are none."""
    if not labels_by_place:
        return ""
    groups: dict[str, list[str]] = {}
    for place, other in labels_by_place.items():
        groups.setdefault(other, []).append(shared_label(plan, [plan.cells[place]]) or "the only cell")
    rows = [f"{_listed(' / ', labels)} as {other}" for other, labels in groups.items()]
    return f"The same picture in {len(labels_by_place)} of {len(plan.cells)} cells: {_listed('; ', rows)}."


def _listed(between: str, texts: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    more = [f"{len(texts) - 3} more"] if len(texts) > 3 else []
    return between.join([*texts[:3], *more])


def shared_label(plan: SheetPlan, cells: Sequence[Cell]) -> str:
    """The heads that all of these cells share."""
    heads = []
    for axis, places in (
        (plan.x, {c.x for c in cells}),
        (plan.y, {c.y for c in cells}),
        (plan.z, {c.z for c in cells}),
    ):
        if len(places) == 1 and len(axis.values) > 1:
            heads.append(axis.values[places.pop()].label)
    return ", ".join(heads)

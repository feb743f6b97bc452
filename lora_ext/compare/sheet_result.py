"""The result of a sheet, and its manifest `sheet.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

from .cell_store import CellStore
from .generate_cells import SheetProgress
from .identical_cells import identical_cells_sentence
from .image_spec import ImageSettings, ImageSpec
from .scores import Score
from .sheet_json import SheetJson
from .sheet_plan import SheetPlan
from .suggestion import Suggestion


@dataclass
class SheetResult:
    """The result of a plan.

    Attributes:
        plan: the plan.
        folder: the sheet's folder.
        keys: the key of each cell's picture.
        progress: how many pictures are drawn.
        scores: the score of each cell; empty without a scorer or if the sheet is not finished.
        suggestion: the cells to keep, where there are scores.
        files: the pages.
        likeness_measure: how likeness was measured, where it was.
        warning: a sentence about copies of training pictures, or "".
        identical: index of a cell → what its picture is identical to, see `identical_cells.identical_cell_labels`.
    """

    plan: SheetPlan
    folder: Path
    keys: list[str]
    progress: SheetProgress
    scores: list[Score] = field(default_factory=list)
    suggestion: Suggestion | None = None
    files: list[Path] = field(default_factory=list)
    likeness_measure: str = ""
    warning: str = ""
    identical: dict[int, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether every picture is drawn."""
        return self.progress.done == self.progress.total


def cell_file_name(store: CellStore, key: str) -> str:
    """The file of a picture relative to the sheet's folder; "" if it is not drawn."""
    path = store.path(key)
    return path.relative_to(store.folder).as_posix() if path else ""


@dataclass(frozen=True)
class ManifestAxis:
    """One axis in `sheet.json`.

    Attributes:
        title: what is varied.
        asked: the axis as the user wrote it.
        labels: the labels of its values.
    """

    title: str
    asked: str
    labels: list[str]


@dataclass(frozen=True)
class CellPosition:
    """Where a cell of `sheet.json` is, and its file.

    Attributes:
        x: column, from 0.
        y: row, from 0.
        z: page, from 0.
        key: the picture's key.
        tag: the tag that the axes change.
        file: the picture, relative to the sheet's folder; "" if it is not drawn.
    """

    x: int
    y: int
    z: int
    key: str
    tag: str
    file: str


@dataclass(frozen=True)
class ManifestCell(ImageSettings, CellPosition):
    """One cell in `sheet.json`: its position and file, its picture's settings, and its score.

    Attributes:
        score: the score; left out of the JSON, like `same_as`, where the sheet has no scores.
        same_as: what the picture is identical to, or None.
    """

    score: Score | None = None
    same_as: str | None = None


@dataclass(frozen=True)
class SheetManifest:
    """The content of `sheet.json`.

    Attributes:
        version: of this format.
        title: the sheet's title.
        base: the picture that is varied.
        complete: whether every picture is drawn.
        axes: "x", "y" and "z".
        measured: how likeness was measured.
        warning: about copies of training pictures.
        same: a sentence about identical cells.
        suggested: the cells to keep.
        pages: file names of the pages.
        cells: all cells, page by page and row by row.
    """

    version: int
    title: str
    base: ImageSpec
    complete: bool
    axes: dict[str, ManifestAxis]
    measured: str
    warning: str
    same: str
    suggested: Suggestion | None
    pages: list[str]
    cells: list[ManifestCell]

    def as_json(self) -> SheetJson:
        """The manifest as a dict for `json.dumps`.

        Returns:
            Its fields; cells without a score have neither `score` nor `same_as`.
        """
        fields = asdict(replace(self, cells=[]))
        fields["cells"] = cells = [vars(cell).copy() for cell in self.cells]  # asdict takes seconds for 20,000
        for cell in cells:
            if cell["score"] is None:
                del cell["score"], cell["same_as"]
            else:
                cell["score"] = asdict(cell["score"])
        return cast("SheetJson", fields)


def build_manifest(result: SheetResult, store: CellStore, title: str) -> SheetManifest:
    """The manifest of a sheet as far as it is drawn.

    Args:
        result: the sheet.
        store: where its pictures are.
        title: the sheet's title.
    """
    plan = result.plan
    cells = [
        ManifestCell(
            x=cell.x,
            y=cell.y,
            z=cell.z,
            key=key,
            tag=cell.tag,
            file=cell_file_name(store, key),
            **cell.image_spec.image_fields(),
            score=result.scores[index] if result.scores else None,
            same_as=result.identical.get(index),
        )
        for index, (cell, key) in enumerate(zip(plan.cells, result.keys, strict=True))
    ]
    return SheetManifest(
        version=1,
        title=title,
        base=plan.base,
        complete=bool(result.progress.total) and result.finished,
        axes={
            name: ManifestAxis(axis.title, axis.text, [value.label for value in axis.values])
            for name, axis in (("x", plan.x), ("y", plan.y), ("z", plan.z))
        },
        measured=result.likeness_measure,
        warning=result.warning,
        same=identical_cells_sentence(plan, result.identical),
        suggested=result.suggestion,
        pages=[path.name for path in result.files],
        cells=cells,
    )

"""The JSON of `sheet.json`, which the API answers too; `sheet_result.SheetManifest` writes it."""

from __future__ import annotations

from typing import TypedDict


class ImageFields(TypedDict):
    """What one picture is drawn from, with the web UI's names; see `image_spec.ImageSettings`."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    width: int
    height: int
    sampler: str
    scheduler: str
    cfg: float
    clip_skip: int


class SheetBase(ImageFields):
    """What every picture of a sheet is drawn from before the axes change it.

    Attributes:
        lora: The LoRA that axes without a name change.
    """

    lora: str


class SheetScore(TypedDict):
    """Scores of a picture; see `scores.Score`. Null where it was not measured.

    Attributes:
        difference: Mean colour difference from the same picture without a LoRA, 0 to 1.
        sharpness: 1 is as sharp as without a LoRA.
        likeness: Likeness to the training pictures, 1 at most.
        near: 1 − distance to the nearest training picture.
        copy_of: The training picture that it nearly equals; "" where there is none.
        burnt: How much more of it is clipped than without a LoRA.
        noise: How much noisier it is than without a LoRA.
    """

    difference: float
    sharpness: float
    likeness: float | None
    near: float | None
    copy_of: str
    burnt: float
    noise: float


class _PlacedCell(ImageFields):
    x: int
    y: int
    z: int
    key: str
    tag: str
    file: str | None


class SheetCell(_PlacedCell, total=False):
    """A cell of a sheet. `score` and `same_as` are there where the sheet was measured.

    Attributes:
        x: Its column, from 0.
        y: Its row, from 0.
        z: Its page, from 0.
        key: A hash of everything that the picture is drawn from.
        tag: The tag that the axes change, as it stands in the prompt.
        file: The picture; null or "" where it is not drawn yet.
        score: The picture's scores.
        same_as: What the picture is equal to; null where it is equal to none.
    """

    score: SheetScore
    same_as: str | None


class SheetAxis(TypedDict):
    """An axis of a sheet.

    Attributes:
        asked: The axis as it was asked for.
        labels: A label for each of its values.
    """

    title: str
    asked: str
    labels: list[str]


class SheetAxes(TypedDict):
    """The three axes of a sheet."""

    x: SheetAxis
    y: SheetAxis
    z: SheetAxis


class SheetSuggestion(TypedDict):
    """The cells that are suggested, and why.

    Attributes:
        cells: Places in the list of cells; empty where nothing is suggested.
    """

    cells: list[int]
    reason: str


class SheetJson(TypedDict):
    """The content of `sheet.json`.

    Attributes:
        version: Version of this format.
        title: The sheet's title.
        base: The picture that is varied.
        complete: Whether every picture is drawn.
        measured: By what likeness is measured; "" where the sheet was not measured.
        warning: A sentence where training pictures are copied, else "".
        same: A sentence about cells that are equal, else "".
        suggested: The cells that are suggested; null where the sheet was not measured.
        pages: File names of the pages.
        cells: All cells, page by page and row by row.
    """

    version: int
    title: str
    base: SheetBase
    complete: bool
    axes: SheetAxes
    measured: str
    warning: str
    same: str
    suggested: SheetSuggestion | None
    pages: list[str]
    cells: list[SheetCell]

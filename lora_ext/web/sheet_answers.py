"""What the routes of sheets answer.

A sheet is answered as its `sheet.json` holds it (`compare.sheet_result.SheetManifest`), so these are TypedDicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict


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
        lora: The LoRA that axes speak about.
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
        tag: The tag that the axes speak about, as it stands in the prompt.
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


class SheetDetails(TypedDict):
    """A comparison sheet. Pictures and pages are paths below the output folder.

    Attributes:
        complete: Whether every picture is drawn.
        measured: By what likeness is measured; "" where the sheet was not measured.
        warning: A sentence where training pictures are copied, else "".
        same: A sentence about cells that are equal, else "".
        suggested: The cells that are suggested; null where the sheet was not measured.
        folder: Its folder below outputs/compare.
        table: Whether it has a table of scores.
        asked: The request that it was drawn for.
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
    folder: str
    table: bool
    asked: dict[str, Any]


class SheetLive(TypedDict):
    """What is shown of a sheet that is being drawn.

    Attributes:
        folder: Its folder below outputs/compare.
        pictures: How many pictures it needs.
        done: How many of them are drawn.
        newest: The newest of them, by their paths below the output folder.
    """

    folder: str
    pictures: int
    done: int
    newest: list[str]


@dataclass(frozen=True)
class PastSheet:
    """A sheet of before.

    Attributes:
        folder: Its folder below outputs/compare.
        complete: Whether every picture is drawn.
        cells: How many cells it has.
        time: When it was changed, in seconds since 1970.
    """

    folder: str
    title: str
    complete: bool | None
    cells: int
    time: float


@dataclass(frozen=True)
class PastSheets:
    """Sheets of before, newest first."""

    sheets: list[PastSheet]


@dataclass(frozen=True)
class AxisExample:
    """A kind of axis.

    Attributes:
        example: An axis of this kind, as text.
    """

    name: str
    title: str
    example: str


@dataclass(frozen=True)
class AxesAnswer:
    """What axes can be.

    Attributes:
        runs: Training run whose epochs can be compared → its files.
    """

    kinds: list[AxisExample]
    runs: dict[str, list[str]]


@dataclass(frozen=True)
class PromptText:
    """A prompt."""

    prompt: str

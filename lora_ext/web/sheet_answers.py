"""What the routes of sheets answer.

A sheet is answered as its `sheet.json` holds it (`compare.sheet_json.SheetJson`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from ..compare.sheet_json import SheetJson


class SheetDetails(SheetJson):
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
        notes: A sentence about each file that does not fit as it is; told once, by the job that has drawn it.
    """

    folder: str
    table: bool
    asked: dict[str, Any]
    notes: list[str]


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

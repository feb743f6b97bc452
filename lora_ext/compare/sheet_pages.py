"""A plan's pictures as sheets: a page for each z, cut into tiles where one would be too large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import FileError
from ..file.saving import replacing
from .cell_store import Store
from .scores import Score, bars, greatest
from .sheet_layout import Sheet, render
from .sheet_plan import Plan

TILE = 100_000_000
"""Pixels of one file, at most; larger pages become several."""
LARGE = 12_000_000
"""Pixels above which a page is WebP instead of PNG."""
WEBP_SIDE = 16383
"""WebP's longest side (its format: 14 bits)."""
SMALL = 144
"""Pictures narrower than this are shown with each pixel repeated."""


@dataclass(frozen=True)
class Look:
    """What stands around the pictures. scores: one a cell of the plan, or none; marks: places in `plan.cells`."""

    title: str
    subtitle: str = ""
    note: str = ""
    scores: Sequence[Score] = ()
    marks: frozenset[int] = frozenset()
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)
    same: Mapping[int, str] = field(default_factory=dict)
    """Place of a cell → what its picture is the same as."""


Span = tuple[range, range]
"""Rows and columns of a tile."""


def page(plan: Plan, store: Store, keys: Sequence[str], z: int, look: Look, part: Span | None = None) -> Sheet:
    """One page (or `part` of it) as a sheet of what is drawn so far; `keys`: one a cell of the plan."""
    rows, columns = part or (range(len(plan.y.values)), range(len(plan.x.values)))
    at = {(c.y, c.x): place for place, c in enumerate(plan.cells) if c.z == z}
    cells = [[store.open(keys[at[y, x]]) for x in columns] for y in rows]
    most = greatest(look.scores)
    shown = {(j, i): bars(look.scores[at[y, x]], most) for j, y in enumerate(rows) for i, x in enumerate(columns)
             if look.scores and cells[j][i] is not None}  # fmt: skip
    marks = {(j, i) for j, y in enumerate(rows) for i, x in enumerate(columns) if at[y, x] in look.marks}
    same = {(j, i): f"= {look.same[at[y, x]]}" for j, y in enumerate(rows) for i, x in enumerate(columns)
            if at[y, x] in look.same}  # fmt: skip
    width = min((cell.width for line in cells for cell in line if cell), default=SMALL)
    head = plan.z.values[z].label
    prompts = {cell.shot.plain().prompt for cell in plan.cells if cell.z == z}
    own = prompts.pop() if len(prompts) == 1 else ""
    return Sheet(
        title=look.title if own in ("", plan.base.plain().prompt) else own,
        columns=[plan.x.values[x].label for x in columns],
        rows=[plan.y.values[y].label for y in rows],
        cells=cells,
        note=look.note,
        scale=max(1, SMALL // width),
        subtitle="  ·  ".join(filter(None, (head, look.subtitle, _across(plan)))),
        bars=shown,
        marks=frozenset(marks),
        legend=look.legend,
        captions=same,
    )


def _across(plan: Plan) -> str:
    """What the axes are, in words."""
    told = (("across", plan.x), ("down", plan.y), ("pages", plan.z))
    return ", ".join(f"{word}: {axis.title}" for word, axis in told if axis.title)


def tiles(plan: Plan, size: tuple[int, int], largest: int = TILE) -> list[Span]:
    """Rows and columns of each tile, for cells of `size` (with what is under them): whole pages where they fit.

    What stands around the cells is counted as a row and a column more.
    """
    rows, columns = len(plan.y.values), len(plan.x.values)
    high, wide = rows, columns
    while high * wide > 1 and (high + 1) * size[1] * (wide + 1) * size[0] > largest:
        if (high * size[1] >= wide * size[0] and high > 1) or wide == 1:
            high = -(-high // 2)
        else:
            wide = -(-wide // 2)
    return [
        (range(y, min(y + high, rows)), range(x, min(x + wide, columns)))
        for y in range(0, rows, high)
        for x in range(0, columns, wide)
    ]


def write(
    plan: Plan, store: Store, keys: Sequence[str], look: Look, *, largest: int = TILE, name: str = "sheet"
) -> list[Path]:
    """The sheet's files: `sheet.png`, a number a page where there are several, `-tile-2` where one is cut.

    Large ones are WebP. Old files of the sheet are removed. Raises FileError.
    """
    first = next((image for key in keys if (image := store.open(key)) is not None), None)
    if first is None:
        return []
    scale = max(1, SMALL // first.width)
    size = (first.width * scale + 8, first.height * scale + 8 + (first.width * scale // 4 if look.scores else 0))
    spans = tiles(plan, size, largest)
    written = []
    for z, part, stem in _names(plan, spans, name):
        picture = render(page(plan, store, keys, z, look, part))
        written.append(save(picture, store.folder, stem))
    for old in store.folder.glob(f"{name}*"):
        if old.suffix in (".png", ".webp") and old not in written:
            with suppress(OSError):  # someone looks at it
                old.unlink(missing_ok=True)
    return written


def _names(plan: Plan, spans: Sequence[Span], name: str) -> Iterator[tuple[int, Span, str]]:
    for z in range(len(plan.z.values)):
        for number, part in enumerate(spans, start=1):
            stem = f"{name}-{z + 1}" if len(plan.z.values) > 1 else name
            yield z, part, f"{stem}-tile-{number}" if len(spans) > 1 else stem


def save(picture: Image.Image, folder: Path, stem: str) -> Path:
    """As PNG, or WebP where that is large and WebP can hold it. Raises FileError."""
    webp = picture.width * picture.height > LARGE and max(picture.size) <= WEBP_SIDE
    path = folder / f"{stem}{'.webp' if webp else '.png'}"
    options: Mapping[str, object] = {"format": "WEBP", "quality": 90} if webp else {"format": "PNG"}
    try:
        with replacing(path, overwrite=True) as part:
            picture.save(part, **options)  # type: ignore[arg-type]
    except (ValueError, KeyError) as error:  # a Pillow without WebP
        raise FileError(f"{path} cannot be written: {error}") from error
    return path

"""A plan's pictures as sheets: a page for each z, cut into tiles where one would be too large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import FileError
from ..file.saving import replacing_file
from .cell_store import CellStore
from .scores import Score, greatest_scores, score_bars
from .sheet_layout import Sheet, draw_sheet
from .sheet_plan import SheetPlan

MAX_TILE_PIXELS = 100_000_000
"""Pixels of one file, at most; larger pages become several."""
WEBP_FROM_PIXELS = 12_000_000
"""Pixels above which a page is WebP instead of PNG."""
MAX_WEBP_SIDE = 16383
"""WebP's longest side (its format: 14 bits)."""
SMALL_IMAGE_WIDTH = 144
"""Pictures narrower than this are shown with each pixel repeated."""


@dataclass(frozen=True)
class PageDetails:
    """What stands around the pictures. scores: one a cell of the plan, or none; marks: places in `plan.cells`."""

    title: str
    subtitle: str = ""
    note: str = ""
    scores: Sequence[Score] = ()
    marks: frozenset[int] = frozenset()
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)
    identical: Mapping[int, str] = field(default_factory=dict)
    """Place of a cell → what its picture is the same as."""


TileSpan = tuple[range, range]
"""Rows and columns of a tile."""


def build_page(
    plan: SheetPlan, store: CellStore, keys: Sequence[str], z: int, details: PageDetails, span: TileSpan | None = None
) -> Sheet:
    """One page (or `span` of it) as a sheet of what is drawn so far; `keys`: one a cell of the plan."""
    rows, columns = span or (range(len(plan.y.values)), range(len(plan.x.values)))
    at = {(c.y, c.x): place for place, c in enumerate(plan.cells) if c.z == z}
    cells = [[store.load_image(keys[at[y, x]]) for x in columns] for y in rows]
    most = greatest_scores(details.scores)
    shown = {(j, i): score_bars(details.scores[at[y, x]], most)
             for j, y in enumerate(rows) for i, x in enumerate(columns)
             if details.scores and cells[j][i] is not None}  # fmt: skip
    marks = {(j, i) for j, y in enumerate(rows) for i, x in enumerate(columns) if at[y, x] in details.marks}
    same = {(j, i): f"= {details.identical[at[y, x]]}" for j, y in enumerate(rows) for i, x in enumerate(columns)
            if at[y, x] in details.identical}  # fmt: skip
    width = min((cell.width for line in cells for cell in line if cell), default=SMALL_IMAGE_WIDTH)
    head = plan.z.values[z].label
    prompts = {cell.image_spec.without_loras().prompt for cell in plan.cells if cell.z == z}
    own = prompts.pop() if len(prompts) == 1 else ""
    return Sheet(
        title=details.title if own in ("", plan.base.without_loras().prompt) else own,
        columns=[plan.x.values[x].label for x in columns],
        rows=[plan.y.values[y].label for y in rows],
        cells=cells,
        note=details.note,
        scale=max(1, SMALL_IMAGE_WIDTH // width),
        subtitle="  ·  ".join(filter(None, (head, details.subtitle, _across(plan)))),
        bars=shown,
        marks=frozenset(marks),
        legend=details.legend,
        captions=same,
    )


def _across(plan: SheetPlan) -> str:
    """What the axes are, in words."""
    told = (("across", plan.x), ("down", plan.y), ("pages", plan.z))
    return ", ".join(f"{word}: {axis.title}" for word, axis in told if axis.title)


def split_into_tiles(plan: SheetPlan, size: tuple[int, int], largest: int = MAX_TILE_PIXELS) -> list[TileSpan]:
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


def save_pages(
    plan: SheetPlan,
    store: CellStore,
    keys: Sequence[str],
    details: PageDetails,
    *,
    largest: int = MAX_TILE_PIXELS,
    name: str = "sheet",
) -> list[Path]:
    """The sheet's files: `sheet.png`, a number a page where there are several, `-tile-2` where one is cut.

    Large ones are WebP. Old files of the sheet are removed. Raises FileError.
    """
    first = next((image for key in keys if (image := store.load_image(key)) is not None), None)
    if first is None:
        return []
    scale = max(1, SMALL_IMAGE_WIDTH // first.width)
    size = (first.width * scale + 8, first.height * scale + 8 + (first.width * scale // 4 if details.scores else 0))
    spans = split_into_tiles(plan, size, largest)
    written = []
    for z, part, stem in _names(plan, spans, name):
        picture = draw_sheet(build_page(plan, store, keys, z, details, part))
        written.append(save_page_image(picture, store.folder, stem))
    for old in store.folder.glob(f"{name}*"):
        if old.suffix in (".png", ".webp") and old not in written:
            with suppress(OSError):  # someone looks at it
                old.unlink(missing_ok=True)
    return written


def _names(plan: SheetPlan, spans: Sequence[TileSpan], name: str) -> Iterator[tuple[int, TileSpan, str]]:
    for z in range(len(plan.z.values)):
        for number, part in enumerate(spans, start=1):
            stem = f"{name}-{z + 1}" if len(plan.z.values) > 1 else name
            yield z, part, f"{stem}-tile-{number}" if len(spans) > 1 else stem


def save_page_image(image: Image.Image, folder: Path, stem: str) -> Path:
    """As PNG, or WebP where that is large and WebP can hold it. Raises FileError."""
    webp = image.width * image.height > WEBP_FROM_PIXELS and max(image.size) <= MAX_WEBP_SIDE
    path = folder / f"{stem}{'.webp' if webp else '.png'}"
    options: Mapping[str, object] = {"format": "WEBP", "quality": 90} if webp else {"format": "PNG"}
    try:
        with replacing_file(path, overwrite=True) as part:
            image.save(part, **options)  # type: ignore[arg-type]
    except (ValueError, KeyError) as error:  # a Pillow without WebP
        raise FileError(f"{path} cannot be written: {error}") from error
    return path

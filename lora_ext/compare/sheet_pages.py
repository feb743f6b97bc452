"""Write the pages of a sheet: one for each value of z, cut into tiles where a page would be too large."""

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
"""The largest number of pixels of one file; larger pages are cut into tiles."""
WEBP_FROM_PIXELS = 12_000_000
"""Pages with more pixels than this are WebP instead of PNG."""
MAX_WEBP_SIDE = 16383
"""The longest side of a WebP picture (the format has 14 bits for it)."""
SMALL_IMAGE_WIDTH = 144
"""Pictures narrower than this are enlarged by repeating each pixel."""


@dataclass(frozen=True)
class PageDetails:
    """What a page shows apart from its pictures and labels.

    Attributes:
        title: over the page.
        subtitle: the settings, in smaller letters.
        note: a text under the page.
        scores: the score of each cell of the plan, or none.
        marks: indices of the cells with a frame.
        legend: (colour, meaning) of the bars.
        identical: index of a cell → what its picture is identical to.
    """

    title: str
    subtitle: str = ""
    note: str = ""
    scores: Sequence[Score] = ()
    marks: frozenset[int] = frozenset()
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)
    identical: Mapping[int, str] = field(default_factory=dict)


TileSpan = tuple[range, range]
"""(rows, columns) of a tile."""


def build_page(
    plan: SheetPlan, store: CellStore, keys: Sequence[str], z: int, details: PageDetails, span: TileSpan | None = None
) -> Sheet:
    """Builds one page, or a tile of it, from the pictures that are drawn so far.

    Args:
        plan: the sheet.
        store: its pictures.
        keys: the key of each cell of the plan.
        z: the page.
        details: title, scores and the like.
        span: rows and columns of the tile; None for the whole page.
    """
    rows, columns = span or (range(len(plan.y.values)), range(len(plan.x.values)))
    cell_index = {(c.y, c.x): index for index, c in enumerate(plan.cells) if c.z == z}
    cells = [[store.load_image(keys[cell_index[y, x]]) for x in columns] for y in rows]
    greatest = greatest_scores(details.scores)
    bars = {(j, i): score_bars(details.scores[cell_index[y, x]], greatest)
             for j, y in enumerate(rows) for i, x in enumerate(columns)
             if details.scores and cells[j][i] is not None}  # fmt: skip
    marks = {(j, i) for j, y in enumerate(rows) for i, x in enumerate(columns) if cell_index[y, x] in details.marks}
    captions = {
        (j, i): f"= {details.identical[cell_index[y, x]]}"
        for j, y in enumerate(rows)
        for i, x in enumerate(columns)
        if cell_index[y, x] in details.identical
    }
    width = min((cell.width for line in cells for cell in line if cell), default=SMALL_IMAGE_WIDTH)
    page_label = plan.z.values[z].label
    prompts = {cell.image_spec.without_loras().prompt for cell in plan.cells if cell.z == z}
    own = prompts.pop() if len(prompts) == 1 else ""
    return Sheet(
        title=details.title if own in ("", plan.base.without_loras().prompt) else own,
        columns=[plan.x.values[x].label for x in columns],
        rows=[plan.y.values[y].label for y in rows],
        cells=cells,
        note=details.note,
        scale=max(1, SMALL_IMAGE_WIDTH // width),
        subtitle="  ·  ".join(filter(None, (page_label, details.subtitle, _across(plan)))),
        bars=bars,
        marks=frozenset(marks),
        legend=details.legend,
        captions=captions,
    )


def _across(plan: SheetPlan) -> str:
    """The titles of the axes, in words."""
    axes = (("across", plan.x), ("down", plan.y), ("pages", plan.z))
    return ", ".join(f"{word}: {axis.title}" for word, axis in axes if axis.title)


def split_into_tiles(plan: SheetPlan, size: tuple[int, int], largest: int = MAX_TILE_PIXELS) -> list[TileSpan]:
    """Rows and columns of each tile of a page; a single tile where the page is small enough.

    Args:
        plan: the sheet.
        size: (width, height) of a cell with its bars, in pixels.
        largest: pixels of a tile, at most. Titles and labels count as one more row and column.
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
    """Writes the pages of a sheet and removes its old ones.

    The files are `sheet.png`, `sheet-2.png` for the second of several pages, `sheet-tile-2.png` for a tile; large ones
    are WebP.

    Args:
        plan: the sheet.
        store: its pictures; the pages are written into its folder.
        keys: the key of each cell of the plan.
        details: title, scores and the like.
        largest: pixels of a file, at most.
        name: how the files' names begin.

    Returns:
        The files; none while no picture is drawn.

    Raises:
        FileError: a file cannot be written.
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
            with suppress(OSError):  # open in another program (Windows)
                old.unlink(missing_ok=True)
    return written


def _names(plan: SheetPlan, spans: Sequence[TileSpan], name: str) -> Iterator[tuple[int, TileSpan, str]]:
    for z in range(len(plan.z.values)):
        for number, part in enumerate(spans, start=1):
            stem = f"{name}-{z + 1}" if len(plan.z.values) > 1 else name
            yield z, part, f"{stem}-tile-{number}" if len(spans) > 1 else stem


def save_page_image(image: Image.Image, folder: Path, stem: str) -> Path:
    """Writes a picture as PNG, or as WebP where it is large and not too large for WebP.

    Args:
        image: the picture.
        folder: where to write.
        stem: the file's name without its suffix.

    Returns:
        The file.

    Raises:
        FileError: the file cannot be written.
    """
    webp = image.width * image.height > WEBP_FROM_PIXELS and max(image.size) <= MAX_WEBP_SIDE
    path = folder / f"{stem}{'.webp' if webp else '.png'}"
    options: Mapping[str, object] = {"format": "WEBP", "quality": 90} if webp else {"format": "PNG"}
    try:
        with replacing_file(path, overwrite=True) as part:
            image.save(part, **options)  # type: ignore[arg-type]
    except (ValueError, KeyError) as error:  # a Pillow without WebP
        raise FileError(f"{path} cannot be written: {error}") from error
    return path

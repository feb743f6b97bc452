"""Drawing a plan's cells into a store through an `Artist`, which a host gives from above."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from ..applied_networks import Presets, resolve_blocks
from ..file.lora_library import Library
from .cell_store import Store
from .image_spec import Shot
from .sheet_plan import Plan, batches, once

Tick = Callable[[int, int], None]
"""Called before each guess of a batch with its number from 0 and their count; may raise `Stopped`."""


class Artist(Protocol):
    """Who draws: a model with its LoRA files. title: what sheets call the model."""

    title: str

    def identity(self, shot: Shot) -> str:
        """What a picture depends on beside the shot: checkpoint, LoRA files, precision."""
        ...

    def group(self, shot: Shot) -> Hashable:
        """Pictures with the same can be drawn in one batch."""
        ...

    def draw(self, shots: Sequence[Shot], tick: Tick) -> list[Image.Image]:
        """The pictures, each with its infotext in `info["parameters"]`."""
        ...


class Stopped(Exception):
    """The user asked to stop; what is drawn is kept."""


@dataclass
class Progress:
    """How far a sheet is. pictures: to draw in all; kept: of those, there from before; done: those and the new."""

    pictures: int
    kept: int = 0
    done: int = 0
    newest: list[str] = field(default_factory=list)
    share: float = 0.0
    """Of the batch in work."""


def depends(shot: Shot, library: Library, presets: Presets) -> str:
    """What a shot's tags come to beside their text: the files' contents, and block weights (presets may be other ones
    next time). A part of what `Artist.identity` tells."""
    acting = [request for request in shot.tags() if request.te or request.unet]
    files = [library.find(request.name).content for request in acting]
    drawn = [request for request in acting if request.lbw or request.lbwe]
    return ":".join([*files, *(str(resolve_blocks(request, presets, seed=shot.seed)) for request in drawn)])


Watch = Callable[[Progress], None]


def keys(plan: Plan, artist: Artist) -> list[str]:
    """One key for each cell, in the order of `plan.cells`; equal pictures have equal ones."""
    return [cell.shot.key(artist.identity(cell.shot)) for cell in plan.cells]


def draw(
    shots: Iterable[Shot], artist: Artist, store: Store, *, batch: int = 8, watch: Watch | None = None
) -> Progress:
    """Draws what is not in the store yet, up to `batch` pictures at once, and stores each batch as it is done.

    watch is called at each step and may raise `Stopped`, which ends it early; what is drawn is kept.
    """
    wanted = once(shots, lambda shot: shot.key(artist.identity(shot)))
    number = {key: place for place, key in enumerate(wanted)}
    key_of = {shot: key for key, shot in wanted.items()}
    missing = [shot for key, shot in wanted.items() if store.path(key) is None]
    progress = Progress(len(wanted), kept=len(wanted) - len(missing), done=len(wanted) - len(missing))

    def tick(step: int, total: int) -> None:
        progress.share = step / max(1, total)
        if watch:
            watch(progress)

    try:
        tick(0, 1)
        for group in batches(missing, max(1, batch), artist.group):
            for shot, image in zip(group, artist.draw(group, tick), strict=True):
                store.add(key_of[shot], image, number[key_of[shot]])
            progress.done += len(group)
            progress.newest = [key_of[shot] for shot in group]
            tick(0, 1)
    except Stopped:
        pass
    return progress

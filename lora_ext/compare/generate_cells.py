"""Drawing a plan's cells into a store through an `ImageRenderer`, which a host gives from above."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from ..adapter_spec import Presets, resolve_block_weights
from ..file.lora_library import LoraLibrary
from .cell_store import CellStore
from .image_spec import ImageSpec
from .sheet_plan import SheetPlan, batch_image_specs, unique_image_specs

DenoisingCallback = Callable[[int, int], None]
"""Called before each guess of a batch with its number from 0 and their count; may raise `SheetStopped`."""


class ImageRenderer(Protocol):
    """Who draws: a model with its LoRA files. title: what sheets call the model."""

    title: str

    def identity(self, image_spec: ImageSpec) -> str:
        """What a picture depends on beside the shot: checkpoint, LoRA files, precision."""
        ...

    def batch_key(self, image_spec: ImageSpec) -> Hashable:
        """Pictures with the same can be drawn in one batch."""
        ...

    def generate(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        """The pictures, each with its infotext in `info["parameters"]`."""
        ...


class SheetStopped(Exception):
    """The user asked to stop; what is drawn is kept."""


@dataclass
class SheetProgress:
    """How far a sheet is. pictures: to draw in all; kept: of those, there from before; done: those and the new."""

    total: int
    kept: int = 0
    done: int = 0
    newest: list[str] = field(default_factory=list)
    batch_share: float = 0.0
    """Of the batch in work."""


def tags_identity(image_spec: ImageSpec, library: LoraLibrary, presets: Presets) -> str:
    """What a shot's tags come to beside their text: the files' contents, and block weights (presets may be other ones
    next time). A part of what `ImageRenderer.identity` tells."""
    acting = [request for request in image_spec.tags() if request.te or request.unet]
    files = [library.find(request.name).content_hash for request in acting]
    drawn = [request for request in acting if request.lbw or request.lbwe]
    return ":".join(
        [*files, *(str(resolve_block_weights(request, presets, seed=image_spec.seed)) for request in drawn)]
    )


SheetProgressCallback = Callable[[SheetProgress], None]


def cell_keys(plan: SheetPlan, renderer: ImageRenderer) -> list[str]:
    """One key for each cell, in the order of `plan.cells`; equal pictures have equal ones."""
    return [cell.image_spec.key(renderer.identity(cell.image_spec)) for cell in plan.cells]


def generate_cells(
    image_specs: Iterable[ImageSpec],
    renderer: ImageRenderer,
    store: CellStore,
    *,
    batch: int = 8,
    on_progress: SheetProgressCallback | None = None,
) -> SheetProgress:
    """Draws what is not in the store yet, up to `batch` pictures at once, and stores each batch as it is done.

    watch is called at each step and may raise `SheetStopped`, which ends it early; what is drawn is kept.
    """
    wanted = unique_image_specs(image_specs, lambda shot: shot.key(renderer.identity(shot)))
    number = {key: place for place, key in enumerate(wanted)}
    key_of = {shot: key for key, shot in wanted.items()}
    missing = [shot for key, shot in wanted.items() if store.path(key) is None]
    progress = SheetProgress(len(wanted), kept=len(wanted) - len(missing), done=len(wanted) - len(missing))

    def tick(step: int, total: int) -> None:
        progress.batch_share = step / max(1, total)
        if on_progress:
            on_progress(progress)

    try:
        tick(0, 1)
        for group in batch_image_specs(missing, max(1, batch), renderer.batch_key):
            for shot, image in zip(group, renderer.generate(group, tick), strict=True):
                store.save_image(key_of[shot], image, number[key_of[shot]])
            progress.done += len(group)
            progress.newest = [key_of[shot] for shot in group]
            tick(0, 1)
    except SheetStopped:
        pass
    return progress

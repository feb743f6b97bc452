"""Generate the cells of a sheet that are not in its store yet, through the `ImageRenderer` of a host.

Several processes may generate the cells of one sheet at once; each draws those that no other has claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from ..adapter_spec import Presets, resolve_block_weights
from ..file.lora_library import LoraLibrary
from ..file.name_claims import NameClaims
from .cell_store import CELLS_FOLDER, CellStore
from .image_spec import ImageSpec
from .sheet_plan import SheetPlan, batch_image_specs, unique_image_specs

WAIT_SECONDS = 0.3
"""Time between two looks at cells that other processes are drawing."""

DenoisingCallback = Callable[[int, int], None]
"""Called before each denoising step of a batch with (its number from 0, the count); may raise `SheetStopped`."""


class ImageRenderer(Protocol):
    """What generates pictures: a model with its LoRA files.

    Attributes:
        title: what sheets call the model.
    """

    title: str

    def identity(self, image_spec: ImageSpec) -> str:
        """Everything that a picture depends on besides its spec: checkpoint, content of the LoRA files, precision.

        Args:
            image_spec: the picture.

        Returns:
            A text; two pictures with equal texts and equal specs are equal.

        Raises:
            LoraError: the prompt has a tag that cannot be parsed, or names a file that does not exist.
        """
        ...

    def batch_key(self, image_spec: ImageSpec) -> Hashable:
        """A key that is equal for pictures which can be generated in one batch.

        Args:
            image_spec: the picture.

        Returns:
            The key.

        Raises:
            LoraError: the prompt has a tag that cannot be parsed, or names a file that does not exist.
        """
        ...

    def generate(self, image_specs: Sequence[ImageSpec], on_step: DenoisingCallback) -> list[Image.Image]:
        """Generates the pictures of one batch.

        Args:
            image_specs: the pictures; their `batch_key` is the same.
            on_step: called at each denoising step; what it raises ends the batch.

        Returns:
            The pictures in the same order, each with its infotext in `info["parameters"]`.

        Raises:
            LoraError: a file cannot be applied, or the memory is not enough.
        """
        ...


class SheetStopped(Exception):
    """The user stopped a sheet; the pictures drawn so far are kept."""


@dataclass
class SheetProgress:
    """The progress of a sheet.

    Attributes:
        total: number of different pictures.
        kept: how many of them were in the store before, or were drawn by another process.
        done: how many are in the store now.
        newest: keys of the pictures of the last batch.
        batch_share: share of the denoising steps of the current batch, 0 to 1.
    """

    total: int
    kept: int = 0
    done: int = 0
    newest: list[str] = field(default_factory=list)
    batch_share: float = 0.0

    @property
    def done_with_batch(self) -> float:
        """`done` and a part of a picture for the batch at work."""
        return self.done + 0.99 * self.batch_share


def tags_identity(image_spec: ImageSpec, library: LoraLibrary, presets: Presets) -> str:
    """What the tags of a picture depend on apart from their text, as a part of `ImageRenderer.identity`.

    That is the content of their files, and their block weights, because presets can change.

    Args:
        image_spec: the picture.
        library: where the files are looked up.
        presets: block-weight presets.

    Returns:
        Hashes of the files and block weights, separated by colons.

    Raises:
        LoraError: a tag that cannot be parsed, or a file or preset that does not exist.
    """
    acting = image_spec.acting_tags()
    files = [library.find(tag.name).content_hash for tag in acting]
    drawn = [tag for tag in acting if tag.lbw or tag.lbwe]
    return ":".join([*files, *(str(resolve_block_weights(tag, presets, seed=image_spec.seed)) for tag in drawn)])


SheetProgressCallback = Callable[[SheetProgress], None]
"""Called at each step of a sheet; may raise `SheetStopped`."""


def cell_keys(plan: SheetPlan, renderer: ImageRenderer, on_progress: SheetProgressCallback | None = None) -> list[str]:
    """The key of each cell, in the order of `plan.cells`; equal pictures have equal keys.

    `on_progress` is called now and then, and may raise `SheetStopped`: thousands of cells take seconds.
    """
    keys: list[str] = []
    for cell in plan.cells:
        if on_progress and len(keys) % 256 == 255:
            on_progress(SheetProgress(len(plan.cells)))
        keys.append(cell.image_spec.key(renderer.identity(cell.image_spec)))
    return keys


def generate_cells(
    image_specs: Iterable[ImageSpec],
    renderer: ImageRenderer,
    store: CellStore,
    *,
    batch: int = 8,
    on_progress: SheetProgressCallback | None = None,
) -> SheetProgress:
    """Generates the pictures that are not in the store yet, and stores each batch when it is done.

    Other processes may do so for the same folder: each picture is drawn by the one that claims it, and all of them
    return when the last one is there.

    Args:
        image_specs: the pictures; equal ones are generated once.
        renderer: generates them.
        store: keeps them.
        batch: pictures in a batch, at most.
        on_progress: called at each step; if it raises `SheetStopped`, the pictures drawn so far are kept.

    Returns:
        The progress at the end: `done` is less than `total` if it was stopped.
    """
    wanted = unique_image_specs(image_specs, lambda image_spec: image_spec.key(renderer.identity(image_spec)))
    number = {key: number for number, key in enumerate(wanted)}
    key_of = {image_spec: key for key, image_spec in wanted.items()}
    present = {key for key in wanted if store.path(key) is not None}
    counter = _PictureCounter([*wanted], store, present, on_progress)
    missing = [image_spec for key, image_spec in wanted.items() if key not in present]
    try:
        counter.on_step(0, 1)
        groups = batch_image_specs(missing, max(1, batch), renderer.batch_key)
        if groups:  # only now: where the model cannot be loaded nothing is left behind
            store.create_folder(CELLS_FOLDER)
        with NameClaims(store.cells) as claims:
            while groups:
                groups = _draw_unclaimed(groups, key_of, number, renderer, store, claims, counter)
                if groups:
                    time.sleep(WAIT_SECONDS)
                    store.refresh()
                    counter.count()
            if present != wanted.keys():  # others finished the last ones just before they were to be claimed
                counter.count()
            claims.remove_done(present)
    except SheetStopped:
        pass
    return counter.progress


class _PictureCounter:
    """Counts the pictures of a sheet while they are drawn, and reports it.

    Args:
        keys: those of all pictures.
        store: keeps them.
        present: keys of those that are there; it grows.
        on_progress: called at each step.

    Attributes:
        own: how many this process has drawn.
        progress: what is reported.
    """

    def __init__(
        self, keys: Sequence[str], store: CellStore, present: set[str], on_progress: SheetProgressCallback | None
    ) -> None:
        self._keys, self._store, self._present, self._on_progress = keys, store, present, on_progress
        self.own = 0
        self.progress = SheetProgress(len(keys), kept=len(present), done=len(present))

    def on_step(self, step: int, total: int) -> None:
        """Reports a step of the batch that is drawn."""
        self.progress.batch_share = step / max(1, total)
        if self._on_progress:
            self._on_progress(self.progress)

    def count(self) -> None:
        """Counts the pictures, those of other processes too."""
        newest = [key for key in self._keys if key not in self._present and self._store.path(key) is not None]
        self._present.update(newest)
        self.progress.done = len(self._present)
        self.progress.kept = self.progress.done - self.own
        self.progress.newest = newest or self.progress.newest
        self.on_step(0, 1)


def _draw_unclaimed(
    groups: Sequence[Sequence[ImageSpec]],
    key_of: Mapping[ImageSpec, str],
    number: Mapping[str, int],
    renderer: ImageRenderer,
    store: CellStore,
    claims: NameClaims,
    counter: _PictureCounter,
) -> list[list[ImageSpec]]:
    """Draws what no other process has claimed of each batch; returns the rest, which others are drawing."""
    claimed_by_others: list[list[ImageSpec]] = []
    for group in groups:
        mine, theirs = _claim(group, key_of, store, claims)
        if theirs:
            claimed_by_others.append(theirs)
        if mine:
            for image_spec, image in zip(mine, renderer.generate(mine, counter.on_step), strict=True):
                store.save_image(key_of[image_spec], image, number[key_of[image_spec]])
                claims.release(key_of[image_spec])
            counter.own += len(mine)
            counter.count()
    return claimed_by_others


def _claim(
    group: Sequence[ImageSpec], key_of: Mapping[ImageSpec, str], store: CellStore, claims: NameClaims
) -> tuple[list[ImageSpec], list[ImageSpec]]:
    """(What this process draws of a batch, what others are drawing); what is drawn already is in neither."""
    store.refresh()
    missing = [image_spec for image_spec in group if store.path(key_of[image_spec]) is None]
    mine = [image_spec for image_spec in missing if claims.take(key_of[image_spec])]
    theirs = [image_spec for image_spec in missing if image_spec not in mine]
    store.refresh()  # a picture that was finished between the look and the claim
    for image_spec in [image_spec for image_spec in mine if store.path(key_of[image_spec]) is not None]:
        claims.release(key_of[image_spec])
        mine.remove(image_spec)
    return mine, theirs

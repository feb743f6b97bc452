"""`Dataset`: a recipe's pictures as batches: same seed, same batches, from any place, for any number of processes."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ...errors import TrainError
from ...progress import Track, silent
from ..config.recipe import Recipe
from . import dataset_folders
from .batch import Batch
from .buckets import LATENT, BucketRules, Size
from .captions import vary
from .content_cache import Store, fingerprint, key_of
from .dataset_scan import Picture, Scan, scan
from .faces import face_finder, face_in_name
from .image_files import Cut, FaceFinder, apply_cut, cut_of, mask_of, open_picture, pixels_of, recolour
from .prefetch import ahead
from .sample_order import Chunk, Item, Order, draw
from .subset import Subset

KEPT_BYTES = 2**30
"""Scaled pictures kept in memory, so that a repeat decodes nothing."""


class Turn(NamedTuple):
    """One picture in one step. latents: in place of pixels where they are cached."""

    pixels: Tensor | None
    latents: Tensor | None
    mask: Tensor | None
    caption: str
    crop: tuple[int, int]


class Dataset:
    """All that a recipe trains on.

    recipe: with the batch size and the sizes of pictures that a data set's file set in its place.
    found: what a scan gave; `Dataset.of(recipe)` makes one from the recipe's folders. seed: of every draw. faces: finds
    a picture's largest face, for `face_crop_aug_range`; OpenCV's without one. Epochs count from 0.
    """

    def __init__(self, recipe: Recipe, found: Scan, seed: int, *, faces: FaceFinder | None = None) -> None:
        self.recipe, self.scan, self.seed = _as_found(recipe, found.subsets), found, seed
        self.subsets, self.pictures = found.subsets, found.pictures
        self.faces = faces or self._finder()
        self.order = Order(found.subsets, found.pictures, seed)
        self._store: Store | None = None
        self._vae = ""
        self._kept = _Kept(KEPT_BYTES)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        seed: int = 0,
        *,
        say: dataset_folders.Say = lambda text: None,
        track: Track = silent,
        faces: FaceFinder | None = None,
    ) -> Dataset:
        """Look into the recipe's folders and at every picture; `scan.skipped` names those that cannot be read.

        say: is told which folders are left out. Raises TrainError.
        """
        found = scan(dataset_folders.subsets(recipe, say), strict=recipe.strict_images, track=track)
        return cls(recipe, found, recipe.seed if recipe.seed is not None else seed, faces=faces)

    def _finder(self) -> FaceFinder | None:
        """OpenCV's, where faces are asked for and some picture's name does not tell where its is."""
        asked = [p for p in self.pictures if self.subsets[p.subset].variation.face_crop]
        return face_finder() if any(face_in_name(p.path) is None for p in asked) else None

    # --- how much there is

    def batches(self, epoch: int, world: int = 1) -> int:
        """Batches of an epoch, for each of `world` processes."""
        return self.order.count(epoch, world)

    def steps(self, epoch: int, world: int = 1) -> int:
        """Optimizer steps of an epoch: batches / `gradient_accumulation_steps`, rounded up."""
        return -(-self.batches(epoch, world) // self.recipe.gradient_accumulation_steps)

    def steps_before(self, epoch: int, world: int = 1) -> int:
        """Optimizer steps before an epoch begins."""
        if not self.order.varies:
            return epoch * self.steps(0, world)
        return sum(self.steps(e, world) for e in range(epoch))

    def length(self, world: int = 1, *, epoch: int = 0, batch: int = 0, step: int = 0) -> tuple[int, int]:
        """(epochs, steps) of the whole run: `max_train_epochs`, else `max_train_steps`.

        epoch, batch: where it goes on after `step` steps, which may have been made with other batches.
        """
        done = -(-batch // self.recipe.gradient_accumulation_steps)
        if last := self.recipe.max_train_epochs:
            left = self.steps_before(last, world) - self.steps_before(epoch, world) - done
            return last, step + max(left, 0)
        steps = self.recipe.max_train_steps
        left = steps - step + done
        if not self.order.varies:
            return epoch + max(0, -(-left // self.steps(0, world))), steps
        while left > 0:
            left, epoch = left - self.steps(epoch, world), epoch + 1
        return epoch, steps

    # --- the batches

    def epoch(self, epoch: int, rank: int = 0, world: int = 1, *, start: int = 0) -> Iterator[Batch]:
        """An epoch's batches for one process, from the `start`-th on, prepared by threads ahead of their use."""
        chunks = self.order.chunks(epoch, world)
        first = self.steps_before(epoch, world)
        _, steps = self.length(world) if any(s.captions.token_warmup_step for s in self.subsets) else (0, 0)

        def make(place: int) -> Batch:
            step = first + place // self.recipe.gradient_accumulation_steps
            return self._batch(chunks[place], epoch, rank, world, step, steps)

        return ahead(make, range(start, len(chunks)), threads=self.recipe.max_data_loader_n_workers)

    def _batch(self, chunk: Chunk, epoch: int, rank: int, world: int, step: int, steps: int) -> Batch:
        mine, scale = chunk.share(rank, world)
        items = mine or chunk.items[:1]
        turns = [self._turn(item, epoch, step, steps) for item in items]
        pictures = [self.pictures[item.picture] for item in items]
        weights = [self.subsets[picture.subset].weight if mine else 0.0 for picture in pictures]
        return Batch(
            pixels=_stacked([turn.pixels for turn in turns]),
            latents=_stacked([turn.latents for turn in turns]),
            captions=[turn.caption for turn in turns],
            regularisation=tuple(self.subsets[picture.subset].regularisation for picture in pictures),
            weights=torch.tensor(weights),
            mask=_masks([turn.mask for turn in turns], chunk.bucket),
            paths=tuple(str(picture.path) for picture in pictures),
            original_sizes=tuple(picture.size for picture in pictures),
            crops=tuple(turn.crop for turn in turns),
            bucket=chunk.bucket,
            seeds=tuple(draw(self.seed, "noise", epoch, *item) for item in items),
            scale=scale,
        )

    def _turn(self, item: Item, epoch: int, step: int, steps: int) -> Turn:
        picture = self.pictures[item.picture]
        subset = self.subsets[picture.subset]
        rng = random.Random(draw(self.seed, "turn", epoch, *item))
        caption = vary(picture.caption, subset.captions, rng, epoch=epoch + 1, step=step, steps=steps)
        flipped = subset.variation.flip_aug and rng.random() < 0.5
        if self._store is not None and subset.variation.fixed:
            cut = cut_of(picture.size, picture.fitted, subset.variation, rng)
            kept = self._store.get(self._key(picture, flipped))
            if kept is not None:
                return Turn(None, kept["latents"], kept.get("mask"), caption, _crop(cut, picture, flipped))
            raise TrainError(f"the cached latents of {picture.path} are gone or damaged; start again to make them")
        image, mask, cut = self._image(picture, rng)
        if subset.variation.color_aug:
            image = recolour(image, rng)
        pixels = pixels_of(image)
        small = None if mask is None else mask_of(mask)
        if flipped:
            pixels, small = pixels.flip(-1), None if small is None else small.flip(-1)
        return Turn(pixels, None, small, caption, _crop(cut, picture, flipped))

    def _image(self, picture: Picture, rng: random.Random) -> tuple[Image.Image, Image.Image | None, Cut]:
        """A picture cut to its bucket, its mask cut alike, and where it was cut."""
        rules = self.subsets[picture.subset].variation
        bucket = picture.fitted.bucket
        if rules.fixed:
            cut = cut_of(picture.size, picture.fitted, rules, rng)
            image, mask = self._kept.get(picture, lambda: self._cut(picture, cut))
            return image, mask, cut
        image, mask = self._whole(picture)
        face = face_in_name(picture.path) if rules.face_crop else None
        if rules.face_crop and face is None and self.faces:
            face = self.faces(image)
        cut = cut_of(picture.size, picture.fitted, rules, rng, face)
        how = rules.resize_interpolation
        return apply_cut(image, cut, bucket, how), None if mask is None else apply_cut(mask, cut, bucket, how), cut

    def _cut(self, picture: Picture, cut: Cut) -> tuple[Image.Image, Image.Image | None]:
        image, mask = self._whole(picture)
        how, bucket = self.subsets[picture.subset].variation.resize_interpolation, picture.fitted.bucket
        return apply_cut(image, cut, bucket, how), None if mask is None else apply_cut(mask, cut, bucket, how)

    def _whole(self, picture: Picture) -> tuple[Image.Image, Image.Image | None]:
        """The decoded picture and its mask, of the same size."""
        opened = open_picture(picture.path)
        if opened.rgb.size != picture.size:
            raise TrainError(f"{picture.path} was changed while training; start again")
        if picture.mask is not None:
            mask = open_picture(picture.mask).rgb.convert("L")
            return opened.rgb, mask if mask.size == picture.size else mask.resize(picture.size)
        return opened.rgb, opened.alpha if self.subsets[picture.subset].variation.alpha_mask else None

    # --- latents

    def _key(self, picture: Picture, flipped: bool) -> str:
        rules = self.subsets[picture.subset].variation
        about = (picture.fitted, rules.resize_interpolation, rules.alpha_mask, flipped)
        return key_of("latents", self._vae, picture.digest, *about)

    def cache_latents(
        self,
        encode: Callable[[Tensor], Tensor],
        vae: str,
        *,
        folder: Path | None = None,
        share: tuple[int, int] = (0, 1),
        track: Track = silent,
    ) -> int:
        """Encode every picture once (with `flip_aug` its mirror image too); batches carry latents from then on.

        encode: pixels (n, 3, h, w) → latents. vae: a name for it, part of the key. folder: keep them there instead of
        in memory; what lies there already is not encoded again. share: (rank, world), to fill a folder together.
        Returns how many were encoded. Raises TrainError where pictures vary in more than flipping.
        """
        for subset in self.subsets:
            if not subset.variation.fixed:
                raise TrainError(f"{_varying(subset)} cannot go with cache_latents; turn one of the two off")
        self._store, self._vae = Store(folder), vae
        if folder is not None:  # a name may be empty or the same for two files; what it makes of a pattern is not
            self._vae += fingerprint(encode(_pattern()))
        jobs: dict[Size, list[tuple[Picture, bool]]] = {}
        for picture in {self._key(p, False): p for p in self.pictures}.values():
            for flipped in (False, True) if self.subsets[picture.subset].variation.flip_aug else (False,):
                if self._store.get(self._key(picture, flipped)) is None:
                    jobs.setdefault(picture.fitted.bucket, []).append((picture, flipped))
        size = self.recipe.vae_batch_size
        parts = [group[at : at + size] for group in jobs.values() for at in range(0, len(group), size)]
        mine = parts[share[0] :: share[1]]
        made = ahead(self._pixels, mine, threads=self.recipe.max_data_loader_n_workers)
        for part, (pixels, masks) in zip(track(mine, "caching latents"), made, strict=True):
            latents = encode(pixels)
            if not bool(torch.isfinite(latents).all()):
                raise TrainError(f"the VAE gives no numbers (NaN) for {part[0][0].path}; turn on no_half_vae")
            for row, (picture, flipped) in enumerate(part):
                kept = {"latents": latents[row].float()}
                if (mask := masks[row]) is not None:
                    kept["mask"] = mask
                self._store.put(self._key(picture, flipped), kept)
        return sum(map(len, mine))

    def _pixels(self, part: Sequence[tuple[Picture, bool]]) -> tuple[Tensor, list[Tensor | None]]:
        """Pixels and masks of some pictures of one bucket, without keeping the pictures."""
        pixels, masks = [], []
        for picture, flipped in part:
            rules = self.subsets[picture.subset].variation
            image, mask = self._cut(picture, cut_of(picture.size, picture.fitted, rules, random.Random(0)))
            values, small = pixels_of(image), None if mask is None else mask_of(mask)
            pixels.append(values.flip(-1) if flipped else values)
            masks.append(small.flip(-1) if flipped and small is not None else small)
        return torch.stack(pixels), masks

    def captions(self) -> list[str] | None:
        """Every caption that can come up; None where captions vary from step to step."""
        if not all(subset.captions.fixed for subset in self.subsets):
            return None
        rng = random.Random(0)
        return list(dict.fromkeys(vary(p.caption, self.subsets[p.subset].captions, rng) for p in self.pictures))


class _Kept:
    """The last pictures cut to their buckets, up to so many bytes; safe for threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.lock = limit, 0, threading.Lock()
        self.held: OrderedDict[Picture, tuple[Image.Image, Image.Image | None]] = OrderedDict()

    def get(
        self, picture: Picture, make: Callable[[], tuple[Image.Image, Image.Image | None]]
    ) -> tuple[Image.Image, Image.Image | None]:
        """The kept pair, made where there is none."""
        with self.lock:
            if picture in self.held:
                self.held.move_to_end(picture)
                return self.held[picture]
        made = make()
        with self.lock:
            if picture not in self.held:
                self.held[picture] = made
                self.size += _bytes(picture)
            while self.size > self.limit and len(self.held) > 1:
                self.size -= _bytes(self.held.popitem(last=False)[0])
        return made


def _as_found(recipe: Recipe, subsets: Sequence[Subset]) -> Recipe:
    """The recipe with what the subsets have of their own: the largest batch, the first one's sizes of pictures."""
    sizes = {name: getattr(subsets[0].buckets, name) for name in BucketRules.__dataclass_fields__}
    sizes["resolution"] = ",".join(map(str, dict.fromkeys(sizes["resolution"])))
    return replace(recipe, train_batch_size=max(subset.batch_size for subset in subsets), **sizes)


def _bytes(picture: Picture) -> int:
    return 4 * picture.fitted.bucket[0] * picture.fitted.bucket[1]


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    found = [row for row in rows if row is not None]
    return torch.stack(found) if found else None


def _masks(rows: Sequence[Tensor | None], bucket: Size) -> Tensor | None:
    """Masks of a batch; pictures without one count everywhere. None where none has one."""
    if all(row is None for row in rows):
        return None
    full = torch.ones(1, bucket[1] // LATENT, bucket[0] // LATENT)
    return torch.stack([full if row is None else row for row in rows])


def _crop(cut: Cut, picture: Picture, flipped: bool) -> tuple[int, int]:
    """(left, top) of what is trained, in pixels of the whole picture scaled alike; flipped: of its mirror image."""
    left, top, scale = cut.left, cut.top, cut.resized[0] / picture.size[0]
    if cut.part:
        scale = cut.resized[0] / cut.part[2]
        left, top = left + round(cut.part[0] * scale), top + round(cut.part[1] * scale)
    if flipped:
        left = max(0, round(picture.size[0] * scale) - picture.fitted.bucket[0] - left)
    return left, top


def _varying(subset: Subset) -> str:
    rules = subset.variation
    return "color_aug" if rules.color_aug else "random_crop" if rules.random_crop else "face_crop_aug_range"


def _pattern() -> Tensor:
    """A small picture of waves (1, 3, 64, 64)."""
    waves = torch.arange(64.0).mul(0.4).sin()
    return torch.stack([waves.outer(waves), waves.outer(waves.flip(0)), waves.expand(64, 64)]).unsqueeze(0)

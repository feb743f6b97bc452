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
from ...progress import Track, no_progress
from ..config.recipe import Recipe
from . import dataset_folders
from .batch import Batch
from .buckets import PIXELS_PER_LATENT, BucketRules, PixelSize
from .captions import vary_caption
from .content_cache import TensorCache, content_key, tensor_fingerprint
from .dataset_scan import DatasetImage, DatasetScan, scan_dataset
from .faces import opencv_face_finder, parse_face_box
from .image_files import (
    FaceFinder,
    ImageCrop,
    apply_crop,
    choose_crop,
    image_to_latent_mask,
    image_to_pixels,
    load_training_image,
    vary_colour,
)
from .prefetch import prefetched
from .sample_order import GlobalBatch, ImageRepeat, SampleOrder, keyed_random_number
from .subset import Subset

IMAGE_CACHE_BYTES = 2**30
"""Scaled pictures kept in memory, so that a repeat decodes nothing."""


class TrainingSample(NamedTuple):
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

    def __init__(
        self, recipe: Recipe, dataset_scan: DatasetScan, seed: int, *, find_face: FaceFinder | None = None
    ) -> None:
        self.recipe, self.scan, self.seed = _with_subset_settings(recipe, dataset_scan.subsets), dataset_scan, seed
        self.subsets, self.images = dataset_scan.subsets, dataset_scan.images
        self.find_face = find_face or self._default_face_finder()
        self.sample_order = SampleOrder(dataset_scan.subsets, dataset_scan.images, seed)
        self._latent_cache: TensorCache | None = None
        self._vae_key = ""
        self._image_cache = _ImageCache(IMAGE_CACHE_BYTES)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        seed: int = 0,
        *,
        notify: dataset_folders.Notify = lambda text: None,
        track: Track = no_progress,
        find_face: FaceFinder | None = None,
    ) -> Dataset:
        """Look into the recipe's folders and at every picture; `scan_dataset.skipped` names those that cannot be read.

        notify: is told which folders are left out. Raises TrainError.
        """
        found = scan_dataset(dataset_folders.find_subsets(recipe, notify), strict=recipe.strict_images, track=track)
        return cls(recipe, found, recipe.seed if recipe.seed is not None else seed, find_face=find_face)

    def _default_face_finder(self) -> FaceFinder | None:
        """OpenCV's, where faces are asked for and some picture's name does not tell where its is."""
        asked = [p for p in self.images if self.subsets[p.subset].augmentation.face_crop]
        return opencv_face_finder() if any(parse_face_box(p.path) is None for p in asked) else None

    # --- how much there is

    def batch_count(self, epoch: int, world_size: int = 1) -> int:
        """Batches of an epoch, for each of `world_size` processes."""
        return self.sample_order.batch_count(epoch, world_size)

    def step_count(self, epoch: int, world_size: int = 1) -> int:
        """Optimizer steps of an epoch: batches / `gradient_accumulation_steps`, rounded up."""
        return -(-self.batch_count(epoch, world_size) // self.recipe.gradient_accumulation_steps)

    def step_count_before(self, epoch: int, world_size: int = 1) -> int:
        """Optimizer steps before an epoch begins."""
        if not self.sample_order.varies:
            return epoch * self.step_count(0, world_size)
        return sum(self.step_count(e, world_size) for e in range(epoch))

    def run_length(self, world_size: int = 1, *, epoch: int = 0, batch: int = 0, step: int = 0) -> tuple[int, int]:
        """(epochs, steps) of the whole run: `max_train_epochs`, else `max_train_steps`.

        epoch, batch: where it goes on after `step` steps, which may have been made with other batches.
        """
        done = -(-batch // self.recipe.gradient_accumulation_steps)
        if last := self.recipe.max_train_epochs:
            left = self.step_count_before(last, world_size) - self.step_count_before(epoch, world_size) - done
            return last, step + max(left, 0)
        steps = self.recipe.max_train_steps
        left = steps - step + done
        if not self.sample_order.varies:
            return epoch + max(0, -(-left // self.step_count(0, world_size))), steps
        while left > 0:
            left, epoch = left - self.step_count(epoch, world_size), epoch + 1
        return epoch, steps

    # --- the batches

    def epoch_batches(self, epoch: int, rank: int = 0, world_size: int = 1, *, start: int = 0) -> Iterator[Batch]:
        """An epoch's batches for one process, from the `start`-th on, prepared by threads ahead of their use."""
        chunks = self.sample_order.epoch_batches(epoch, world_size)
        first = self.step_count_before(epoch, world_size)
        _, steps = (
            self.run_length(world_size) if any(s.caption_rules.token_warmup_step for s in self.subsets) else (0, 0)
        )

        def make(place: int) -> Batch:
            step = first + place // self.recipe.gradient_accumulation_steps
            return self._batch(chunks[place], epoch, rank, world_size, step, steps)

        return prefetched(make, range(start, len(chunks)), threads=self.recipe.max_data_loader_n_workers)

    def _batch(self, chunk: GlobalBatch, epoch: int, rank: int, world_size: int, step: int, steps: int) -> Batch:
        mine, scale = chunk.items_of_process(rank, world_size)
        items = mine or chunk.items[:1]
        turns = [self._load_sample(item, epoch, step, steps) for item in items]
        pictures = [self.images[item.image] for item in items]
        weights = [self.subsets[picture.subset].loss_weight if mine else 0.0 for picture in pictures]
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
            seeds=tuple(keyed_random_number(self.seed, "noise", epoch, *item) for item in items),
            scale=scale,
        )

    def _load_sample(self, item: ImageRepeat, epoch: int, step: int, steps: int) -> TrainingSample:
        picture = self.images[item.image]
        subset = self.subsets[picture.subset]
        rng = random.Random(keyed_random_number(self.seed, "turn", epoch, *item))
        caption = vary_caption(picture.caption, subset.caption_rules, rng, epoch=epoch + 1, step=step, steps=steps)
        flipped = subset.augmentation.flip_aug and rng.random() < 0.5
        if self._latent_cache is not None and subset.augmentation.fixed:
            cut = choose_crop(picture.size, picture.bucket_fit, subset.augmentation, rng)
            kept = self._latent_cache.get(self._key(picture, flipped))
            if kept is not None:
                return TrainingSample(None, kept["latents"], kept.get("mask"), caption, _crop(cut, picture, flipped))
            raise TrainError(f"the cached latents of {picture.path} are gone or damaged; start again to make them")
        image, mask, cut = self._image(picture, rng)
        if subset.augmentation.color_aug:
            image = vary_colour(image, rng)
        pixels = image_to_pixels(image)
        small = None if mask is None else image_to_latent_mask(mask)
        if flipped:
            pixels, small = pixels.flip(-1), None if small is None else small.flip(-1)
        return TrainingSample(pixels, None, small, caption, _crop(cut, picture, flipped))

    def _image(self, picture: DatasetImage, rng: random.Random) -> tuple[Image.Image, Image.Image | None, ImageCrop]:
        """A picture cut to its bucket, its mask cut alike, and where it was cut."""
        rules = self.subsets[picture.subset].augmentation
        bucket = picture.bucket_fit.bucket
        if rules.fixed:
            cut = choose_crop(picture.size, picture.bucket_fit, rules, rng)
            image, mask = self._image_cache.get(picture, lambda: self._cut(picture, cut))
            return image, mask, cut
        image, mask = self._load_image_and_mask(picture)
        face = parse_face_box(picture.path) if rules.face_crop else None
        if rules.face_crop and face is None and self.find_face:
            face = self.find_face(image)
        cut = choose_crop(picture.size, picture.bucket_fit, rules, rng, face)
        how = rules.resize_interpolation
        return apply_crop(image, cut, bucket, how), None if mask is None else apply_crop(mask, cut, bucket, how), cut

    def _cut(self, picture: DatasetImage, cut: ImageCrop) -> tuple[Image.Image, Image.Image | None]:
        image, mask = self._load_image_and_mask(picture)
        how, bucket = self.subsets[picture.subset].augmentation.resize_interpolation, picture.bucket_fit.bucket
        return apply_crop(image, cut, bucket, how), None if mask is None else apply_crop(mask, cut, bucket, how)

    def _load_image_and_mask(self, picture: DatasetImage) -> tuple[Image.Image, Image.Image | None]:
        """The decoded picture and its mask, of the same size."""
        opened = load_training_image(picture.path)
        if opened.rgb.size != picture.size:
            raise TrainError(f"{picture.path} was changed while training; start again")
        if picture.mask is not None:
            mask = load_training_image(picture.mask).rgb.convert("L")
            return opened.rgb, mask if mask.size == picture.size else mask.resize(picture.size)
        return opened.rgb, opened.alpha if self.subsets[picture.subset].augmentation.alpha_mask else None

    # --- latents

    def _key(self, picture: DatasetImage, flipped: bool) -> str:
        rules = self.subsets[picture.subset].augmentation
        about = (picture.bucket_fit, rules.resize_interpolation, rules.alpha_mask, flipped)
        return content_key("latents", self._vae_key, picture.digest, *about)

    def cache_latents(
        self,
        encode: Callable[[Tensor], Tensor],
        vae: str,
        *,
        folder: Path | None = None,
        rank_and_world_size: tuple[int, int] = (0, 1),
        track: Track = no_progress,
    ) -> int:
        """Encode every picture once (with `flip_aug` its mirror image too); batches carry latents from then on.

        encode: pixels (n, 3, h, w) → latents. vae: a name for it, part of the key. folder: keep them there instead of
        in memory; what lies there already is not encoded again. share: (rank, world), to fill a folder together.
        Returns how many were encoded. Raises TrainError where pictures vary in more than flipping.
        """
        for subset in self.subsets:
            if not subset.augmentation.fixed:
                raise TrainError(f"{_varying(subset)} cannot go with cache_latents; turn one of the two off")
        self._latent_cache, self._vae_key = TensorCache(folder), vae
        if folder is not None:  # a name may be empty or the same for two files; what it makes of a pattern is not
            self._vae_key += tensor_fingerprint(encode(_pattern()))
        jobs: dict[PixelSize, list[tuple[DatasetImage, bool]]] = {}
        for picture in {self._key(p, False): p for p in self.images}.values():
            for flipped in (False, True) if self.subsets[picture.subset].augmentation.flip_aug else (False,):
                if self._latent_cache.get(self._key(picture, flipped)) is None:
                    jobs.setdefault(picture.bucket_fit.bucket, []).append((picture, flipped))
        size = self.recipe.vae_batch_size
        parts = [group[at : at + size] for group in jobs.values() for at in range(0, len(group), size)]
        mine = parts[rank_and_world_size[0] :: rank_and_world_size[1]]
        made = prefetched(self._load_pixels_and_masks, mine, threads=self.recipe.max_data_loader_n_workers)
        for part, (pixels, masks) in zip(track(mine, "caching latents"), made, strict=True):
            latents = encode(pixels)
            if not bool(torch.isfinite(latents).all()):
                raise TrainError(f"the VAE gives no numbers (NaN) for {part[0][0].path}; turn on no_half_vae")
            for row, (picture, flipped) in enumerate(part):
                kept = {"latents": latents[row].float()}
                if (mask := masks[row]) is not None:
                    kept["mask"] = mask
                self._latent_cache.add(self._key(picture, flipped), kept)
        return sum(map(len, mine))

    def _load_pixels_and_masks(self, part: Sequence[tuple[DatasetImage, bool]]) -> tuple[Tensor, list[Tensor | None]]:
        """Pixels and masks of some pictures of one bucket, without keeping the pictures."""
        pixels, masks = [], []
        for picture, flipped in part:
            rules = self.subsets[picture.subset].augmentation
            image, mask = self._cut(picture, choose_crop(picture.size, picture.bucket_fit, rules, random.Random(0)))
            values, small = image_to_pixels(image), None if mask is None else image_to_latent_mask(mask)
            pixels.append(values.flip(-1) if flipped else values)
            masks.append(small.flip(-1) if flipped and small is not None else small)
        return torch.stack(pixels), masks

    def fixed_captions(self) -> list[str] | None:
        """Every caption that can come up; None where captions vary from step to step."""
        if not all(subset.caption_rules.fixed for subset in self.subsets):
            return None
        rng = random.Random(0)
        return list(
            dict.fromkeys(vary_caption(p.caption, self.subsets[p.subset].caption_rules, rng) for p in self.images)
        )


class _ImageCache:
    """The last pictures cut to their buckets, up to so many bytes; safe for threads."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.lock = limit, 0, threading.Lock()
        self.held: OrderedDict[DatasetImage, tuple[Image.Image, Image.Image | None]] = OrderedDict()

    def get(
        self, picture: DatasetImage, make: Callable[[], tuple[Image.Image, Image.Image | None]]
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


def _with_subset_settings(recipe: Recipe, subsets: Sequence[Subset]) -> Recipe:
    """The recipe with what the subsets have of their own: the largest batch, the first one's sizes of pictures."""
    sizes = {name: getattr(subsets[0].bucket_rules, name) for name in BucketRules.__dataclass_fields__}
    sizes["resolution"] = ",".join(map(str, dict.fromkeys(sizes["resolution"])))
    return replace(recipe, train_batch_size=max(subset.batch_size for subset in subsets), **sizes)


def _bytes(picture: DatasetImage) -> int:
    return 4 * picture.bucket_fit.bucket[0] * picture.bucket_fit.bucket[1]


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    found = [row for row in rows if row is not None]
    return torch.stack(found) if found else None


def _masks(rows: Sequence[Tensor | None], bucket: PixelSize) -> Tensor | None:
    """Masks of a batch; pictures without one count everywhere. None where none has one."""
    if all(row is None for row in rows):
        return None
    full = torch.ones(1, bucket[1] // PIXELS_PER_LATENT, bucket[0] // PIXELS_PER_LATENT)
    return torch.stack([full if row is None else row for row in rows])


def _crop(cut: ImageCrop, picture: DatasetImage, flipped: bool) -> tuple[int, int]:
    """(left, top) of what is trained, in pixels of the whole picture scaled alike; flipped: of its mirror image."""
    left, top, scale = cut.left, cut.top, cut.resized[0] / picture.size[0]
    if cut.source_box:
        scale = cut.resized[0] / cut.source_box[2]
        left, top = left + round(cut.source_box[0] * scale), top + round(cut.source_box[1] * scale)
    if flipped:
        left = max(0, round(picture.size[0] * scale) - picture.bucket_fit.bucket[0] - left)
    return left, top


def _varying(subset: Subset) -> str:
    rules = subset.augmentation
    return "color_aug" if rules.color_aug else "random_crop" if rules.random_crop else "face_crop_aug_range"


def _pattern() -> Tensor:
    """A small picture of waves (1, 3, 64, 64)."""
    waves = torch.arange(64.0).mul(0.4).sin()
    return torch.stack([waves.outer(waves), waves.outer(waves.flip(0)), waves.expand(64, 64)]).unsqueeze(0)

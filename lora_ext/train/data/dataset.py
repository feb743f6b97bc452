"""`Dataset`: a recipe's images and captions as batches, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...errors import TrainError
from ...progress import Track, no_progress
from ...protocols import VAE_SCALE_FACTOR
from ..config.recipe import Recipe
from . import dataset_folders
from .batch import Batch
from .buckets import BucketRules, PixelSize
from .captions import vary_caption
from .content_cache import TensorCache, content_key, tensor_fingerprint
from .cropped_images import CroppedImageLoader, crop_origin, default_face_finder
from .dataset_scan import DatasetImage, DatasetScan, scan_dataset
from .image_files import FaceFinder, choose_crop, image_to_latent_mask, image_to_pixels, vary_colour
from .prefetch import prefetched
from .sample_order import GlobalBatch, ImageRepeat, SampleOrder, keyed_random_number
from .subset import Subset
from .validation_split import split_subsets


class TrainingSample(NamedTuple):
    """One image in one step; `latents` replace `pixels` where they are cached."""

    pixels: Tensor | None
    latents: Tensor | None
    mask: Tensor | None
    caption: str
    crop: tuple[int, int]


SampleUnit = Literal["pictures", "pairs", "prompts"]


class Dataset:
    """A recipe's images and captions as batches. Epochs count from 0.

    Every random choice depends on (seed, epoch, image, repeat) alone, so batches are the same from any starting place
    and for any number of processes.

    Args:
        recipe: The settings; `from_recipe` scans its folders.
        dataset_scan: The scanned subsets and images.
        seed: The seed of every random choice.
        find_face: Finds an image's largest face for `face_crop_aug_range`; OpenCV's cascade without one.

    Attributes:
        recipe: The settings, with the batch size and the image sizes of the dataset file, if there is one.
        scan: The scan, with a sentence for each image that was skipped.
        subsets: The folders and their rules.
        images: The images, which refer to subsets by number.
        sample_order: The batches of every epoch.
        unit: What `images` are.
    """

    unit: SampleUnit = "pictures"

    def __init__(
        self, recipe: Recipe, dataset_scan: DatasetScan, seed: int, *, find_face: FaceFinder | None = None
    ) -> None:
        self.recipe, self.scan, self.seed = _with_subset_settings(recipe, dataset_scan.subsets), dataset_scan, seed
        self.subsets, self.images = dataset_scan.subsets, dataset_scan.images
        self.sample_order = SampleOrder(dataset_scan.subsets, dataset_scan.images, seed)
        self._latent_cache: TensorCache | None = None
        self._vae_key = ""
        self._images = CroppedImageLoader(self.subsets, find_face or default_face_finder(self.images, self.subsets))

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
        """Finds the recipe's folders and scans every image.

        Args:
            recipe: The settings with the folders.
            seed: The seed of every random choice where the recipe has none.
            notify: Called with a sentence for each folder that is left out.
            track: Shows the progress of the scan.
            find_face: As in `Dataset`.

        Returns:
            The data set. `scan.skipped` names the images that cannot be read.

        Raises:
            TrainError: A folder is missing or has no images, or none of the images can be read.
        """
        seed = recipe.seed if recipe.seed is not None else seed
        subsets = split_subsets(dataset_folders.find_subsets(recipe, notify), recipe, seed, validation=False)
        found = scan_dataset(subsets, strict=recipe.strict_images, track=track)
        return cls(recipe, found, seed, find_face=find_face)

    # --- how much there is

    def batch_count(self, epoch: int, world_size: int = 1) -> int:
        """The number of batches of an epoch.

        Args:
            epoch: The epoch, from 0.
            world_size: Number of processes.

        Returns:
            Batches of each process.
        """
        return self.sample_order.batch_count(epoch, world_size)

    def step_count(self, epoch: int, world_size: int = 1) -> int:
        """The number of optimizer steps of an epoch: batches / `gradient_accumulation_steps`, rounded up.

        Args:
            epoch: The epoch, from 0.
            world_size: Number of processes.

        Returns:
            Optimizer steps.
        """
        return -(-self.batch_count(epoch, world_size) // self.recipe.gradient_accumulation_steps)

    def step_count_before(self, epoch: int, world_size: int = 1) -> int:
        """Optimizer steps before an epoch begins."""
        if not self.sample_order.varies:
            return epoch * self.step_count(0, world_size)
        return sum(self.step_count(e, world_size) for e in range(epoch))

    def run_length(self, world_size: int = 1, *, epoch: int = 0, batch: int = 0, step: int = 0) -> tuple[int, int]:
        """Computes the length of the whole run from `max_train_epochs`, else from `max_train_steps`.

        Args:
            world_size: Number of processes.
            epoch: The epoch in which a resumed run continues.
            batch: The batch of that epoch with which it continues.
            step: Optimizer steps done before that, possibly with other batches.

        Returns:
            (epochs, optimizer steps).
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
        """Yields an epoch's batches for one process, prepared ahead of their use by threads.

        Args:
            epoch: The epoch, from 0.
            rank: The process.
            world_size: Number of processes.
            start: The first batch, from 0.

        Yields:
            The batches in the order of training.
        """
        batches = self.sample_order.epoch_batches(epoch, world_size)
        first = self.step_count_before(epoch, world_size)
        _, steps = (
            self.run_length(world_size) if any(s.caption_rules.token_warmup_step for s in self.subsets) else (0, 0)
        )

        def make(place: int) -> Batch:
            step = first + place // self.recipe.gradient_accumulation_steps
            return self._batch(batches[place], epoch, rank, world_size, step, steps)

        return prefetched(make, range(start, len(batches)), threads=self.recipe.max_data_loader_n_workers)

    def _batch(self, global_batch: GlobalBatch, epoch: int, rank: int, world_size: int, step: int, steps: int) -> Batch:
        mine, scale = global_batch.items_of_process(rank, world_size)
        items = mine or global_batch.items[:1]
        samples = [self._load_sample(item, epoch, step, steps) for item in items]
        images = [self.images[item.image] for item in items]
        weights = [self.subsets[image.subset].loss_weight if mine else 0.0 for image in images]
        return Batch(
            pixels=_stacked([sample.pixels for sample in samples]),
            latents=_stacked([sample.latents for sample in samples]),
            captions=[sample.caption for sample in samples],
            regularisation=tuple(self.subsets[image.subset].regularisation for image in images),
            weights=torch.tensor(weights),
            mask=_masks([sample.mask for sample in samples], global_batch.bucket),
            paths=tuple(str(image.path) for image in images),
            original_sizes=tuple(image.size for image in images),
            crops=tuple(sample.crop for sample in samples),
            bucket=global_batch.bucket,
            seeds=tuple(keyed_random_number(self.seed, "noise", epoch, *item) for item in items),
            scale=scale,
            step=step,
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
                return TrainingSample(
                    None, kept["latents"], kept.get("mask"), caption, crop_origin(cut, picture, flipped)
                )
            raise TrainError(
                f"the cached latents of {picture.path} are missing or damaged; start the run again to encode them anew"
            )
        image, mask, cut = self._images.load(picture, rng)
        if subset.augmentation.color_aug:
            image = vary_colour(image, rng)
        pixels = image_to_pixels(image)
        small = None if mask is None else image_to_latent_mask(mask)
        if flipped:
            pixels, small = pixels.flip(-1), None if small is None else small.flip(-1)
        return TrainingSample(pixels, None, small, caption, crop_origin(cut, picture, flipped))

    # --- latents

    def _key(self, image: DatasetImage, flipped: bool) -> str:
        rules = self.subsets[image.subset].augmentation
        about = (image.bucket_fit, rules.resize_interpolation, rules.alpha_mask, flipped)
        return content_key("latents", self._vae_key, image.digest, *about)

    def cache_latents(
        self,
        encode: Callable[[Tensor], Tensor],
        vae: str,
        *,
        folder: Path | None = None,
        rank_and_world_size: tuple[int, int] = (0, 1),
        track: Track = no_progress,
    ) -> int:
        """Encodes every image once; from then on batches carry latents instead of pixels.

        With `flip_aug` the mirror image is encoded too.

        Args:
            encode: Pixels (n, 3, h, w) in −1..1 → scaled latents (n, 4, h/8, w/8).
            vae: A name of the autoencoder, part of the key.
            folder: Keeps the latents there instead of in memory; latents that exist there are not encoded again.
            rank_and_world_size: (rank, processes), to fill a folder together.
            track: Shows the progress.

        Returns:
            How many images this process encoded.

        Raises:
            TrainError: An augmentation other than flipping changes the images, or the autoencoder returns NaN.
        """
        for subset in self.subsets:
            if not subset.augmentation.fixed:
                raise TrainError(f"{_varying(subset)} cannot be used with cache_latents; turn one of the two off")
        self._latent_cache, self._vae_key = TensorCache(folder), vae
        if folder is not None:  # the name may be empty or shared by two autoencoders; the encoding of a pattern is not
            self._vae_key += tensor_fingerprint(encode(_pattern()))
        jobs: dict[PixelSize, list[tuple[DatasetImage, bool]]] = {}
        for image in {self._key(p, False): p for p in self.images}.values():
            for flipped in (False, True) if self.subsets[image.subset].augmentation.flip_aug else (False,):
                if self._latent_cache.get(self._key(image, flipped)) is None:
                    jobs.setdefault(image.bucket_fit.bucket, []).append((image, flipped))
        size = self.recipe.vae_batch_size
        parts = [group[at : at + size] for group in jobs.values() for at in range(0, len(group), size)]
        own_parts = parts[rank_and_world_size[0] :: rank_and_world_size[1]]
        loaded = prefetched(self._load_pixels_and_masks, own_parts, threads=self.recipe.max_data_loader_n_workers)
        for part, (pixels, masks) in zip(track(own_parts, "caching latents"), loaded, strict=True):
            latents = encode(pixels)
            if not bool(torch.isfinite(latents).all()):
                raise TrainError(f"the VAE returns NaN for {part[0][0].path}; turn on no_half_vae")
            for row, (image, flipped) in enumerate(part):
                kept = {"latents": latents[row].float()}
                if (mask := masks[row]) is not None:
                    kept["mask"] = mask
                self._latent_cache.add(self._key(image, flipped), kept)
        return sum(map(len, own_parts))

    def _load_pixels_and_masks(self, part: Sequence[tuple[DatasetImage, bool]]) -> tuple[Tensor, list[Tensor | None]]:
        """Pixels (n, 3, h, w) and masks of (image, flipped) pairs of one bucket."""
        pixels, masks = [], []
        for picture, flipped in part:
            rules = self.subsets[picture.subset].augmentation
            image, mask = self._images.load_cropped(
                picture, choose_crop(picture.size, picture.bucket_fit, rules, random.Random(0))
            )
            values, small = image_to_pixels(image), None if mask is None else image_to_latent_mask(mask)
            pixels.append(values.flip(-1) if flipped else values)
            masks.append(small.flip(-1) if flipped and small is not None else small)
        return torch.stack(pixels), masks

    def fixed_captions(self) -> list[str] | None:
        """Every caption that training uses.

        Returns:
            The captions, each once; None where captions change from step to step.
        """
        if not all(subset.caption_rules.fixed for subset in self.subsets):
            return None
        rng = random.Random(0)
        return list(
            dict.fromkeys(vary_caption(p.caption, self.subsets[p.subset].caption_rules, rng) for p in self.images)
        )


def _with_subset_settings(recipe: Recipe, subsets: Sequence[Subset]) -> Recipe:
    """The recipe with the subsets' largest batch size and the first subset's image sizes."""
    sizes = {name: getattr(subsets[0].bucket_rules, name) for name in BucketRules.__dataclass_fields__}
    sizes["resolution"] = ",".join(map(str, dict.fromkeys(sizes["resolution"])))
    return replace(recipe, train_batch_size=max(subset.batch_size for subset in subsets), **sizes)


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    found = [row for row in rows if row is not None]
    return torch.stack(found) if found else None


def _masks(rows: Sequence[Tensor | None], bucket: PixelSize) -> Tensor | None:
    """Masks (n, 1, h/8, w/8) of a batch, ones for images without a mask; None where no image has one."""
    if all(row is None for row in rows):
        return None
    full = torch.ones(1, bucket[1] // VAE_SCALE_FACTOR, bucket[0] // VAE_SCALE_FACTOR)
    return torch.stack([full if row is None else row for row in rows])


def _varying(subset: Subset) -> str:
    rules = subset.augmentation
    return "color_aug" if rules.color_aug else "random_crop" if rules.random_crop else "face_crop_aug_range"


def _pattern() -> Tensor:
    """A small image of waves, (1, 3, 64, 64) in −1..1."""
    waves = torch.arange(64.0).mul(0.4).sin()
    return torch.stack([waves.outer(waves), waves.outer(waves.flip(0)), waves.expand(64, 64)]).unsqueeze(0)

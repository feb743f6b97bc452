"""`PairDataset`: the batches of modes that learn from pairs of pictures, before and after a change."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...errors import TrainError
from ...file.broken_links import is_broken_link
from ...progress import Track, no_progress
from ...protocols import VAE_SCALE_FACTOR
from ..config.recipe import Recipe
from .buckets import PixelSize
from .captions import vary_caption
from .cropped_images import crop_origin
from .dataset import Dataset, TrainingSample
from .dataset_scan import DatasetImage, DatasetScan, scan_dataset
from .image_files import ImageCrop, apply_crop, choose_crop, image_to_pixels, is_image_file
from .picture_edit import load_cropped_image
from .sample_order import ImageRepeat, keyed_random_number
from .subset import BATCHES_PER_EPOCH, Subset, augmentation_rules, bucket_rules, check_folder, load_subset

LEAST_DIFFERENCE = 10
"""Sum over the colours, each 0..255, above which a pixel of a pair differs, as in traintrain."""

PicturePair = tuple[Path, Path]
"""(original, target)."""


class PairDataset(Dataset):
    """Batches of pairs: pixels (n, 6, h, w) or latents (n, 8, h/8, w/8), the original's channels before the target's.

    Attributes:
        targets: The target of each of `images`, the originals.
        pasted: With `paste_data_dir` the pair whose change is pasted into each of `images`; each is its own target.
    """

    unit = "pairs"
    targets: tuple[DatasetImage, ...]
    pasted: PicturePair | None

    @classmethod
    def from_recipe(cls, recipe: Recipe, seed: int = 0, *, track: Track = no_progress, **_: Any) -> PairDataset:
        """Finds and scans the recipe's pairs.

        Args:
            recipe: The settings.
            seed: The seed of every random choice where the recipe has none.
            track: Shows the progress of the scan.

        Returns:
            The data set.

        Raises:
            TrainError: No pair is found, or a picture cannot be read, or the two of a pair have different shapes.
        """
        pairs, run_seed = find_pairs(recipe), recipe.seed if recipe.seed is not None else seed
        if recipe.paste_data_dir:
            scan = _scan_pasted(recipe, track)
            return cls(recipe, scan, run_seed)._with_targets(scan.images, pairs[0])
        repeats = _repeats(recipe, len(pairs))
        rules = {"bucket_rules": bucket_rules(recipe), "augmentation": augmentation_rules(recipe)}
        subset, other = (
            Subset(files[0].parent, files, repeats, batch_size=recipe.train_batch_size, **rules)  # type: ignore[arg-type]
            for files in zip(*pairs, strict=True)
        )
        images = scan_dataset([subset, other], strict=True, track=track).images
        originals, targets = images[: len(pairs)], images[len(pairs) :]
        for pair, before, after in zip(pairs, originals, targets, strict=True):
            _check_shapes(pair, (before.size, after.size))
        uncaptioned = tuple(replace(image, caption="", has_caption=False) for image in originals)
        return cls(recipe, DatasetScan((subset,), uncaptioned, ()), run_seed)._with_targets(targets)

    _encoded: dict[tuple[int, bool], TrainingSample]

    def _with_targets(self, targets: tuple[DatasetImage, ...], pasted: PicturePair | None = None) -> PairDataset:
        self.targets, self.pasted, self._encoded = targets, pasted, {}
        return self

    def _load_sample(self, item: ImageRepeat, epoch: int, step: int, steps: int) -> TrainingSample:
        rng = random.Random(keyed_random_number(self.seed, "turn", epoch, *item))
        flipped = self.subsets[0].augmentation.flip_aug and rng.random() < 0.5
        sample = self._encoded.get((item.image, flipped)) or self._load_pair(item.image, flipped, rng)
        rules, caption = self.subsets[0].caption_rules, self.images[item.image].caption
        return sample._replace(caption=vary_caption(caption, rules, rng, epoch=epoch + 1, step=step, steps=steps))

    def _load_pair(self, number: int, flipped: bool, rng: random.Random) -> TrainingSample:
        before, rules = self.images[number], self.subsets[0].augmentation
        crop = choose_crop(before.size, before.bucket_fit, rules, rng)
        pair = [self._cropped(image, before, crop) for image in (before, self.targets[number])]
        pixels = torch.cat([image_to_pixels(image) for image in pair])
        if self.pasted is not None:
            pixels = paste_change(pixels, self._change(before.bucket_fit.bucket))
        pixels = pixels.flip(-1) if flipped else pixels
        mask = None
        if self.pasted is not None:  # the objective needs to know how much of each latent pixel was pasted
            mask = F.avg_pool2d(_differing(pixels).float()[None], VAE_SCALE_FACTOR)
        elif self.recipe.diff_use_diff_mask:
            mask = difference_mask(pixels)
        return TrainingSample(pixels, None, mask, "", crop_origin(crop, before, flipped))

    def _change(self, size: PixelSize) -> Tensor:
        """The pair whose change is pasted, (6, h, w), stretched to a picture's size. Raises TrainError."""
        assert self.pasted is not None
        before, after = (load_cropped_image(path).rgb for path in self.pasted)
        _check_shapes(self.pasted, (before.size, after.size))
        sides = (side.resize(size, Image.Resampling.LANCZOS) for side in (before, after))
        change = torch.cat([image_to_pixels(side) for side in sides])
        if not _differing(change).any():
            raise TrainError(f"{self.pasted[0]} and {self.pasted[1]} are the same picture; nothing can be pasted")
        return change

    def _cropped(self, image: DatasetImage, before: DatasetImage, crop: ImageCrop) -> Image.Image:
        """A picture in the crop of the original of its pair, after it was scaled to the original's size."""
        whole = load_cropped_image(image.path).rgb
        whole = whole if whole.size == before.size else whole.resize(before.size, Image.Resampling.LANCZOS)
        return apply_crop(whole, crop, before.bucket_fit.bucket, self.subsets[0].augmentation.resize_interpolation)

    def cache_latents(
        self, encode: Callable[[Tensor], Tensor], vae: str, *, track: Track = no_progress, **_: Any
    ) -> int:
        """Encodes every pair once and keeps it in memory.

        Args:
            encode: As in `Dataset`.
            vae: As in `Dataset`.
            track: Shows the progress.

        Returns:
            How many pictures were encoded.

        Raises:
            TrainError: random_crop changes the pictures.
        """
        if not self.subsets[0].augmentation.fixed:
            raise TrainError("random_crop cannot be used with cache_latents; turn one of the two off")
        sides = (False, True) if self.subsets[0].augmentation.flip_aug else (False,)
        for number in track(range(len(self.images)), "caching latents"):
            for flipped in sides:
                sample = self._load_pair(number, flipped, random.Random(0))
                assert sample.pixels is not None
                latents = encode(sample.pixels.unflatten(0, (2, 3))).float().cpu().flatten(0, 1)
                self._encoded[number, flipped] = sample._replace(pixels=None, latents=latents)
        return 2 * len(self._encoded)


def _check_shapes(pair: PicturePair, sizes: tuple[PixelSize, PixelSize]) -> None:
    (width, height), (other_width, other_height) = sizes
    if abs(width * other_height / (height * other_width) - 1) > 0.02:
        raise TrainError(f"{pair[0]} and {pair[1]} have different shapes; crop them alike")


def _repeats(recipe: Recipe, pictures: int) -> int:
    return -(-BATCHES_PER_EPOCH * recipe.train_batch_size // pictures)


def _scan_pasted(recipe: Recipe, track: Track) -> DatasetScan:
    """The pictures of `paste_data_dir` with their captions."""
    folder = Path(recipe.paste_data_dir or "")
    check_folder(folder, "paste_data_dir")
    subset = load_subset(folder, recipe, 1, recipe.instance_prompt or "")
    if not subset.files:
        raise TrainError(f"paste_data_dir {folder} has no pictures; give original_prompt, of which they are drawn")
    subset = replace(subset, repeats=_repeats(recipe, len(subset.files)))
    return scan_dataset([subset], strict=recipe.strict_images, track=track)


def paste_change(pixels: Tensor, change: Tensor) -> Tensor:
    """Pastes what changed in one pair into the second picture of another.

    Args:
        pixels: (6, h, w) in −1..1, both halves the picture without the change.
        change: (6, h, w) in −1..1, before and after.

    Returns:
        (6, h, w); the second half is that of `change` where the halves of `change` differ.
    """
    without, into = pixels.chunk(2)
    return torch.cat([without, torch.where(_differing(change), change.chunk(2)[1], into)])


def _differing(pixels: Tensor) -> Tensor:
    """Which pixels of a pair (6, h, w) differ, (h, w)."""
    before, after = pixels.chunk(2)
    return (after - before).abs().sum(0) * 127.5 > LEAST_DIFFERENCE


def difference_mask(pixels: Tensor) -> Tensor:
    """Where the two pictures of a pair differ, as a latent mask.

    Args:
        pixels: (6, h, w) in −1..1.

    Returns:
        (1, h/8, w/8), 0 or 1; of each latent pixel its first pixel is looked at, as in traintrain.
    """
    differs = _differing(pixels).float()[None, None]
    return F.interpolate(differs, scale_factor=1 / VAE_SCALE_FACTOR, mode="nearest")[0]


def find_pairs(recipe: Recipe) -> list[PicturePair]:
    """The pairs of pictures that a recipe names.

    Args:
        recipe: The settings: one pair, or a folder whose targets have a name's ending or lie in another folder.

    Returns:
        (original, target), sorted by the original.

    Raises:
        TrainError: A picture or folder is missing, or no original has a target.
    """
    if recipe.mode == "addift":
        pair = Path(recipe.original_image or ""), Path(recipe.target_image or "")
        for path in pair:
            if not path.is_file():
                raise TrainError(f"{path} is not a file; give the two pictures as original_image and target_image")
        return [pair]
    folder = Path(recipe.train_data_dir or "")
    check_folder(folder, "train_data_dir")
    # a broken link is no picture without a partner: reading the pair says what is wrong with it
    originals = sorted(p for p in folder.rglob("*") if is_image_file(p) and (p.is_file() or is_broken_link(p)))
    if recipe.target_data_dir:
        targets = Path(recipe.target_data_dir)
        check_folder(targets, "target_data_dir")
        pairs = [(path, targets / path.relative_to(folder)) for path in originals]
    else:
        pairs = [(path, path.with_name(f"{path.stem}{recipe.diff_target_name}{path.suffix}")) for path in originals]
    found = [pair for pair in pairs if pair[1].is_file() or is_broken_link(pair[1])]
    if not found:
        how = f"named as in target_data_dir {recipe.target_data_dir}"
        if not recipe.target_data_dir:
            how = f"with a second one whose name ends in {recipe.diff_target_name!r}"
        raise TrainError(f"train_data_dir {folder} has no picture {how}")
    return found

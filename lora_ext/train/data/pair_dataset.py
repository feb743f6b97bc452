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
from ...progress import Track, no_progress
from ...protocols import VAE_SCALE_FACTOR
from ..config.recipe import Recipe
from .cropped_images import crop_origin
from .dataset import Dataset, TrainingSample
from .dataset_scan import DatasetImage, DatasetScan, scan_dataset
from .image_files import ImageCrop, apply_crop, choose_crop, image_to_pixels, is_image_file
from .picture_edit import load_cropped_image
from .sample_order import ImageRepeat, keyed_random_number
from .subset import BATCHES_PER_EPOCH, Subset, augmentation_rules, bucket_rules, check_folder

LEAST_DIFFERENCE = 10
"""Sum over the colours, each 0..255, above which a pixel of a pair differs, as in traintrain."""

PicturePair = tuple[Path, Path]
"""(original, target)."""


class PairDataset(Dataset):
    """Batches of pairs: pixels (n, 6, h, w) or latents (n, 8, h/8, w/8), the original's channels before the target's.

    Attributes:
        targets: The target of each of `images`, the originals.
    """

    targets: tuple[DatasetImage, ...]

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
        pairs = find_pairs(recipe)
        repeats = -(-BATCHES_PER_EPOCH * recipe.train_batch_size // len(pairs))
        rules = {"bucket_rules": bucket_rules(recipe), "augmentation": augmentation_rules(recipe)}
        subset, other = (
            Subset(files[0].parent, files, repeats, batch_size=recipe.train_batch_size, **rules)  # type: ignore[arg-type]
            for files in zip(*pairs, strict=True)
        )
        images = scan_dataset([subset, other], strict=True, track=track).images
        originals, targets = images[: len(pairs)], images[len(pairs) :]
        for before, after in zip(originals, targets, strict=True):
            if abs(before.size[0] * after.size[1] / (before.size[1] * after.size[0]) - 1) > 0.02:
                raise TrainError(f"{before.path} and {after.path} have different shapes; crop them alike")
        uncaptioned = tuple(replace(image, caption="", has_caption=False) for image in originals)
        data = cls(recipe, DatasetScan((subset,), uncaptioned, ()), recipe.seed if recipe.seed is not None else seed)
        data.targets, data._encoded = targets, {}
        return data

    _encoded: dict[tuple[int, bool], TrainingSample]

    def _load_sample(self, item: ImageRepeat, epoch: int, step: int, steps: int) -> TrainingSample:
        rng = random.Random(keyed_random_number(self.seed, "turn", epoch, *item))
        flipped = self.subsets[0].augmentation.flip_aug and rng.random() < 0.5
        return self._encoded.get((item.image, flipped)) or self._load_pair(item.image, flipped, rng)

    def _load_pair(self, number: int, flipped: bool, rng: random.Random) -> TrainingSample:
        before, rules = self.images[number], self.subsets[0].augmentation
        crop = choose_crop(before.size, before.bucket_fit, rules, rng)
        pair = [self._cropped(image, before, crop) for image in (before, self.targets[number])]
        pixels = torch.cat([image_to_pixels(image) for image in pair])
        pixels = pixels.flip(-1) if flipped else pixels
        mask = difference_mask(pixels) if self.recipe.diff_use_diff_mask else None
        return TrainingSample(pixels, None, mask, "", crop_origin(crop, before, flipped))

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


def difference_mask(pixels: Tensor) -> Tensor:
    """Where the two pictures of a pair differ, as a latent mask.

    Args:
        pixels: (6, h, w) in −1..1.

    Returns:
        (1, h/8, w/8), 0 or 1; of each latent pixel its first pixel is looked at, as in traintrain.
    """
    before, after = pixels.chunk(2)
    differs = ((after - before).abs().sum(0) * 127.5 > LEAST_DIFFERENCE).float()[None, None]
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
    originals = sorted(path for path in folder.rglob("*") if is_image_file(path) and path.is_file())
    if recipe.target_data_dir:
        targets = Path(recipe.target_data_dir)
        check_folder(targets, "target_data_dir")
        pairs = [(path, targets / path.relative_to(folder)) for path in originals]
    else:
        pairs = [(path, path.with_name(f"{path.stem}{recipe.diff_target_name}{path.suffix}")) for path in originals]
    found = [pair for pair in pairs if pair[1].is_file()]
    if not found:
        how = f"named as in target_data_dir {recipe.target_data_dir}"
        if not recipe.target_data_dir:
            how = f"with a second one whose name ends in {recipe.diff_target_name!r}"
        raise TrainError(f"train_data_dir {folder} has no picture {how}")
    return found

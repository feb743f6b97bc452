"""`Subset`: one folder's pictures and how they are used."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import TrainError, did_you_mean_path
from ...file.broken_links import is_broken_link
from ..config.recipe import Recipe
from .buckets import BucketRules
from .caption_lists import find_caption_list, load_caption_list
from .captions import CaptionRules, checked_caption_suffix
from .image_files import AugmentationRules, is_image_file
from .missing_pictures import file_instead_of_folder_ending

BATCHES_PER_EPOCH = 100
"""Least batches of an epoch of modes without folders, so that an epoch is worth a file or a sample."""


@dataclass(frozen=True)
class Subset:
    """One folder's images and how they are used.

    Attributes:
        folder: The folder.
        files: The images.
        broken_links: Links with an image's name whose files do not exist.
        repeats: How often each image is used in an epoch.
        concept: The caption of images without one.
        regularisation: Whether they are regularisation images.
        caption_rules: How captions vary.
        bucket_rules: Which sizes images are scaled to.
        augmentation: How images vary.
        caption_extension: The user's suffix of caption files, "" for the usual ones.
        batch_size: Images in a batch, for one process.
        loss_weight: Factor on each image's loss.
        masks: The folder of masks.
        listed_captions: Image → caption, where a caption list gives them.
        dataset: Number of its data set; regularisation images are as many as the training images of their data set.
    """

    folder: Path
    files: tuple[Path, ...]
    repeats: int
    concept: str = ""
    regularisation: bool = False
    caption_rules: CaptionRules = field(default_factory=CaptionRules)
    bucket_rules: BucketRules = field(default_factory=BucketRules)
    augmentation: AugmentationRules = field(default_factory=AugmentationRules)
    caption_extension: str = ""
    batch_size: int = 1
    loss_weight: float = 1.0
    masks: Path | None = None
    broken_links: tuple[Path, ...] = ()
    listed_captions: Mapping[Path, str] = field(default_factory=dict, hash=False)
    dataset: int = 0

    @property
    def name(self) -> str:
        """The folder's own name, as in `ss_dataset_dirs`."""
        return self.folder.name


def check_folder(path: Path, what: str) -> None:
    """Checks that a folder exists.

    Args:
        path: The folder.
        what: What the message calls it.

    Raises:
        TrainError: The folder is missing, is a file, may not be read, or has a name that the system does not take.
    """
    try:
        is_file = path.is_file()
    except OSError as error:  # such as a name of thousands of letters
        raise TrainError(f"{what} {str(path)[:200]} cannot be read: {error.strerror or error}") from None
    if is_file:
        raise TrainError(f"{what} {path} is a file, not a folder{file_instead_of_folder_ending(path)}")
    if not path.is_dir():
        near = path.parent if path.parent.is_dir() else None
        names = [p.name for p in near.iterdir() if p.is_dir()] if near else []
        raise TrainError(f"{what} {path} does not exist{did_you_mean_path(path, names)}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise TrainError(f"{what} {path} cannot be read: {os.strerror(errno.EACCES)}")


def load_subset(
    folder: Path,
    recipe: Recipe,
    repeats: int,
    concept: str = "",
    regularisation: bool = False,
    caption_list: Path | None = None,
) -> Subset:
    """Lists one folder's images and applies a recipe's rules.

    Args:
        folder: The folder.
        recipe: The settings.
        repeats: How often each image is used in an epoch.
        concept: The caption of images without one.
        regularisation: Whether they are regularisation images.
        caption_list: A caption list to use instead of the folder's own.

    Returns:
        The subset; `files` may be empty.

    Raises:
        TrainError: A caption list cannot be read, or settings are impossible.
    """
    listing = (
        caption_list
        or find_caption_list(folder)
        or (Path(recipe.in_json) if recipe.in_json and not regularisation else None)
    )
    listed = load_caption_list(listing, folder, recipe.caption_column) if listing else {}
    named = listed or [path for path in folder.iterdir() if is_image_file(path)]
    files = tuple(sorted((path for path in named if listed or path.is_file()), key=str))
    wanted = recipe.conditioning_data_dir if recipe.masked_loss and not regularisation else None
    masks = Path(wanted) if wanted else None
    if masks is not None:
        check_folder(masks, "conditioning_data_dir")
    return Subset(
        folder=folder,
        files=files,
        repeats=repeats,
        concept=concept,
        regularisation=regularisation,
        caption_rules=_regularisation_rules(recipe) if regularisation else caption_rules(recipe),
        bucket_rules=bucket_rules(recipe),
        augmentation=augmentation_rules(recipe),
        caption_extension=checked_caption_suffix(recipe.caption_extension) if recipe.caption_extension else "",
        batch_size=recipe.train_batch_size,
        loss_weight=recipe.prior_loss_weight if regularisation else 1.0,
        masks=masks,
        broken_links=tuple(sorted(filter(is_broken_link, () if listed else named), key=str)),
        listed_captions=listed,
    )


def caption_rules(recipe: Recipe) -> CaptionRules:
    """The recipe's caption options."""
    return CaptionRules(**{name: getattr(recipe, name) for name in CaptionRules.__dataclass_fields__})


def _regularisation_rules(recipe: Recipe) -> CaptionRules:
    """The caption options of regularisation pictures.

    kohya's scripts put `caption_prefix` before them too. Where the base model's predictions are kept, a trigger word
    there would keep what the word meant before.
    """
    rules = caption_rules(recipe)
    return replace(rules, caption_prefix=None, caption_suffix=None) if recipe.prior_loss_target == "model" else rules


def bucket_rules(recipe: Recipe) -> BucketRules:
    """The recipe's bucket options, and its resolution as (width, height)."""
    names = [name for name in BucketRules.__dataclass_fields__ if name != "resolution"]
    return BucketRules(recipe.size(), **{name: getattr(recipe, name) for name in names})


def augmentation_rules(recipe: Recipe) -> AugmentationRules:
    """The recipe's augmentation options. Raises TrainError for a face_crop_aug_range that is not a range."""
    names = [name for name in AugmentationRules.__dataclass_fields__ if name != "face_crop"]
    face = None
    if recipe.face_crop_aug_range:
        try:
            low, high = (float(part) for part in re.split(r"[,\s]+", recipe.face_crop_aug_range.strip("()[] ")))
        except ValueError:
            low, high = 0.0, 0.0
        if not 1 <= low <= high:
            raise TrainError(
                f"face_crop_aug_range {recipe.face_crop_aug_range!r} is not two factors of the face's size, "
                "the smaller one first; give for example 2.0,4.0"
            )
        face = low, high
    return replace(AugmentationRules(**{name: getattr(recipe, name) for name in names}), face_crop=face)

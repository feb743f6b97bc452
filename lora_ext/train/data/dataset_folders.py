"""Finds the training images: `N_concept` folders, a plain folder, or a dataset file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ...console import replace_lone_surrogates
from ...counted_words import counted
from ...errors import TrainError
from ...file.broken_links import broken_links_ending, broken_links_note, is_broken_link, may_be_folder_link
from ..config.recipe import Recipe
from .caption_lists import find_caption_list
from .captions import has_wildcards
from .dataset_toml import load_dataset_toml
from .image_files import is_image_file
from .missing_pictures import missing_pictures_ending
from .subset import BATCHES_PER_EPOCH, Subset, augmentation_rules, bucket_rules, check_folder, load_subset
from .table_files import unpack_tables

Notify = Callable[[str], None]
_REPEATS = re.compile(r"(\d+)_(.*)", flags=re.DOTALL)
COMMON_IMAGE_SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".tif")


def find_subsets(recipe: Recipe, notify: Notify = lambda text: None) -> list[Subset]:
    """Finds all folders of a recipe; in mode difference the one picture of the pass.

    Args:
        recipe: The settings.
        notify: Called with a sentence for each folder that is left out.

    Returns:
        The subsets with images, training before regularisation.

    Raises:
        TrainError: No folder is given, one is missing, or there are no training images.
    """
    if recipe.mode == "difference":
        return [_single_picture(recipe)]
    if recipe.dataset_config:
        found = load_dataset_toml(Path(recipe.dataset_config), recipe, notify)
        regular = [subset for subset in found if subset.regularisation]
        if regular and not any(subset.files for subset in regular):
            notify(f"no subset with is_reg in {recipe.dataset_config} has pictures, so there is no regularisation")
    elif recipe.train_data_dir:
        root = Path(recipe.train_data_dir)
        found = _subsets_below(unpack_tables(root, recipe, notify) or root, recipe, False, notify)
        if recipe.reg_data_dir and not _is_still_to_be_drawn(recipe):
            found += _subsets_below(Path(recipe.reg_data_dir), recipe, True, notify)
    else:
        raise TrainError(
            "there are no pictures to train on: set train_data_dir to a folder of pictures or of N_concept folders"
        )
    if not any(subset.files for subset in found if not subset.regularisation):
        where = recipe.dataset_config or recipe.train_data_dir
        ending = broken_links_ending([link for subset in found for link in subset.broken_links])
        if not recipe.dataset_config:
            ending += missing_pictures_ending(Path(str(where)))
        raise TrainError(
            f"{where} has no pictures to train on; put them in it, or in folders named such as '10_my concept' "
            f"(10 repeats); pictures end in {', '.join(COMMON_IMAGE_SUFFIXES)}{ending}"
        )
    return [subset for subset in found if subset.files]


def _is_still_to_be_drawn(recipe: Recipe) -> bool:
    """Whether a run makes `reg_data_dir` and all that is in it."""
    return bool(recipe.reg_generate and recipe.class_prompt) and not Path(str(recipe.reg_data_dir)).exists()


def _single_picture(recipe: Recipe) -> Subset:
    """The target picture of mode difference, or in its first pass the original. Raises TrainError."""
    name = "target_image" if recipe.target_image else "original_image"
    path = Path(getattr(recipe, name))
    if not path.is_file():
        raise TrainError(f"{name} {path} is not a file; give a picture")
    return Subset(
        path.parent,
        (path,),
        BATCHES_PER_EPOCH * recipe.train_batch_size,
        bucket_rules=bucket_rules(recipe),
        augmentation=augmentation_rules(recipe),
        batch_size=recipe.train_batch_size,
        listed_captions={path: recipe.original_prompt or ""},
    )


def concept_of_folder(folder: Path) -> str:
    """The concept in an `N_concept` folder's name.

    Args:
        folder: The folder.

    Returns:
        The concept; "" for a name of another form.

    Example:
        >>> concept_of_folder(Path("data/10_my dog")), concept_of_folder(Path("data/dogs"))
        ('my dog', '')
    """
    match = _REPEATS.fullmatch(folder.name)
    return replace_lone_surrogates(match[2]).strip() if match and int(match[1]) else ""


def _subsets_below(root: Path, recipe: Recipe, regularisation: bool, notify: Notify) -> list[Subset]:
    """A folder's `N_concept` folders, or the folder itself if there are none."""
    check_folder(root, "reg_data_dir" if regularisation else "train_data_dir")
    prompt = recipe.class_prompt if regularisation else recipe.instance_prompt
    # pictures drawn for `{a|b}` have captions of their own, and those that have none are meant to
    own_captions = regularisation and has_wildcards(prompt or "")
    found, left_out = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        match = _REPEATS.fullmatch(folder.name)
        if match and int(match[1]):
            concept = "" if own_captions else prompt or replace_lone_surrogates(match[2]).strip()
            found.append(load_subset(folder, recipe, int(match[1]), concept, regularisation))
            if not found[-1].files:
                notify(f"{folder} has no pictures{broken_links_ending(found[-1].broken_links)}")
        elif _has_images(folder):
            if match:
                notify(f"{folder.name} has 0 repeats, so none of its pictures is used; begin its name with 1 or more")
            else:
                left_out.append(folder.name)
    links = sorted(path for path in root.iterdir() if may_be_folder_link(path.name) and is_broken_link(path))
    if links:
        notify(broken_links_note(links))
    plain = [path for path in root.iterdir() if is_image_file(path)]
    if not found and (plain or find_caption_list(root)):
        repeats, concept = recipe.dataset_repeats, prompt or ""
        match = _REPEATS.fullmatch(root.name)
        if match and int(match[1]) and repeats == 1:  # such a folder itself was given, not the one that holds it
            repeats, concept = int(match[1]), prompt or concept_of_folder(root)
        found.append(load_subset(root, recipe, repeats, "" if own_captions else concept, regularisation))
    elif plain and found:
        notify(
            counted(
                len(plain),
                f"picture directly in {root} is not used, because it has folders such as {found[0].name}",
                f"pictures directly in {root} are not used, because it has folders such as {found[0].name}",
            )
        )
    listed = {path.parent for subset in found for path in subset.files}
    left_out = [name for name in left_out if root / name not in listed]
    if left_out:
        shown = ", ".join(repr(name) for name in left_out[:5])
        notify(f"not used, because their names do not begin with a number of repeats, such as '10_concept': {shown}")
    return found


def _has_images(folder: Path) -> bool:
    return any(is_image_file(path) for path in folder.iterdir())

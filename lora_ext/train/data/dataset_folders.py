"""Where the pictures are: `N_concept` folders, a plain folder, or a dataset file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ...console import whole
from ...errors import TrainError
from ..config.recipe import Recipe
from .caption_lists import list_of
from .dataset_toml import subsets_of_file
from .image_files import is_picture
from .subset import Subset, check_folder, subset_of

Say = Callable[[str], None]
_REPEATS = re.compile(r"(\d+)_(.*)", flags=re.DOTALL)
SHOWN = (".png", ".jpg", ".webp", ".bmp", ".tif")


def subsets(recipe: Recipe, say: Say = lambda text: None) -> list[Subset]:
    """All folders that a recipe names, training first. `say` is told what was left out and why.

    Raises TrainError: no folder is given or it does not exist, it has no pictures, a number cannot be.
    """
    if recipe.dataset_config:
        found = subsets_of_file(Path(recipe.dataset_config), recipe, say)
    elif recipe.train_data_dir:
        found = _under(Path(recipe.train_data_dir), recipe, False, say)
        if recipe.reg_data_dir:
            found += _under(Path(recipe.reg_data_dir), recipe, True, say)
    else:
        raise TrainError("no pictures to train on: give train_data_dir, a folder of pictures or of N_concept folders")
    if not any(subset.files for subset in found if not subset.regularisation):
        where = recipe.dataset_config or recipe.train_data_dir
        raise TrainError(
            f"{where} has no pictures to train on; put them in it, or in folders named such as '10_my concept' "
            f"(10 repeats); pictures end in {', '.join(SHOWN)}"
        )
    return [subset for subset in found if subset.files]


def concept_of(folder: Path) -> str:
    """What an `N_concept` folder's name says after its repeats, "" for another name."""
    match = _REPEATS.fullmatch(folder.name)
    return whole(match[2]).strip() if match and int(match[1]) else ""


def _under(root: Path, recipe: Recipe, regularisation: bool, say: Say) -> list[Subset]:
    """A folder's `N_concept` folders, or the folder itself where it has none."""
    check_folder(root, "reg_data_dir" if regularisation else "train_data_dir")
    found, left_out = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        match = _REPEATS.fullmatch(folder.name)
        if match and int(match[1]):
            found.append(subset_of(folder, recipe, int(match[1]), whole(match[2]).strip(), regularisation))
            if not found[-1].files:
                say(f"{folder} has no pictures")
        elif _holds_pictures(folder):
            left_out.append(folder.name)
    plain = [path for path in root.iterdir() if is_picture(path)]
    if not found and (plain or list_of(root)):
        found.append(subset_of(root, recipe, recipe.dataset_repeats, "", regularisation))
    elif plain and found:
        say(f"{len(plain)} pictures directly in {root} are not used, because it has folders such as {found[0].name}")
    listed = {path.parent for subset in found for path in subset.files}
    left_out = [name for name in left_out if root / name not in listed]
    if left_out:
        shown = ", ".join(repr(name) for name in left_out[:5])
        say(f"not used, because their names do not begin with a number of repeats, such as '10_concept': {shown}")
    return found


def _holds_pictures(folder: Path) -> bool:
    return any(is_picture(path) for path in folder.iterdir())

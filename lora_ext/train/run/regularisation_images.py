"""Regularisation pictures that are missing, drawn by the model itself before it learns anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ...errors import TrainError
from ...file.saving import check_not_linked, replacing_file
from ...progress import Track, no_progress
from ...protocols import SampleSpec
from ..config.recipe import Recipe
from ..data.dataset_folders import concept_of_folder, find_subsets
from ..data.image_files import is_image_file
from ..data.sample_order import keyed_random_number
from ..data.subset import check_folder

MAX_IMAGES_PER_CLASS = 200
"""Pictures a class beyond which more of them teach nothing new (as many as DreamBooth's authors draw)."""
REGULARISATION_STEPS = 30


@dataclass(frozen=True)
class MissingImage:
    """A picture to draw: where, what, and from which seed."""

    path: Path
    prompt: str
    seed: int


def missing_regularisation_images(recipe: Recipe, seed: int) -> list[MissingImage]:
    """What `reg_generate` has to draw: each N_class folder of `reg_data_dir` filled up to its share of the training
    pictures' turns in an epoch, at most `MAX_IMAGES_PER_CLASS`.

    Raises TrainError: no such folder, none that names a class.
    """
    if not recipe.reg_generate:
        return []
    if recipe.reg_data_dir is None:
        raise TrainError("reg_generate draws into reg_data_dir; give that folder, with one inside such as '1_dog'")
    root = Path(recipe.reg_data_dir)
    check_folder(root, "reg_data_dir")
    classes = {path: concept_of_folder(path) for path in sorted(root.iterdir()) if path.is_dir()}
    named = {path: concept for path, concept in classes.items() if concept}
    if not named:
        raise TrainError(f"reg_generate draws what the folders in {root} name: make one such as '1_dog' (1 repeat)")
    train = find_subsets(replace(recipe, reg_data_dir=None))
    turns = sum(len(subset.files) * subset.repeats for subset in train if not subset.regularisation)
    wanted = min(MAX_IMAGES_PER_CLASS, -(-turns // len(named)))
    found = []
    for folder, concept in named.items():
        check_not_linked(folder, root)
        have = {path.name for path in folder.iterdir() if is_image_file(path)}
        names = (f"drawn-{number:04}.png" for number in range(1, wanted + len(have) + 1))
        free = [name for name in names if name not in have]
        for name in free[: max(0, wanted - len(have))]:
            found.append(
                MissingImage(folder / name, concept, keyed_random_number(seed, "regularisation", concept, name) % 2**32)
            )
    return found


def generate_missing_images(
    wanted: list[MissingImage],
    generate_sample: Callable[[SampleSpec], Image.Image],
    size: tuple[int, int],
    *,
    track: Track = no_progress,
    cancelled: Callable[[], bool] = lambda: False,
) -> int:
    """Draws them (size: width, height) and writes each whole or not at all; how many were drawn."""
    done = 0
    for item in track(wanted, "drawing regularisation pictures"):
        if cancelled():
            break
        image = generate_sample(
            SampleSpec(item.prompt, width=size[0], height=size[1], seed=item.seed, steps=REGULARISATION_STEPS)
        )
        with replacing_file(item.path, overwrite=True) as part, part.open("wb") as out:
            image.save(out, "PNG")
        done += 1
    return done

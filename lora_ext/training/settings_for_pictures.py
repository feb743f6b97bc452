"""Suggested settings for a folder of pictures, as `teach` and the page's Start here use them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import TrainError
from ..protocols import TrainableModel
from ..train.config.recipe import Recipe
from ..train.config.recipe_io import recipe_from_settings
from ..train.config.suggested_recipe import suggest_settings
from ..train.config.suggested_regularisation import RegularisationOffer, offer_regularisation
from ..train.config.suggested_setting import SuggestedSetting, TrainingSituation, values_of
from ..train.data.buckets import fit_to_bucket
from ..train.data.caption_lists import find_caption_list
from ..train.data.dataset_folders import COMMON_IMAGE_SUFFIXES, concept_of_folder, find_subsets
from ..train.data.dataset_scan import DatasetScan, scan_dataset
from ..train.data.image_files import is_image_file
from ..train.data.missing_pictures import missing_pictures_ending
from ..train.data.subset import bucket_rules, check_folder
from ..train.run.memory_plan import available_bytes

SAMPLE_PROMPT_COUNT = 2
"""Sample prompts of a run: one picture of each epoch says little of which learned more, and each costs its time."""


@dataclass(frozen=True)
class SuggestionForPictures:
    """Suggested settings of a run.

    Attributes:
        settings: Option → value and reason; other options keep their defaults.
        regularisation: Whether regularisation suits it, and its settings.
    """

    settings: dict[str, SuggestedSetting]
    regularisation: RegularisationOffer


def scan_picture_folder(folder: Path) -> DatasetScan:
    """Reads every picture of one folder.

    Args:
        folder: A folder with the pictures themselves.

    Returns:
        The pictures that can be read, and a sentence for each other one.

    Raises:
        TrainError: There are no pictures, none can be read, or the folder has `N_concept` folders.
    """
    check_folder(folder, "the folder of pictures")  # later it is called by the option that the caller fills with it
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and any(map(is_image_file, path.iterdir())))
    plain = find_caption_list(folder) or any(map(is_image_file, folder.iterdir()))
    if not inside and not plain:
        raise TrainError(
            f"{folder} has no pictures; put them in it; pictures end in {', '.join(COMMON_IMAGE_SUFFIXES)}"
            f"{missing_pictures_ending(folder)}"
        )
    numbered = [path for path in inside if concept_of_folder(path)]
    if numbered or not plain:
        name = (numbered or inside)[0].name
        raise TrainError(f"{folder} has folders such as {name}; give one folder of pictures, or use train")
    return scan_dataset(find_subsets(Recipe(train_data_dir=str(folder))))


def duplicate_pictures(scan: DatasetScan) -> list[tuple[Path, Path]]:
    """Pictures that are there twice: (the later one, the first one)."""
    seen: dict[str, Path] = {}
    pairs = ((image.path, seen.setdefault(image.digest, image.path)) for image in scan.images)
    return [(path, first) for path, first in pairs if path != first]


REGULARISATION_FOLDER = "regularisation-"
"""How the names of folders begin whose pictures are drawn for regularisation."""


def regularisation_folder_name(kind: str, model: TrainableModel) -> str:
    """The folder of regularisation pictures that all runs of a kind with one model share."""
    name = str(model.metadata().get("ss_sd_model_name", "")).replace("\\", "/").rpartition("/")[2]
    stem = re.sub(r"\.(safetensors|ckpt|pt)$", "", name)  # a folder of diffusers may be called v1.5
    stem = re.sub(r"[^\w-]+", "-", stem, flags=re.ASCII).strip("-")[:80]
    return f"{REGULARISATION_FOLDER}{kind}-{stem or model.family}"


def suggest_for_pictures(
    kind: str, scan: DatasetScan, model: TrainableModel, trigger: str, folder: Path, folder_option: str
) -> SuggestionForPictures:
    """Suggests settings for the pictures and the model.

    Args:
        kind: One of `KINDS_OF_CONCEPT`.
        scan: The pictures.
        model: The model that is trained.
        trigger: The word that calls what is learned.
        folder: Where its regularisation pictures are, or will be (`regularisation_folder_name`).
        folder_option: The same, as `reg_data_dir` names it.

    Returns:
        The suggestion.

    Raises:
        ValueError: The kind is unknown.
    """
    situation = _situation(kind, scan, model)
    found = sum(map(is_image_file, folder.iterdir())) if folder.is_dir() else 0
    settings = suggest_settings(situation)
    return SuggestionForPictures(
        settings | _buckets_with_cut(settings, scan) | _captions(scan, trigger),
        offer_regularisation(situation, folder_option, found),
    )


def sample_prompt_lines(scan: DatasetScan, trigger: str) -> str:
    """The sample prompts of a run, with fixed seeds, so that epochs can be compared.

    They are the first captions that have the trigger word, for a word alone shows less of what was learned; without one
    it is the trigger word.

    Args:
        scan: The pictures.
        trigger: The trigger word.
    """
    captions = dict.fromkeys(" ".join(image.caption.split()) for image in scan.images)
    fitting = [text for text in captions if trigger.lower() in text.lower() and "--" not in text]
    lines = fitting[:SAMPLE_PROMPT_COUNT] or [trigger]
    return "\n".join(f"{text} --d {seed}" for seed, text in enumerate(lines, 1))


def _situation(kind: str, scan: DatasetScan, model: TrainableModel) -> TrainingSituation:
    ratios = {round(width / height, 2) for width, height in (image.size for image in scan.images)}
    return TrainingSituation(
        kind=kind,
        picture_count=len(scan.images),
        aspect_ratio_count=len(ratios),
        all_square=ratios <= {1.0},
        family=model.family,
        native_size=model.native_size,
        gpu_bytes=available_bytes(model) if model.device.type == "cuda" else 0.0,
        on_gpu=model.device.type == "cuda",
    )


def _buckets_with_cut(settings: Mapping[str, SuggestedSetting], scan: DatasetScan) -> dict[str, SuggestedSetting]:
    """Buckets, where they are suggested, with how much of a picture they cut off, as measured."""
    if "enable_bucket" not in settings:
        return {}
    rules = bucket_rules(recipe_from_settings(values_of(settings)))
    sizes = {image.size for image in scan.images}
    cut, square = (
        math.ceil(round(100 * max(fit_to_bucket(size, used).cut_share for size in sizes), 6))
        for used in (rules, replace(rules, enable_bucket=False))
    )
    reason = "not all pictures are square: in their buckets up to {0} % of one is cut off, in a square up to {1} %"
    numbers: tuple[int, ...] = (cut, square)
    if not cut:
        reason = "not all pictures are square: in their buckets nothing is cut off, in a square up to {0} % of one"
        numbers = (square,)
    return {"enable_bucket": SuggestedSetting(True, reason, numbers)}


def _captions(scan: DatasetScan, trigger: str) -> dict[str, SuggestedSetting]:
    """Puts the trigger word before captions that lack it."""
    captions = [image.caption for image in scan.images]
    lacking = sum(trigger.lower() not in caption.lower() for caption in captions)
    if not lacking:
        return {}
    prefix = f"{trigger}," if any(captions) else trigger
    reason = "{0} pictures have no caption with the trigger word"
    return {"caption_prefix": SuggestedSetting(prefix, reason, (lacking,))}

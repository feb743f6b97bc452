"""Suggested settings for a folder of pictures, as `teach` and the page's Start here use them."""

from __future__ import annotations

from pathlib import Path

from ..errors import TrainError
from ..protocols import TrainableModel
from ..train.config.recipe import Recipe
from ..train.config.suggested_recipe import SuggestedSetting, TrainingSituation, suggest_settings
from ..train.data.dataset_folders import find_subsets
from ..train.data.dataset_scan import DatasetScan, scan_dataset
from ..train.run.memory_plan import available_bytes


def scan_picture_folder(folder: Path) -> DatasetScan:
    """Reads every picture of one folder.

    Args:
        folder: A folder with the pictures themselves.

    Returns:
        The pictures that can be read, and a sentence for each other one.

    Raises:
        TrainError: There are no pictures, none can be read, or the folder has `N_concept` folders.
    """
    scan = scan_dataset(find_subsets(Recipe(train_data_dir=str(folder))))
    if scan.subsets[0].folder != folder:
        raise TrainError(
            f"{folder} has folders such as {scan.subsets[0].name}; give one folder of pictures, or use train"
        )
    return scan


def duplicate_pictures(scan: DatasetScan) -> list[tuple[Path, Path]]:
    """Pictures that are there twice: (the later one, the first one)."""
    seen: dict[str, Path] = {}
    pairs = ((image.path, seen.setdefault(image.digest, image.path)) for image in scan.images)
    return [(path, first) for path, first in pairs if path != first]


def suggest_for_pictures(
    kind: str, scan: DatasetScan, model: TrainableModel, trigger: str
) -> dict[str, SuggestedSetting]:
    """Suggests settings for the pictures and the model.

    Args:
        kind: One of `KINDS_OF_CONCEPT`.
        scan: The pictures.
        model: The model that is trained.
        trigger: The word that calls what is learned.

    Returns:
        Option → value and reason; other options keep their defaults.

    Raises:
        ValueError: The kind is unknown.
    """
    return suggest_settings(_situation(kind, scan, model)) | _captions(scan, trigger)


def sample_prompt_line(trigger: str) -> str:
    """The sample prompt of a run: the trigger word with a fixed seed, so that epochs can be compared."""
    return f"{trigger} --d 1"


def _situation(kind: str, scan: DatasetScan, model: TrainableModel) -> TrainingSituation:
    ratios = {round(width / height, 2) for width, height in (image.size for image in scan.images)}
    return TrainingSituation(
        kind=kind,
        picture_count=len(scan.images),
        aspect_ratio_count=len(ratios),
        family=model.family,
        native_size=model.native_size,
        gpu_bytes=available_bytes(model) if model.device.type == "cuda" else 0.0,
        on_gpu=model.device.type == "cuda",
    )


def _captions(scan: DatasetScan, trigger: str) -> dict[str, SuggestedSetting]:
    """Puts the trigger word before captions that lack it."""
    captions = [image.caption for image in scan.images]
    lacking = sum(trigger.lower() not in caption.lower() for caption in captions)
    if not lacking:
        return {}
    prefix = f"{trigger}," if any(captions) else trigger
    reason = "{0} pictures have no caption with the trigger word"
    return {"caption_prefix": SuggestedSetting(prefix, reason, (lacking,))}

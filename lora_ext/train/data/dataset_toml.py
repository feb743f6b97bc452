"""kohya's dataset file: `[general]`, `[[datasets]]` and `[[datasets.subsets]]`; inner tables override outer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import TrainError, did_you_mean
from ...file.broken_links import broken_links_ending
from ..config.kohya_options import UNSUPPORTED_OPTIONS, is_neutral
from ..config.recipe import Recipe, recipe_options
from ..config.recipe_io import parse_recipe_option
from ..config.toml_file import load_toml
from .subset import Subset, check_folder, load_subset

SUBSET_OPTION_GROUPS = ("pictures", "captions")
DATASET_OPTION_ALIASES = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
"""An option's name in these files → its name in `Recipe`."""
MORE_SUBSET_OPTIONS = ("conditioning_data_dir", "dataset_repeats", "train_batch_size", "prior_loss_weight")
SUBSET_ONLY_OPTIONS = (
    "image_dir",
    "class_tokens",
    "is_reg",
    "metadata_file",
    "cache_info",
    "id",
    "debug_dataset",
    "max_token_length",
)
"""Options of a subset that `Recipe` does not have; the last four do nothing here."""


def load_dataset_toml(path: Path, recipe: Recipe, notify: Callable[[str], None]) -> list[Subset]:
    """Loads the subsets of a dataset file; paths in it are relative to the file.

    Args:
        path: The TOML file.
        recipe: Gives the values that the file does not set.
        notify: Called with a sentence for each folder without images.

    Returns:
        The subsets in order.

    Raises:
        TrainError: The file is not TOML, an option is unknown or has the wrong type, or a folder is missing.
    """
    content = load_toml(path)
    _check_names(content, ("general", "datasets"), f"{path}")
    general = _table(content.get("general", {}), f"{path}, [general]")
    found = []
    for number, dataset, where, options in _merged_subset_tables(content, path):
        own = {name: options.pop(name) for name in SUBSET_ONLY_OPTIONS if name in options}
        local = _with_options(_with_options(recipe, general, f"{path}, [general]"), options, where)
        found.append(replace(_subset(path, where, own, local), dataset=dataset))
        if not found[-1].files:
            links = broken_links_ending(found[-1].broken_links)
            notify(f"{found[-1].folder} (subset {number} of {path.name}) has no pictures{links}")
    trained = {subset.dataset for subset in found if not subset.regularisation}
    for number in sorted({subset.dataset for subset in found if subset.files} - trained):
        notify(
            f"{path.name}, dataset {number}: its regularisation pictures are not used, because it has no others, whose "
            "number theirs would be"
        )
    if not found:
        raise TrainError(f"{path} names no pictures: it needs [[datasets]] with [[datasets.subsets]] and an image_dir")
    return found


def _merged_subset_tables(content: Mapping[str, Any], path: Path) -> Iterator[tuple[int, int, str, dict[str, Any]]]:
    """(number, number of its data set, where, options of its dataset and itself) of each subset."""
    number = 0
    for index, dataset in enumerate(_tables(content.get("datasets", []), f"{path}, [[datasets]]"), 1):
        shared = {name: value for name, value in dataset.items() if name != "subsets"}
        for subset in _tables(dataset.get("subsets", []), f"{path}, [[datasets.subsets]]"):
            number += 1
            yield number, index, f"{path}, dataset {index}, subset {number}", {**shared, **subset}


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TrainError(f"{where} is not a table of options")
    if not is_neutral(value.get("debug_dataset")):
        raise TrainError(f"{where}: debug_dataset is not supported here: {UNSUPPORTED_OPTIONS['debug_dataset']}")
    return {name: entry for name, entry in value.items() if name != "debug_dataset"}


def _tables(value: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise TrainError(f"{where} needs two brackets on each side, because it may occur more than once")
    return [_table(entry, where) for entry in value]


def _check_names(given: Mapping[str, Any], valid: tuple[str, ...], where: str) -> None:
    unknown = [name for name in given if name not in valid]
    if unknown:
        hints = "".join(did_you_mean(name, valid) for name in unknown)
        raise TrainError(f"{where}: unknown option {', '.join(map(repr, unknown))}{hints}")


def _with_options(recipe: Recipe, options: Mapping[str, Any], where: str) -> Recipe:
    """The recipe with a table's options. Raises TrainError."""
    valid = [
        name
        for name, (_, option) in recipe_options().items()
        if option.group in SUBSET_OPTION_GROUPS or name in MORE_SUBSET_OPTIONS
    ]
    options = {name: value for name, value in options.items() if name not in ("cache_info", "max_token_length")}
    _check_names(options, (*valid, *DATASET_OPTION_ALIASES), where)
    changed: dict[str, Any] = {}
    for given, value in options.items():
        name = DATASET_OPTION_ALIASES.get(given, given)
        changed[name] = _value(name, given, value, where)
    return replace(recipe, **changed)


def _value(name: str, given: str, value: object, where: str) -> object:
    """A TOML value in its option's type. Raises TrainError."""
    try:
        return parse_recipe_option(name, value)
    except TrainError as error:
        raise TrainError(f"{where}: {str(error).replace(name, given)}") from None


def _subset(path: Path, where: str, own: Mapping[str, Any], recipe: Recipe) -> Subset:
    metadata = own.get("metadata_file")
    listing = path.parent / _text(metadata, f"{where}: metadata_file") if metadata is not None else None
    if "image_dir" in own:
        folder = path.parent / _text(own["image_dir"], f"{where}: image_dir")
    elif listing is not None:
        folder = listing.parent
    else:
        raise TrainError(f"{where} has no image_dir")
    check_folder(folder, f"{where}: image_dir")
    concept = _text(own.get("class_tokens", ""), f"{where}: class_tokens")
    local = recipe
    if recipe.conditioning_data_dir:
        local = replace(recipe, conditioning_data_dir=str(path.parent / recipe.conditioning_data_dir))
    regularisation = own.get("is_reg", False)
    if not isinstance(regularisation, bool):
        raise TrainError(f"{where}: is_reg is {regularisation!r}; give true or false")
    return load_subset(folder, local, recipe.dataset_repeats, concept, regularisation, listing)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise TrainError(f"{where} is {value!r}; give a text in quotes")
    return value

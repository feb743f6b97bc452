"""The user's own presets of training settings, by name, in a file of the data folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainError, did_you_mean
from ..train.config.recipe import recipe_options
from .json_store import JsonStore, taken_since

TRAINING_PRESETS_FILE = "training_presets.json"
SETTINGS_OF_A_RUN = frozenset({"output_name", "train_data_dir", "reg_data_dir", "resume", "metadata_trigger_phrase"})
"""Options that belong to one run, and to no preset."""
_LONGEST_NAME, _LONGEST_TEXT, _MOST_PRESETS = 64, 50_000, 200


@dataclass(frozen=True)
class TrainingPreset:
    """A preset of training settings.

    Attributes:
        settings: Values of the form by name.
    """

    name: str
    settings: dict[str, Any]


class TrainingPresetStore:
    """The presets; each call reads the file anew, so that several programs may share it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRAINING_PRESETS_FILE
        self._store = JsonStore(self.path, TrainError)

    def presets(self) -> list[TrainingPreset]:
        """All presets by name. Raises TrainError where the file is damaged."""
        return [TrainingPreset(name, settings) for name, settings in sorted(self._load().items())]

    def save(self, name: str, settings: Mapping[str, Any], *, may_replace: bool = True) -> None:
        """Adds a preset, or replaces it if `may_replace`; settings of one run are left out. Raises TrainError."""
        name = _checked_name(name)
        kept = {key: value for key, value in settings.items() if key not in SETTINGS_OF_A_RUN}
        options = recipe_options()
        unknown = next((key for key in kept if key not in options), None)
        if unknown is not None:
            raise TrainError(f"there is no setting {unknown[:60]!r}{did_you_mean(unknown, options)}")
        if len(json.dumps(kept)) > _LONGEST_TEXT:
            raise TrainError(f"the settings are too long; give at most {_LONGEST_TEXT} characters")
        with self._changing() as presets:
            if name in presets and not may_replace:
                raise TrainError(taken_since(name))
            if name not in presets and len(presets) >= _MOST_PRESETS:
                raise TrainError(f"there are {_MOST_PRESETS} presets already; delete one first")
            presets[name] = kept

    def remove(self, name: str) -> None:
        """Deletes a preset. Raises TrainError with the nearest name."""
        with self._changing() as presets:
            if name not in presets:
                raise TrainError(f"there is no preset {name[:_LONGEST_NAME]!r}{did_you_mean(name, presets)}")
            del presets[name]

    def _load(self) -> dict[str, dict[str, Any]]:
        return _presets_in(self._store.load())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, Any]]]:
        """The presets, to be changed; they are written afterwards."""
        with self._store.changing() as found:
            presets = _presets_in(found)
            yield presets
            found.clear()
            found.update(presets)


def _presets_in(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: settings for name, settings in found.items() if isinstance(settings, dict)}


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise TrainError(f"{name[:_LONGEST_NAME]!a} cannot be a preset's name: give 1 to {_LONGEST_NAME} characters")
    return name

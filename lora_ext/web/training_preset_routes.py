"""Routes of the user's own presets of training settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Query
from pydantic import Field

from .app_state import AppState
from .routing import RequestBody
from .training_presets import TrainingPreset, TrainingPresetStore


class TrainingPresetRequest(RequestBody):
    """A preset of training settings.

    Attributes:
        name: Its name.
        settings: Values of the form by name.
        may_replace: Whether a preset of that name may be replaced.
    """

    name: str = Field(max_length=100)
    settings: dict[str, Any]
    may_replace: bool = True


@dataclass(frozen=True)
class TrainingPresetList:
    """The user's own presets of training settings, by name."""

    presets: list[TrainingPreset]


def register_training_preset_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    store = TrainingPresetStore(app_state.folders.data)

    @api.get("/train/presets")
    def presets() -> TrainingPresetList:
        """The user's own presets of training settings."""
        return TrainingPresetList(store.presets())

    @api.put("/train/presets")
    def save(options: TrainingPresetRequest) -> TrainingPresetList:
        """Saves settings under a name; name, pictures and trigger word of a run are left out."""
        store.save(options.name, options.settings, may_replace=options.may_replace)
        return presets()

    @api.delete("/train/presets")
    def remove(name: str = Query(..., max_length=100)) -> TrainingPresetList:
        """Deletes a preset."""
        store.remove(name)
        return presets()

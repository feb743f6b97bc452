"""Loads the model that the user has chosen, where the web UI does so for the next image only."""

from __future__ import annotations

from modules import sd_models


def load_chosen_model() -> None:
    """Loads the chosen checkpoint in Forge, which otherwise loads it when the next image begins.

    Call it only while holding the queue lock. In other web UIs it does nothing.
    """
    reload = getattr(sd_models, "forge_model_reload", None)
    if reload is not None:
        reload()


def forge_loading_choices() -> list[str]:
    """Returns what Forge loads with a checkpoint and changes images: VAE and text-encoder files, the storage type."""
    chosen = getattr(sd_models.model_data, "forge_loading_parameters", None) or {}
    return [f"{name}={chosen[name]}" for name in ("additional_modules", "unet_storage_dtype") if chosen.get(name)]

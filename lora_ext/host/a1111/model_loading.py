"""Loads the model that the user has chosen, which is not always the one in use."""

from __future__ import annotations

from modules import sd_models, shared


def load_chosen_model() -> None:
    """Loads the chosen checkpoint, as the web UI does before each image. Call it only while holding the queue lock.

    Another one may be in use: Forge loads the chosen one when the next image begins; elsewhere the checkpoint of a
    refiner or of a hires pass stays in use after its image, and the first is still loading when the page opens.
    """
    forge_reload = getattr(sd_models, "forge_model_reload", None)
    if forge_reload is not None:
        forge_reload()
    elif shared.sd_model is not None:  # this waits for a model that is being loaded; None: it could not be loaded
        sd_models.reload_model_weights()


def forge_loading_choices() -> list[str]:
    """Returns what Forge loads with a checkpoint and changes images: VAE and text-encoder files, the storage type."""
    chosen = getattr(sd_models.model_data, "forge_loading_parameters", None) or {}
    return [f"{name}={chosen[name]}" for name in ("additional_modules", "unet_storage_dtype") if chosen.get(name)]

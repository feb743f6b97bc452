"""`modelspec.*`: what a trained file says of itself by Stability AI's model specification 1.0.1."""

from __future__ import annotations

import base64
import io
import re
from datetime import datetime, timezone
from pathlib import Path

from ...errors import TrainError
from ...file.base_model import MODELSPEC_ARCHITECTURES
from ..config.recipe import Recipe
from ..data.image_files import UnreadableImage, load_training_image

THUMBNAIL_PIXELS = 512
"""Largest side of a thumbnail: every program that lists files reads their metadata."""
_DATA_URL = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_LONGEST_DATA_URL = 2**20


def modelspec_metadata(recipe: Recipe, family: str, prediction: str, name: str) -> dict[str, str]:
    """`modelspec.*` of Stability AI's model specification 1.0.1: its mandatory fields, and others that are known.

    Args:
        recipe: The settings.
        family: "SD1", "SD2" or "SDXL".
        prediction: "epsilon" or "v".
        name: The file's name.

    Returns:
        Metadata key → text.

    Raises:
        TrainError: `metadata_thumbnail` is not a picture.
    """
    architecture = MODELSPEC_ARCHITECTURES[family]
    if family == "SD2" and prediction == "v":
        architecture = "stable-diffusion-v2-768-v"
    width, height = recipe.size()
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/lora",
        "implementation": "https://github.com/Stability-AI/generative-models" if family == "SDXL" else "diffusers",
        "title": recipe.metadata_title or f"LoRA {name}",
        "date": datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat(),
        "resolution": f"{width}x{height}",
        "prediction_type": prediction,
        "timestep_range": None
        if recipe.min_timestep is None and recipe.max_timestep is None
        else f"{recipe.min_timestep or 0},{recipe.max_timestep or 1000}",
        "encoder_layer": str(recipe.clip_skip or 1) if family == "SD1" else None,
        "author": recipe.metadata_author,
        "description": recipe.metadata_description,
        "license": recipe.metadata_license,
        "tags": recipe.metadata_tags,
        "trigger_phrase": recipe.metadata_trigger_phrase or recipe.token_string,
        "usage_hint": recipe.metadata_usage_hint,
        "thumbnail": thumbnail_data_url(recipe.metadata_thumbnail),
        "merged_from": recipe.metadata_merged_from,
        "preprocessor": recipe.metadata_preprocessor,
        "is_negative_embedding": recipe.metadata_is_negative_embedding,
    }
    return {f"modelspec.{key}": value for key, value in fields.items() if value is not None}


def thumbnail_data_url(picture: str | None) -> str | None:
    """A picture as the data URL that `modelspec.thumbnail` holds.

    Args:
        picture: A picture file, or a data URL of PNG, JPEG, WebP or GIF, which is kept as it is; None for no picture.

    Returns:
        A JPEG of at most `THUMBNAIL_PIXELS` as a data URL; None without a picture.

    Raises:
        TrainError: It is neither.
    """
    if not picture:
        return None
    if picture.startswith("data:"):
        if len(picture) > _LONGEST_DATA_URL or not _DATA_URL.fullmatch(picture):
            raise TrainError(
                "metadata_thumbnail: give a picture file, or a data URL with base64 of a PNG, JPEG, WebP or GIF "
                "picture of at most 1 MiB"
            )
        return picture
    try:
        image = load_training_image(Path(picture)).rgb
    except UnreadableImage as error:
        raise TrainError(f"metadata_thumbnail: {error}") from error
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")

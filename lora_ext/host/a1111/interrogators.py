"""The web UI's own interrogators as image captioners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modules import deepbooru, shared
from PIL import Image

from ...errors import FileError

INTERROGATOR_ERROR = "<error>"
"""End of the CLIP interrogator's answer after an error."""


def interrogators() -> dict[str, Callable[[Sequence[Image.Image]], list[str]]]:
    """Returns name → function from images to captions. The web UI loads (and downloads) models when they are needed."""
    return {"clip": _clip, "blip": _blip, "deepbooru": _deepbooru}


def _clip(images: Sequence[Image.Image]) -> list[str]:
    """BLIP's sentence and CLIP's words, as in img2img."""
    return [_checked_caption(shared.interrogator.interrogate(image)) for image in images]


def _blip(images: Sequence[Image.Image]) -> list[str]:
    """BLIP's sentence alone."""
    models = shared.interrogator
    models.load()
    try:
        return [models.generate_caption(image) for image in images]
    finally:
        models.unload()


def _deepbooru(images: Sequence[Image.Image]) -> list[str]:
    """Tags separated by commas."""
    deepbooru.model.start()
    try:
        return [deepbooru.model.tag_multi(image) for image in images]
    finally:
        deepbooru.model.stop()


def _checked_caption(caption: str) -> str:
    if caption.endswith(INTERROGATOR_ERROR):
        raise FileError("the web UI's interrogator failed; its console says why")
    return caption

"""The web UI's own interrogators as image captioners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from modules import shared
from PIL import Image

from ...errors import FileError

INTERROGATOR_ERROR = "<error>"
"""End of the CLIP interrogator's answer after an error."""


def interrogators() -> dict[str, Callable[[Sequence[Image.Image]], list[str]]]:
    """Returns name → function from images to captions. The web UI loads (and downloads) models when they are needed.

    Interrogators that a web UI does not have are left out (Classic has none).
    """
    found: dict[str, Callable[[Sequence[Image.Image]], list[str]]] = {}
    if getattr(shared, "interrogator", None) is not None:
        found |= {"clip": _clip, "blip": _blip}
    if find_spec("modules.deepbooru") is not None:
        found["deepbooru"] = _deepbooru
    return found


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
    from modules import deepbooru  # missing in forks without this module, which import this file too

    deepbooru.model.start()
    try:
        return [deepbooru.model.tag_multi(image) for image in images]
    finally:
        deepbooru.model.stop()


def _checked_caption(caption: str) -> str:
    if caption.endswith(INTERROGATOR_ERROR):
        raise FileError("the web UI's interrogator failed; its console says why")
    return caption

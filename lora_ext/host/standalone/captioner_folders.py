"""Captioners in the user's folders: taggers in ONNX and BLIP models, loaded at their first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from ...file.displayed_names import displayed_name
from ...json_text import parse_json
from ...train.data.captioning import ImageCaptioner
from ..onnx_tagger import TAGGER_MODEL, TAGGER_TABLE, OnnxTagger

CAPTIONERS_FOLDER = "captioners"
"""Below the data folder: one folder for each captioner."""
_MOST_CONFIG_BYTES = 1_000_000


class LazyCaptioner:
    """A captioner that is loaded when the first images come, and then kept.

    Args:
        load: makes it.
    """

    def __init__(self, load: Callable[[], ImageCaptioner]) -> None:
        self._load = load
        self._loaded: ImageCaptioner | None = None

    def __call__(self, images: Sequence[Image.Image]) -> Sequence[str]:
        """Returns a caption for each RGB image. Raises FileError where the captioner cannot be loaded."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded(images)


def open_captioner(folder: Path, device: str | None = None) -> ImageCaptioner:
    """The captioner of a folder, a tagger or a BLIP model.

    Raises:
        FileError: it is neither, or cannot be read.
    """
    if is_tagger_folder(folder):
        return OnnxTagger(folder, device=device)
    from .blip import BlipCaptioner  # the web UI finds taggers without diffusers, which this imports

    return BlipCaptioner(folder, device)


def is_tagger_folder(folder: Path) -> bool:
    """Whether a folder has a tagger in ONNX, or a part of one."""
    return (folder / TAGGER_TABLE).is_file() or (folder / TAGGER_MODEL).is_file()


def find_captioners(roots: Iterable[Path]) -> dict[str, ImageCaptioner]:
    """Finds the captioners that lie directly in some folders.

    Args:
        roots: folders that need not exist.

    Returns:
        Name of the folder → captioner, which is not loaded yet.
    """
    found: dict[str, ImageCaptioner] = {}
    for root in roots:
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if is_tagger_folder(folder) or _is_blip_folder(folder):
                found.setdefault(displayed_name(folder.name), LazyCaptioner(partial(open_captioner, folder)))
    return found


def _is_blip_folder(folder: Path) -> bool:
    config = folder / "config.json"
    try:
        if config.stat().st_size > _MOST_CONFIG_BYTES:
            return False
        settings = parse_json(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") == "blip"

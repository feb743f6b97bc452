"""Captions by BLIP (Li et al. 2022, arXiv:2201.12086) from a local folder; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...errors import FileError
from .folder_safety import check_local_folder, weights_variant
from .loader import best_device

BLIP_REPOSITORIES = ("Salesforce/blip-image-captioning-large", "Salesforce/blip-image-captioning-base")
"""Repositories that users may have in their cache."""


class BlipCaptioner:
    """Captions images with BLIP.

    Args:
        folder: a BLIP captioning model as transformers saves it; None for one in the hub's cache.
        num_beams: beams of the search.

    Raises:
        FileError: there is none; the message says where it was searched for.
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: str | None = None,
        *,
        num_beams: int = 1,
        min_length: int = 5,
        max_length: int = 75,
    ) -> None:
        where = folder or _cached()
        if not where.is_dir():
            raise FileError(f"{where} does not exist")
        if not (where / "config.json").is_file():
            raise FileError(f"{where} is not a folder of a BLIP model: it has no config.json")
        check_local_folder(where)
        from transformers import BlipForConditionalGeneration, BlipProcessor  # which takes seconds

        try:
            self._processor: Any = BlipProcessor.from_pretrained(where, local_files_only=True)
            model: Any = BlipForConditionalGeneration.from_pretrained(
                where, local_files_only=True, variant=weights_variant(where)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise FileError(f"{where} cannot be read as a BLIP model: {reason}") from error
        self._device = torch.device(device or best_device())
        self._model = model.eval().to(self._device)
        self._generation_options = {
            "num_beams": num_beams,
            "min_length": min_length,
            "max_length": max_length,
            "do_sample": False,
        }

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Returns a caption for each RGB image."""
        given = self._processor(images=list(images), return_tensors="pt").to(self._device)
        tokens = self._model.generate(**given, **self._generation_options)
        return [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def _cached() -> Path:
    """A folder in the hub's cache. Raises FileError."""
    from huggingface_hub import try_to_load_from_cache

    for repository in BLIP_REPOSITORIES:
        found = try_to_load_from_cache(repository, "config.json")
        if isinstance(found, str):
            return Path(found).parent
    raise FileError(
        f"no BLIP model: the hub's cache has none of {', '.join(BLIP_REPOSITORIES)}, "
        "and nothing is downloaded by itself; "
        "give a folder that holds one with --model DIR"
    )

"""A CLIP image model from a local folder, for similarity by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...errors import FileError
from .folder_safety import check_local_folder, weights_variant
from .loader import best_device

CLIP_IMAGE_REPOSITORIES = (
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-large-patch14-336",
)
"""Repositories that users may have in their cache, the usual one first."""
_NEEDED = ("config.json", "preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def find_clip_image_model(folder: Path | None = None) -> Path | None:
    """Finds a CLIP image model on this machine: `folder`, else one in the hub's cache, else None.

    A cache with nothing but CLIP's tokenizer, which many have, does not count.
    """
    if folder is not None and (folder / "config.json").is_file():
        return folder
    from huggingface_hub import try_to_load_from_cache

    for repository in CLIP_IMAGE_REPOSITORIES:
        found = {name: try_to_load_from_cache(repository, name) for name in (*_NEEDED, *_WEIGHTS)}
        there = {name for name, path in found.items() if isinstance(path, str)}
        if there.issuperset(_NEEDED) and there.intersection(_WEIGHTS):
            return Path(str(found["config.json"])).parent
    return None


class ClipImageModel:
    """Embeds images as unit vectors (n, d), float32 (Radford et al. 2021, arXiv:2103.00020). Downloads nothing.

    Args:
        folder: a CLIP model as transformers saves it (config.json, weights, preprocessor_config.json).
        device: torch's name of a device.

    Raises:
        FileError: the folder cannot be read.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        if not (folder / "config.json").is_file():
            raise FileError(f"{folder} is not a folder of a CLIP model: it has no config.json")
        check_local_folder(folder)
        try:
            self._model = CLIPVisionModelWithProjection.from_pretrained(
                folder, local_files_only=True, variant=weights_variant(folder)
            ).eval()
            self._processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise FileError(f"{folder} cannot be read as a CLIP image model: {str(error).splitlines()[0]}") from error
        self.name = next(
            (part.removeprefix("models--") for part in folder.parts if part.startswith("models--")), folder.name
        )
        self._device = torch.device(device or best_device())
        self._model.to(self._device)
        if self._device.type == "cuda":
            self._model.half()  # the model that draws needs the room

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """(n, d)."""
        rows = []
        for start in range(0, len(images), 16):
            batch = [image.convert("RGB") for image in images[start : start + 16]]
            pixels = self._processor(images=batch, return_tensors="pt")["pixel_values"].to(
                self._device, self._model.dtype
            )
            vectors = self._model(pixel_values=pixels).image_embeds.float()
            rows.append(torch.nn.functional.normalize(vectors, dim=-1).cpu())
        return np.asarray(torch.cat(rows).numpy(), dtype=np.float32)

"""The folder of generated images: names that go on, and each image with its infotext."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..errors import FileError
from ..file.saving import replacing_file
from ..host import infotext
from ..region_masks import save_used_masks


def save_images(images: Sequence[Image.Image], folder: Path) -> list[Path]:
    """Saves images with their infotext as `00000-SEED.png` and so on, continuing the folder's numbers.

    The masks of their regions are written below them as `masks/HASH.png`.

    Returns:
        The files' paths.

    Raises:
        FileError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(match[1]) for file in folder.iterdir() if (match := re.match(r"(\d+)-", file.name))]
        paths = []
        for number, image in enumerate(images, start=max(taken, default=-1) + 1):
            seed = re.search(r"Seed: (\d+)", str(image.info.get(infotext.PARAMETERS_KEY, "")).rpartition("\n")[2])
            path = folder / f"{number:05}-{seed[1] if seed else number}.png"
            with replacing_file(path, overwrite=True, durable=False) as part:
                image.save(part, format="PNG", **infotext.png_save_options(image))
            paths.append(path)
            save_used_masks(image, folder)
    except OSError as error:
        raise FileError(f"cannot write into {folder}: {error.strerror or error}") from error
    return paths

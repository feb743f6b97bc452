"""Named masks of regions: PNG files in the folder `masks` of the user's data. White acts, black does not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops

from .data_folder import user_data_folder
from .errors import FileError, LoraError, PromptError, did_you_mean
from .file.saving import replacing_file
from .lora_tags import LORA_TAG_PATTERN, LoraTag
from .regions import Region, parse_region
from .regions.region import PLACE_WORDS
from .train.data.image_files import is_image_file, load_training_image, resize_image

MASKS_FOLDER = "masks"
"""Name of the folder below the user's data."""
MASKS_KEY = "lora_ext masks"
"""Where `image.info` has the masks that a picture was made with, as {hash: mask}."""
_HASH = re.compile(r"[0-9a-f]{12}")
MOST_MASK_BYTES = 40_000_000
MOST_MASK_SIDE = 2048
"""Larger masks are made smaller: layers see an eighth of the picture's resolution at most."""


class MaskFolders:
    """The masks in some folders, of which the first that has a name counts.

    Args:
        folders: the folders; those that do not exist have no masks.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.used: dict[str, Image.Image] = {}
        """The masks that `load` has loaded, by name."""

    @classmethod
    def named(cls, folders: Sequence[Path]) -> MaskFolders:
        """The folders that the user named, else that of the user's data. Raises FileError for one that is none."""
        for folder in folders:
            if not folder.is_dir():
                raise FileError(f"{folder} is not a folder; give one that holds masks")
        return cls(folders or (user_data_folder() / MASKS_FOLDER,))

    def paths(self) -> dict[str, Path]:
        """Returns name → file of all masks."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if is_image_file(path):
                    found.setdefault(path.stem, path)
        return found

    def load(self, region: Region) -> Region:
        """Loads the pixels of a region that names a mask.

        Args:
            region: the region.

        Returns:
            The region with its pixels.

        Raises:
            PromptError: there is no such mask (the message names the nearest mask or place), or it is black.
            FileError: the file is no picture, or too large.
        """
        paths = self.paths()
        path = paths.get(region.mask_name)
        if path is None:
            near = did_you_mean(region.mask_name, (*PLACE_WORDS, *paths))
            raise PromptError(f"there is no mask {region.mask_name!r}, and it is no place{near}")
        mask = load_mask_image(path)
        if mask.getbbox() is None:
            raise PromptError(f"the mask {region.mask_name!r} is black: the file would act nowhere")
        self.used[region.mask_name] = mask
        return region.with_pixels(torch.from_numpy(np.array(mask, dtype=np.uint8)).float().div_(255))

    def loaded(self, region: Region | None) -> Region | None:
        """Returns a region with its pixels where it is a mask; others as they are. Raises as `load`."""
        return self.load(region) if region is not None and region.mask_name else region

    def region_of(self, tag: LoraTag) -> Region | None:
        """Returns the region of a tag, with its pixels where it is a mask. Raises PromptError, which quotes the tag."""
        try:
            return self.loaded(tag.region)
        except LoraError as error:
            raise PromptError(f"{tag.format_tag()}: {error}") from error

    def files_to_keep(self) -> dict[str, Image.Image]:
        """Returns hash → mask of what was used, to be written beside a picture."""
        return {mask_hash(mask): mask for mask in self.used.values()}

    def hashes(self) -> dict[str, str]:
        """Returns name → hash of what was used, for the infotext."""
        return {name: mask_hash(mask) for name, mask in self.used.items()}


def load_mask_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Decodes a mask.

    Args:
        path: the file.
        data: its bytes, where they do not come from the file.

    Returns:
        An image of mode L of at most `MOST_MASK_SIDE` pixels a side: brightness times opacity.

    Raises:
        FileError: the file is no picture, or too large.
    """
    try:
        size = path.stat().st_size if data is None else len(data)
        if size > MOST_MASK_BYTES:
            raise FileError(f"{path.name} has {size // 10**6} MB; a mask has at most {MOST_MASK_BYTES // 10**6} MB")
        decoded = load_training_image(path, data)
    except FileError:
        raise
    except (LoraError, OSError) as error:
        raise FileError(f"the mask {path.name} cannot be read: {error}") from error
    grey = decoded.rgb.convert("L")
    if decoded.alpha is not None:  # it was put on white: black × opacity is what remains
        grey = ImageChops.subtract(grey, ImageChops.invert(decoded.alpha))
    scale = MOST_MASK_SIDE / max(grey.size)
    return (
        grey if scale >= 1 else resize_image(grey, (max(1, int(grey.width * scale)), max(1, int(grey.height * scale))))
    )


def mask_hash(mask: Image.Image) -> str:
    """Returns the first 12 hex digits of the SHA-256 of a mask's size and pixels; how it is stored does not matter."""
    return hashlib.sha256(f"{mask.width}x{mask.height}:".encode() + mask.tobytes()).hexdigest()[:12]


def check_mask_name(name: str) -> str:
    """Returns the name. Raises PromptError where `at=` would not take it for a mask's."""
    if parse_region(name).mask_name != name:
        raise PromptError(f"{name[:80]!r} cannot be a mask's name: at={name[:80]} is a place")
    return name


def save_mask(path: Path, mask: Image.Image) -> None:
    """Writes a mask as PNG. Raises FileError where the file cannot be written."""
    with replacing_file(path, overwrite=True) as part:
        mask.save(part, format="PNG")


def save_used_masks(image: Image.Image, folder: Path) -> None:
    """Writes the masks that a picture was made with beside it, see `write_masks`."""
    write_masks(image.info.get(MASKS_KEY, {}), folder)


def write_masks(masks: Mapping[str, Image.Image], folder: Path) -> None:
    """Writes masks, given as hash → mask, as `masks/HASH.png` in a folder of pictures, where they are not there yet.

    With that folder and `at=HASH` the picture can be made again, also when the user's own mask has changed since.
    """
    for name, mask in masks.items():
        path = folder / MASKS_FOLDER / f"{name}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_mask(path, mask)


def restore_masks(
    prompt: str, hashes: Mapping[str, str], masks: MaskFolders, saved: Sequence[Path]
) -> tuple[str, list[str]]:
    """Makes the tags of a prompt name the masks that a picture was made with.

    Where a mask has been changed or removed since, the one beside the picture is copied to the user's masks under its
    hash, and the tags name that.

    Args:
        prompt: the prompt, with tags.
        hashes: name → hash of the masks.
        masks: the user's masks; copies go to the first folder.
        saved: folders where masks lie beside pictures.

    Returns:
        The prompt, and a sentence for each mask that is nowhere.
    """
    problems = []
    for name, digest in hashes.items():
        paths = masks.paths()
        if not _HASH.fullmatch(digest):  # it comes from a stranger's infotext, and becomes a file's name below
            problems.append(f"{digest[:20]!r} is no hash of a mask; the mask {name[:80]!r} stays as it is")
            continue
        if _has_hash(paths.get(name), digest):
            continue
        if not _has_hash(paths.get(digest), digest):
            found = next((path for folder in saved if _has_hash(path := folder / f"{digest}.png", digest)), None)
            if found is None:
                problems.append(
                    f"the mask {name!r} with which the picture was made ({digest}) is not here: copy {digest}.png from "
                    f"the folder masks beside the picture into {masks.folders[0]}, and write at={digest}"
                )
                continue
            masks.folders[0].mkdir(parents=True, exist_ok=True)
            save_mask(masks.folders[0] / f"{digest}.png", load_mask_image(found))
        place = re.compile(rf"(?<=:)\s*at\s*=\s*{re.escape(name)}\s*(?=[:>])")
        for tag in {match[0] for match in LORA_TAG_PATTERN.finditer(prompt)}:
            prompt = prompt.replace(tag, place.sub(f"at={digest}", tag))
    return prompt, problems


def _has_hash(path: Path | None, digest: str) -> bool:
    """Whether a file is there and is the mask with this hash."""
    try:
        return path is not None and path.is_file() and mask_hash(load_mask_image(path)) == digest
    except LoraError:
        return False

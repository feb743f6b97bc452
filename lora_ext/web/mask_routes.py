"""Routes of region masks: which there are, their pictures, saving a painted or uploaded one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import FileResponse, Response

from ..errors import FileError
from ..region_masks import MASKS_FOLDER, MOST_MASK_BYTES, MaskFolders, check_mask_name, load_mask_image, save_mask
from .app_state import AppState
from .routing import RequestBody
from .thumbnails import decode_upload
from .user_paths import user_output_path


class MaskRequest(RequestBody):
    """A mask of a region.

    Attributes:
        name: Its name, as `at=` has it.
        data: A picture's bytes as base64; white acts, black does not.
        overwrite: Whether a mask of that name may be replaced.
    """

    name: str = Field(max_length=100)
    data: str = Field(max_length=MOST_MASK_BYTES * 4 // 3)
    overwrite: bool = False


@dataclass(frozen=True)
class MaskNames:
    """The masks of the user.

    Attributes:
        names: Their names, sorted.
    """

    names: list[str]


def register_mask_routes(api: APIRouter, app_state: AppState) -> None:
    """Adds the routes."""
    folder = app_state.folders.data / MASKS_FOLDER
    masks = MaskFolders([folder])

    def existing(name: str) -> Path:
        path = masks.paths().get(name)
        if path is None:
            raise FileError(f"there is no mask {name[:80]!a}")
        return path

    @api.get("/masks")
    def names() -> MaskNames:
        """The names of all masks."""
        return MaskNames(sorted(masks.paths()))

    @api.put("/masks")
    def save(options: MaskRequest) -> MaskNames:
        """Saves a mask as a greyscale PNG."""
        name = check_mask_name(options.name.strip())
        path = user_output_path(folder, name, ".png")
        if name in masks.paths() and not options.overwrite:
            raise FileError(f"there is a mask {name!a} already; choose another name")
        save_mask(path, load_mask_image(path, decode_upload(options.data)))
        return names()

    @api.delete("/masks")
    def remove(name: str = Query(..., max_length=100)) -> MaskNames:
        """Deletes a mask."""
        path = existing(name)
        if path.is_symlink():
            raise FileError(f"{name!a} is a link, and nothing is changed through links")
        path.unlink()
        return names()

    @api.get("/masks/picture", response_class=Response)
    def picture(name: str = Query(..., max_length=100)) -> Response:
        """A mask's picture."""
        return FileResponse(existing(name), headers={"Cache-Control": "no-cache"})

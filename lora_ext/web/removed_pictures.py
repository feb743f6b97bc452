"""Takes a picture out of a data set. Its files are kept in a folder beside the data."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from ..errors import FileError
from ..file.saving import check_not_linked
from ..train.data.captions import CAPTION_EXTENSIONS
from ..train.data.image_files import is_image_file
from ..train.data.picture_edit import picture_edit_path
from .app_state import AppState
from .dataset_browser import dataset_image_path
from .user_paths import containing_folder, create_user_folder

REMOVED_FOLDER = "removed"
"""Below the data folder."""


def remove_picture(app_state: AppState, dataset: str, name: str) -> str:
    """Moves a picture with its captions, crop and mask out of a data set.

    Args:
        app_state: Has the folders.
        dataset: The data set's name.
        name: The picture's path below it.

    Returns:
        Where the picture is now, below the data folder.

    Raises:
        FileError: There is no such picture, a link leads to it, or it cannot be moved.
    """
    picture = dataset_image_path(app_state, dataset, name)
    root = containing_folder(app_state.folders.datasets, picture)
    check_not_linked(picture, root)
    data = app_state.folders.data
    place = data / REMOVED_FOLDER / picture.parent.relative_to(root)
    check_not_linked(place, data)
    create_user_folder(place)
    stem = _free_stem(place, picture)
    try:
        for suffix in CAPTION_EXTENSIONS:
            for caption, kept in (
                (picture.with_suffix(suffix), f"{stem}{suffix}"),
                (picture.with_name(picture.name + suffix), f"{stem}{picture.suffix}{suffix}"),
            ):
                if caption.is_file() and not caption.is_symlink():
                    keep = shutil.copy2 if _is_shared(caption, picture) else shutil.move
                    keep(caption, place / kept)
        edit = picture_edit_path(picture)
        if edit.is_file() and not edit.is_symlink():
            shutil.move(edit, picture_edit_path(place / f"{stem}{picture.suffix}"))
        shutil.move(picture, place / f"{stem}{picture.suffix}")
    except OSError as error:
        raise FileError(f"{picture.name} cannot be moved: {error.strerror or error}") from error
    return (place / f"{stem}{picture.suffix}").relative_to(data).as_posix()


def _is_shared(caption: Path, picture: Path) -> bool:
    """Whether a caption is another picture's too: `a.txt` is that of a.jpg and of a.png."""
    beside = picture.parent.iterdir() if caption.stem == picture.stem else ()
    return any(path.stem == picture.stem and path != picture and is_image_file(path) for path in beside)


def _free_stem(place: Path, picture: Path) -> str:
    names = itertools.chain([picture.stem], (f"{picture.stem}-{number}" for number in itertools.count(2)))
    own = [picture.suffix + suffix for suffix in CAPTION_EXTENSIONS]
    endings = [picture.suffix, picture_edit_path(Path(picture.suffix)).name, *CAPTION_EXTENSIONS, *own]
    return next(stem for stem in names if not any((place / f"{stem}{ending}").exists() for ending in endings))

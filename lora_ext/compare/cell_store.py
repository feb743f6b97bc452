"""The cells of a sheet on disk: PNG files with infotext, named by a hash of everything they depend on, and a manifest.

A cell is written to a temporary file and then renamed, so that a cell that exists is complete; even after a kill -9
the next run finds the finished cells by their names. A cell that depends on something else (another checkpoint, a file
that was trained again) has another name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from PIL import Image, PngImagePlugin

from ..errors import FileError
from ..file.file_lock import exclusive_lock
from ..file.saving import replacing_file
from ..json_text import parse_json
from .sheet_json import SheetJson

CELLS_FOLDER, MANIFEST_FILE, PNG_TEXT_KEY = "cells", "sheet.json", "parameters"
"""The subfolder with the cells, the manifest, and the PNG text chunk in which the web UI stores infotext."""
LEFTOVER_SECONDS = 3600.0
"""Age from which a temporary file is no other process' that is being written."""
SEED_FILE = ".seed.json"
"""The random seed that the processes which draw one sheet agree on."""


class CellStore:
    """A sheet's folder: `cells/0007-KEY.png` and `sheet.json`.

    Args:
        folder: the sheet's folder; it is created by the first thing that is written there.

    Attributes:
        folder: the sheet's folder.
        cells: its subfolder with the cells.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / CELLS_FOLDER
        self._known: dict[str, Path] = {}
        self.refresh()

    def create_folder(self, name: str = "") -> None:
        """Creates the sheet's folder, or a subfolder of it, where it is missing. Raises FileError."""
        folder = self.folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(".*.part"):  # left by a run that was killed while it wrote
                with suppress(FileNotFoundError):
                    if time.time() - part.stat().st_mtime > LEFTOVER_SECONDS:
                        part.unlink()
        except OSError as error:
            raise FileError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def refresh(self) -> None:
        """Finds the pictures that other processes have written since."""
        for path in sorted(self.cells.glob("*-*.png")):
            key = path.stem.rpartition("-")[2]
            if key not in self._known and _is_complete(path):
                self._known[key] = path

    def path(self, key: str) -> Path | None:
        """The file with the picture of a key.

        Args:
            key: what identifies the picture (`generate_cells.cell_keys`).

        Returns:
            The file; None if the picture is not drawn yet.
        """
        return self._known.get(key)

    def save_image(self, key: str, image: Image.Image, number: int) -> Path:
        """Writes a picture with its infotext.

        Args:
            key: the key of its spec, see `ImageSpec.key`.
            image: the picture, with its infotext in `info["parameters"]`.
            number: the first part of the file's name, so that the files are listed in the order of the sheet.

        Returns:
            The file.

        Raises:
            FileError: the file cannot be written.
        """
        path = self.cells / f"{number:04}-{key}.png"
        info = PngImagePlugin.PngInfo()
        if image.info.get(PNG_TEXT_KEY):
            info.add_text(PNG_TEXT_KEY, str(image.info[PNG_TEXT_KEY]))
        if not self.cells.is_dir():
            self.create_folder(CELLS_FOLDER)
        with replacing_file(path, overwrite=True) as part:
            image.save(part, format="PNG", pnginfo=info)
        self._known[key] = path
        return path

    def load_image(self, key: str) -> Image.Image | None:
        """The picture of a key with its infotext in `info`; None if it is not drawn yet."""
        path = self._known.get(key)
        if path is None:
            return None
        with Image.open(path) as image:
            image.load()
            return image

    def resumable_seed(self, base: Mapping[str, Any], axis_texts: Sequence[str]) -> int | None:
        """The seed of the sheet in this folder if it has the same settings and axes, so that it can be resumed.

        Args:
            base: the fields of the sheet's `ImageSpec`; seed and LoRA are not compared.
            axis_texts: the axes x, y and z as the user wrote them.

        Returns:
            The seed, or None for another sheet or none.
        """
        before: Mapping[str, Any] = load_manifest(self.folder) or {}
        axes = [before.get("axes", {}).get(name, {}).get("asked") for name in ("x", "y", "z")]
        left_out = ("seed", "lora")
        same = {k: v for k, v in base.items() if k not in left_out}
        found = before.get("base", {})
        if axes != list(axis_texts) or {k: v for k, v in found.items() if k not in left_out} != same:
            return None
        return int(found["seed"])

    def agreed_seed(self, base: Mapping[str, Any], axis_texts: Sequence[str], proposed: int) -> int:
        """The seed of a sheet whose seed is random, the same for all processes that draw it.

        Args:
            base: as of `resumable_seed`, like `axis_texts`.
            axis_texts: the axes.
            proposed: the seed where there is none yet.

        Returns:
            The seed of the sheet in this folder, or that of the process that came first.

        Raises:
            FileError: the folder cannot be written.
        """
        path = self.folder / SEED_FILE
        left_out = ("seed", "lora")
        sheet = [{k: v for k, v in base.items() if k not in left_out}, list(axis_texts)]
        self.create_folder()
        with exclusive_lock(path):
            found = self.resumable_seed(base, axis_texts)
            with suppress(OSError, ValueError, LookupError, TypeError):
                before = parse_json(path.read_text(encoding="utf-8"))
                found = int(before["seed"]) if found is None and before["sheet"] == sheet else found
            if found is None:
                found = proposed
                with replacing_file(path, overwrite=True) as part:
                    part.write_text(json.dumps({"sheet": sheet, "seed": found}), encoding="utf-8", errors="replace")
        return found

    def save_manifest(self, manifest: SheetJson) -> Path:
        """Writes `sheet.json`, the sheet's content for programs. Raises FileError."""
        path = self.folder / MANIFEST_FILE
        self.create_folder()
        with replacing_file(path, overwrite=True) as part:
            part.write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8", errors="replace")
        return path


def load_manifest(folder: Path) -> SheetJson | None:
    """Loads a sheet's `sheet.json`; each cell's `file` is the one that exists now.

    Nothing in the folder is changed, so that this may be called while the sheet is being drawn.

    Args:
        folder: the sheet's folder.

    Returns:
        The manifest; one that an older version wrote may lack fields. None where there is no readable manifest.
    """
    try:
        found = parse_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.setdefault("cells", []), list):
        return None
    file_by_key = {
        path.stem.rpartition("-")[2]: f"{CELLS_FOLDER}/{path.name}"
        for path in sorted((folder / CELLS_FOLDER).glob("*-*.png"))
    }
    if not all(isinstance(cell, dict) for cell in found["cells"]):
        return None
    for cell in found["cells"]:
        cell["file"] = file_by_key.get(str(cell.get("key", "")), "")
    return cast("SheetJson", found)


def _is_complete(path: Path) -> bool:
    """Whether the file is a complete picture (a crash of the whole machine may leave an empty one)."""
    with suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:
        image.load()
        return True
    return False

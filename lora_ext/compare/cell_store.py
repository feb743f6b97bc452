"""The cells of a sheet on disk: a PNG with infotext each, named by what it was drawn from, and a manifest.

A cell is written beside its place and moved there, so that one that is there is whole; after a kill -9 the next run
finds what is done by its name. A cell drawn from something else (another checkpoint, a file trained anew) has another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..errors import FileError
from ..file.saving import replacing_file

CELLS_FOLDER, MANIFEST_FILE, PNG_TEXT_KEY = "cells", "sheet.json", "parameters"


class CellStore:
    """A sheet's folder: `cells/0007-KEY.png`, `sheet.json`. Raises FileError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / CELLS_FOLDER
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            for part in self.cells.glob(".*.part"):
                part.unlink()  # what a killed run left half written
        except OSError as error:
            raise FileError(f"{folder} cannot be written: {error.strerror or error}") from error
        self._known: dict[str, Path] = {}
        for path in sorted(self.cells.glob("*-*.png")):
            key = path.stem.rpartition("-")[2]
            if key not in self._known and _is_complete(path):
                self._known[key] = path

    def path(self, key: str) -> Path | None:
        """Where the picture of this key is, None while there is none."""
        return self._known.get(key)

    def save_image(self, key: str, image: Image.Image, number: int) -> Path:
        """Writes a picture with its infotext; `number` comes first in its name, so that a folder lists in order."""
        path = self.cells / f"{number:04}-{key}.png"
        info = PngImagePlugin.PngInfo()
        if image.info.get(PNG_TEXT_KEY):
            info.add_text(PNG_TEXT_KEY, str(image.info[PNG_TEXT_KEY]))
        with replacing_file(path, overwrite=True) as part:
            image.save(part, format="PNG", pnginfo=info)
        self._known[key] = path
        return path

    def load_image(self, key: str) -> Image.Image | None:
        """The picture of a key with its infotext in `info`, None while there is none."""
        path = self._known.get(key)
        if path is None:
            return None
        with Image.open(path) as image:
            image.load()
            return image

    def resumable_seed(self, base: Mapping[str, Any], axis_texts: Sequence[str]) -> int | None:
        """The seed of the sheet that is here, if it was asked for in the same way: it is gone on with."""
        before = load_manifest(self.folder)
        axes = [before.get("axes", {}).get(name, {}).get("asked") for name in ("x", "y", "z")]
        left_out = ("seed", "lora")
        same = {k: v for k, v in base.items() if k not in left_out}
        found = before.get("base", {})
        if axes != list(axis_texts) or {k: v for k, v in found.items() if k not in left_out} != same:
            return None
        return int(found["seed"])

    def save_manifest(self, manifest: Mapping[str, Any]) -> Path:
        """`sheet.json`: what the sheet shows, for programs."""
        path = self.folder / MANIFEST_FILE
        with replacing_file(path, overwrite=True) as part:
            text = json.dumps(manifest, indent=1, ensure_ascii=False)
            part.write_text(text, encoding="utf-8", errors="replace")
        return path


def load_manifest(folder: Path) -> dict[str, Any]:
    """What a sheet's `sheet.json` holds, empty where there is none; each cell's `file` as far as it is drawn by now.

    Nothing in the folder is changed, so this may be asked while the sheet is being drawn.
    """
    try:
        found = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    there = {
        path.stem.rpartition("-")[2]: f"{CELLS_FOLDER}/{path.name}"
        for path in sorted((folder / CELLS_FOLDER).glob("*-*.png"))
    }
    for cell in found.get("cells", ()):
        cell["file"] = there.get(cell.get("key", ""), "")
    return found


def _is_complete(path: Path) -> bool:
    """Whether the file is a complete picture (a crash of the whole machine may leave an empty one)."""
    with suppress(OSError, SyntaxError, ValueError), Image.open(path) as image:
        image.load()
        return True
    return False

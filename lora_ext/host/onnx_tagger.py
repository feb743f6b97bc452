"""Captions by a tagger in ONNX: a folder with `model.onnx` and `selected_tags.csv`, as WD14 and its successors have.

The network takes (n, side, side, 3) float32, BGR in 0..255, and gives a probability for each row of the table.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..counted_words import counted
from ..errors import FileError

TAGGER_MODEL, TAGGER_TABLE = "model.onnx", "selected_tags.csv"
_GENERAL, _CHARACTER = "0", "4"
"""Categories of the table; "9" are ratings, which are no tags."""
_MOST_TABLE_BYTES = 20_000_000
_SHORTEST_WITH_SPACES = 4
"""Shorter tags are faces such as ^_^, whose underscore stays (as in kohya's tagger)."""


@dataclass(frozen=True)
class TaggerThresholds:
    """The least probability of a tag.

    Attributes:
        general: of what is seen.
        character: of names of characters, which are told only where they are certain.
    """

    general: float = 0.35
    character: float = 0.85


class OnnxTagger:
    """Tags images.

    Args:
        folder: the tagger's folder.
        thresholds: the least probability of a tag.
        device: "cpu" to leave a GPU alone; None uses one where onnxruntime has it.

    Raises:
        FileError: the folder has no tagger that can be read, or onnxruntime is missing.
    """

    def __init__(self, folder: Path, thresholds: TaggerThresholds | None = None, device: str | None = None) -> None:
        self._thresholds = thresholds or TaggerThresholds()
        self._tags = _load_table(folder / TAGGER_TABLE)
        self._session = _open_session(folder / TAGGER_MODEL, on_cpu=device == "cpu")
        given = self._session.get_inputs()[0]
        self._input, shape = given.name, given.shape
        if len(shape) != 4 or shape[3] != 3 or not isinstance(shape[1], int) or shape[1] != shape[2]:
            raise FileError(f"{folder.name} takes {shape}, not (n, side, side, 3): it is no tagger of the WD14 kind")
        self._side = shape[1]

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Returns the tags of each RGB image, separated by commas: characters, then what is seen, likely ones first.

        Raises:
            FileError: the table has not as many rows as the network has outputs.
        """
        return [self._caption(image) for image in images]

    def _caption(self, image: Image.Image) -> str:
        (found,) = self._session.run(None, {self._input: tagger_pixels(image, self._side)})[:1]
        probabilities = np.asarray(found, np.float32).reshape(-1)
        if len(probabilities) != len(self._tags):
            raise FileError(
                f"{TAGGER_TABLE} has {counted(len(self._tags), 'tag')}, and the network gives {len(probabilities)}"
            )
        least = {_GENERAL: self._thresholds.general, _CHARACTER: self._thresholds.character}
        rows = [
            (category != _CHARACTER, -float(probability), name)
            for (name, category), probability in zip(self._tags, probabilities, strict=True)
            if category in least and probability >= least[category]
        ]
        return ", ".join(name for _, _, name in sorted(rows))


def tagger_pixels(image: Image.Image, side: int) -> NDArray[np.float32]:
    """An image on a white square, scaled to the network's size: (1, side, side, 3), BGR in 0..255."""
    square = Image.new("RGB", (max(image.size),) * 2, "white")
    square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    return np.ascontiguousarray(pixels[None, :, :, ::-1])


def _load_table(path: Path) -> list[tuple[str, str]]:
    """(tag, category) of each output. Raises FileError."""
    try:
        if path.stat().st_size > _MOST_TABLE_BYTES:
            raise FileError(f"{path} is too large for a table of tags")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise FileError(f"{path} cannot be read as a table of tags: {error}") from error
    if not rows or not {"name", "category"} <= rows[0].keys():
        raise FileError(f"{path} is no table of tags: it needs the columns name and category")
    return [(_spoken(str(row["name"] or "")), str(row["category"] or "").strip()) for row in rows]


def _spoken(tag: str) -> str:
    """A tag as it is written in captions: with spaces, on one line."""
    tag = " ".join(tag.split())
    return tag.replace("_", " ") if len(tag) >= _SHORTEST_WITH_SPACES else tag


def _open_session(path: Path, *, on_cpu: bool) -> Any:
    """The network. Raises FileError."""
    if not path.is_file():
        raise FileError(
            f"{path.parent} has no {TAGGER_MODEL}; a tagger is a folder with {TAGGER_MODEL} and {TAGGER_TABLE}"
        )
    try:
        import onnxruntime
    except ImportError:
        raise FileError("taggers need onnxruntime; install it with: pip install onnxruntime") from None
    wanted = ["CPUExecutionProvider"] if on_cpu else ["CUDAExecutionProvider", "CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's own exceptions have no common base class
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FileError(f"{path} cannot be read as an ONNX model: {reason}") from error

"""Where the face in an image is: from its name, as kohya's `detect_face_rotate` writes it, or found by OpenCV."""

from __future__ import annotations

import re
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import TrainError
from .image_files import FaceFinder, PixelBox

_IN_NAME = re.compile(r"_(\d+)_(\d+)_(\d+)_(\d+)$")
SMALLEST_FACE_SHARE = 1 / 24
"""Smallest face, as a share of the image's shorter side; smaller detections are mostly false."""


def parse_face_box(path: Path) -> PixelBox | None:
    """The face's box in a file name that gives its centre, width and height in pixels.

    Example:
        >>> parse_face_box(Path("ann_320_200_90_110.png"))
        (275, 145, 90, 110)
    """
    match = _IN_NAME.search(path.stem)
    if not match:
        return None
    x, y, width, height = (int(part) for part in match.groups())
    return (x - width // 2, y - height // 2, width, height) if width and height else None


def opencv_face_finder() -> FaceFinder:
    """A finder of the largest upright face, with OpenCV's Haar cascade.

    Raises:
        TrainError: OpenCV is not installed.
    """
    try:
        cv2: Any = import_module("cv2")
        cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))
    except (ImportError, AttributeError):
        raise TrainError(
            "face_crop_aug_range finds faces with OpenCV, which is not installed: pip install "
            "'opencv-python-headless<4.12', or write the face's place into the pictures' names, "
            "such as ann_320_200_90_110.png (the face's centre, width and height)"
        ) from None
    lock = threading.Lock()  # a cascade keeps intermediate results, so it is not safe for threads

    def find(image: Image.Image) -> PixelBox | None:
        grey = np.asarray(image.convert("L"))
        least = max(20, int(min(image.size) * SMALLEST_FACE_SHARE))
        with lock:
            found = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
        if len(found) == 0:
            return None
        left, top, width, height = (int(v) for v in max(found, key=lambda box: int(box[2]) * int(box[3])))
        return left, top, width, height

    return find

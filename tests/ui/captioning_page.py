"""`python captioning_page.py --data_dir DIR --port PORT`: the standalone page with captioners, as the web UI has them.

"clip" takes a second for each picture, "blip" fails at its second picture.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from PIL import Image

from lora_ext.train.data.captioning import ImageCaptioner
from lora_ext.ui import standalone_server
from lora_ext.ui.standalone_backend import StandaloneBackend


def slow_captions(images: Sequence[Image.Image]) -> list[str]:
    """A caption after a second."""
    time.sleep(1)
    return ["a slow circle" for _ in images]


class FailingCaptioner:
    """Describes one picture, and fails at the next one."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Captions for the images."""
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("the model is broken")
        return ["a first circle" for _ in images]


class CaptioningBackend(StandaloneBackend):
    """The standalone program with captioners."""

    def image_captioners(self) -> Mapping[str, ImageCaptioner]:
        """Two of the web UI's names."""
        return {"clip": slow_captions, "blip": FailingCaptioner()}


if __name__ == "__main__":
    standalone_server.StandaloneBackend = CaptioningBackend  # type: ignore[misc]
    sys.exit(standalone_server.main(sys.argv[1:]))

"""Pictures of the documentation: a picture that shows what the kept one shows stays as it is."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageSequence, ImageStat
from ui.program import ROOT

ALIKE = 4.0
"""Of 255, the mean of a tile of 32 × 32 pixels: compression makes up to 3, one other letter in docs/states 7."""
ALIKE_IN_RECORDINGS = 6.0
"""The same for frames, whose compression also depends on the frames before: 4.2 was seen."""
LISTING = "LORA_EXT_KEPT_PICTURES"
"""Environment variable: a file to which the path of each picture is added that is made, written or as before."""
DAY = 1_790_000_000
"""What all files of the pictures are dated."""
_STEADY = """root => {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const now = texts.currentNode;
        const dated = now.data.replace(/\\d{8}-\\d{6}/g, "20261130-120000")
            .replace(/\\b\\d{1,2} [A-Z][a-z]+ 20\\d\\d, \\d\\d:\\d\\d/g, "30 Nov 2026, 12:00");
        const then = / to .* on this computer/.test(dated)
            ? dated.replace(/about .* to .* on this/, "about 1 min to 4 min on this")
            : now.parentElement.closest(".lx-facts")
            ? dated.replace(/^(\\d+ min )?\\d+ s$/, "1 min 10 s")
            : dated.replace(/\\b\\d+(\\.\\d+)? (?=(s|秒|min|分钟)(?!\\w))/g, "3 ");
        if (then !== now.data) now.data = then;
    }
}"""


def steady(page: Any) -> None:
    """Replaces what differs from run to run by one of each: durations, what a training would take, and dates."""
    page.locator("#lora-ext").evaluate(_STEADY)


def with_one_date(page: Any) -> None:
    """Gives all files that the page lists one date: they are made anew for each picture."""

    def answer_with_it(route: Any) -> None:
        answer = route.fetch()
        body = re.sub(r'"(time|thumb)":\s*[\d.]+', rf'"\1":{DAY}', answer.text())
        route.fulfill(response=answer, body=body)

    page.route(re.compile(r"/v1/(library|inspect|pictures/newest)\?"), answer_with_it)


def with_one_seed(page: Any) -> None:
    """Gives each training that the page starts one seed, as the settings have none."""

    def sent_with_it(route: Any) -> None:
        asked = route.request.post_data_json
        route.continue_(post_data=json.dumps({**asked, "settings": {**asked["settings"], "seed": 1}}))

    page.route(re.compile(r"/v1/train$"), sent_with_it)


def is_alike(one: Image.Image, other: Image.Image, most: float = ALIKE) -> bool:
    """Whether no tile of two pictures differs by more than the compression makes."""
    if one.size != other.size:
        return False
    apart = ImageChops.difference(one, other)
    tiles = ((x, y, x + 32, y + 32) for x in range(0, one.width, 32) for y in range(0, one.height, 32))
    return all(max(ImageStat.Stat(apart.crop(tile)).mean) <= most for tile in tiles)


def shows(path: Path, recording: bytes, scene: float) -> bool:
    """Whether a kept recording shows what another one shows for some milliseconds or more, one after the other."""
    with Image.open(path) as kept, Image.open(io.BytesIO(recording)) as made:
        frames = (frame.convert("RGB") for frame in ImageSequence.Iterator(kept))
        scenes = (frame.convert("RGB") for frame in ImageSequence.Iterator(made) if _milliseconds(frame) >= scene)
        return all(any(is_alike(one, frame, ALIKE_IN_RECORDINGS) for frame in frames) for one in scenes)


def _milliseconds(frame: Image.Image) -> float:
    frame.load()  # before, it is the time of the frame before
    return float(frame.info["duration"])


def note_made(path: Path) -> None:
    """Adds a picture's path to the list of those that were made, where `LISTING` asks for one."""
    if listing := os.environ.get(LISTING):
        with Path(listing).open("a", encoding="utf-8") as file:
            file.write(f"{path.resolve()}\n")


def keep(image: Image.Image, path: Path, **options: Any) -> bool:
    """Writes a picture where it differs from the kept one, and returns whether. options: Pillow's, for the format."""
    note_made(path)
    packed = io.BytesIO()
    image.save(packed, path.suffix[1:], **options)
    if path.exists() and is_alike(*(Image.open(one).convert("RGB") for one in (packed, path))):
        print(f"{path.relative_to(ROOT)}: as before", flush=True)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.getvalue())
    print(f"{path.relative_to(ROOT)}: {image.width}x{image.height}, {path.stat().st_size // 1024} KB", flush=True)
    return True


def keep_png(image: Image.Image, path: Path, colours: int) -> None:
    """The same for a PNG with few colours."""
    # k-means: the median cut alone gives what is small, such as the stars of a rating, the colour of something else
    keep(image.convert("RGB").quantize(colours, dither=Image.Dither.NONE, kmeans=1), path, optimize=True)

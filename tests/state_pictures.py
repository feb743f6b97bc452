"""Makes the pictures of every panel, dialog and state again: `python tests/state_pictures.py`, into docs/states.

Each is the standalone page in the light theme beside the dark one. A picture that is the same as the kept one, but for
how it was compressed, stays as it is; so a change of the page changes the pictures of what it changed alone.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chromium import fresh, started
from kept_pictures import keep, steady, with_one_date
from PIL import Image
from ui.program import ROOT, Server, dataset

sys.path.insert(0, str(ROOT / "tests" / "ui"))
from page_states import page_states

FOLDER = ROOT / "docs" / "states"
PAGE = ROOT / "docs" / "states.md"
SHRUNK, LEAST, TALLEST, QUALITY = 0.5, 560, 1600, 60
"""Of the pictures' size; lowest and greatest height in pixels; of the compression."""
WINDOW = {"width": 1280, "height": TALLEST}
_HEIGHT = """([least, tallest]) => {
    const sizes = selector => [...document.querySelectorAll(selector)]
        .filter(one => one.checkVisibility() && !one.parentElement.closest('.lx-scroll'))
        .map(one => one.getBoundingClientRect());
    const end = Math.max(0, ...sizes('#lora-ext .lx-panel:not([hidden]) *').map(one => one.bottom));
    const toasts = sizes('#lora-ext .lx-toast').reduce((sum, one) => sum + one.height + 20, 0);
    const dialog = Math.max(0, ...sizes('#lora-ext .lx-dialog[open]').map(one => one.height + 48));
    return [Math.round(Math.min(tallest, Math.max(least, end + toasts, dialog) + 16)), toasts + dialog > 0];
}"""
"""The height that shows all of a state, and whether something of it is placed by the window's height."""
FIRST_LINES = """# Every panel and state

The standalone page, light and dark: each panel, its sides, open dialogs and lists.
`python tests/state_pictures.py` makes these pictures again. [The controls](TAB.md) in each state are kept apart.
"""


def pictures(browser: Any, theme: str) -> Iterator[tuple[str, Image.Image]]:
    """Each state and how it looks, with a program of its own: nothing is there that another theme's states made."""
    data = Path(tempfile.mkdtemp())
    dataset(data / "datasets" / "circles" / "2_circle")
    server = Server(data, None)
    with fresh(browser, 60_000) as (page, errors):
        with_one_date(page)
        page.goto(f"{server.url}/?__theme={theme}")
        page.wait_for_selector("#lora-ext .lx-tabs")
        asked: set[Any] = set()
        page.on("request", lambda request: asked.add(request))
        for ended in ("requestfinished", "requestfailed"):
            page.on(ended, lambda request: asked.discard(request))
        page.set_viewport_size(WINDOW)  # what sticks to the window's edge is then out of the way
        for state in page_states(page):
            page.mouse.move(0, 0)
            page.wait_for_timeout(300)
            while asked:
                page.wait_for_timeout(300)
            yield state, picture_of(page)
    server.stop()
    assert not errors, errors


def picture_of(page: Any) -> Image.Image:
    """All that the page shows, without what is empty below it."""
    height, floats = page.evaluate(_HEIGHT, [LEAST, TALLEST])
    if floats:
        page.set_viewport_size({**WINDOW, "height": height})
        page.wait_for_timeout(200)
    steady(page)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.set_viewport_size(WINDOW)
    return image.crop((0, 0, image.width, height))


def beside(light: Image.Image, dark: Image.Image) -> Image.Image:
    """Both themes in one picture, smaller."""
    both = Image.new("RGB", (light.width + dark.width, max(light.height, dark.height)))
    both.paste(light)
    both.paste(dark, (light.width, 0))
    return both.resize((round(both.width * SHRUNK), round(both.height * SHRUNK)), Image.Resampling.LANCZOS)


def main() -> None:
    """Draws all states, and the page that shows them."""
    lines, kept = [FIRST_LINES], set()
    with started() as browser:
        light, dark = (dict(pictures(browser, theme)) for theme in ("light", "dark"))
    for state, image in light.items():
        path = FOLDER / f"{re.sub('[^a-z0-9]+', '-', state)}.webp"
        keep(beside(image, dark[state]), path, quality=QUALITY, method=6)
        kept.add(path)
        lines.append(f"## {state[0].upper()}{state[1:]}\n![{state}, light and dark](states/{path.name})\n")
    for old in set(FOLDER.iterdir()) - kept:
        old.unlink()
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

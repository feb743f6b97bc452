"""Makes the pictures of the tab in docs/ again: `python tests/tab_pictures.py` (three minutes on one core).

The standalone page with the small built-in model and its two LoRA files, in a browser of 1280 pixels: NAME.png in the
light theme, NAME-dark.png in the dark one.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from chromium import fresh, started
from guide_pictures import photos
from kept_pictures import keep_png, steady, with_one_date
from PIL import Image
from ui.program import ROOT, Server
from ui.steps import choose, ended, go

COLOURS = 256
PATIENCE = 600_000
CIRCLE, SQUARE = "a red circle on a blue background", "a yellow square on a purple background"
NOTES = {
    "activation text": "framed",
    "preferred weight": 0.8,
    "description": "Shapes with a frame of their own colour.",
    "notes": "Above 0.8 small shapes dissolve; lbw=OUTALL keeps them.",
}
COPIES = {"styles/framed soft": 0.5, "styles/framed strong": 1.5, "people/framed cast": 1}
"""More files for the library: the name → the weight that is written into a copy."""


def save(page: Any, name: str, height: int) -> None:
    """Saves the upper part of the page in both themes."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.set_viewport_size({"width": 1280, "height": height})
    for theme, ending in (("light", ""), ("dark", "-dark")):
        page.emulate_media(color_scheme=theme)
        page.wait_for_timeout(500)  # pictures are being shown
        steady(page)
        keep_png(Image.open(io.BytesIO(page.screenshot())), ROOT / "docs" / f"tab-{name}{ending}.png", COLOURS)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 1000})


def fill_library(server: Server) -> None:
    """Copies of a file in folders, with notes, tags and ratings."""
    loras = server.data / "loras"
    for name, weight in COPIES.items():
        (loras / name).parent.mkdir(parents=True, exist_ok=True)
        server.api("/reweight", "POST", {"name": "framed", "lbw": "ALL", "unet": weight, "te": weight, "save_to": name})
        server.idle(stop=False)  # the page lists the newest first
    (loras / "styles" / "framed soft.json").write_text(json.dumps(NOTES), encoding="utf-8")
    marks = {"names": ["styles/framed soft"], "favourite": True, "rating": 4, "add_tags": ["frames", "style"]}
    server.api("/library/marks", "PUT", marks)


def save_photos(folder: Path) -> None:
    """Pictures to train on, with their captions."""
    folder.mkdir(parents=True)
    for file in photos(12):
        (folder / file["name"]).write_bytes(file["buffer"])


def start(page: Any) -> None:
    panel = go(page, "start")
    panel.locator(".lx-kinds button").nth(3).click()
    panel.get_by_label("Name", exact=True).fill("sign")
    panel.get_by_label("Trigger word").fill("warning sign")
    panel.locator("select").first.select_option("signs")
    panel.locator(".lx-taken img").first.wait_for()
    panel.get_by_text("All settings, and why").wait_for()
    save(page, "start", 1030)


def generate(page: Any) -> None:
    panel = go(page, "generate")
    panel.locator("textarea").first.fill(f"{CIRCLE} <lora:framed:0.8>")
    panel.get_by_role("button", name="Draw", exact=True).click()
    panel.locator("img").first.wait_for()
    save(page, "generate", 760)


def weights(page: Any) -> None:
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    panel.locator(".lx-text").fill("1,0,0,0,0.2,0.4,0.6,0.8,1,1,1,1,1,1,1,0.8,0.6")
    panel.locator(".lx-tag", has_text="lbw=").wait_for()
    panel.get_by_label("Curve over the steps").fill("0.6@0, 1@0.3 cosine, 0.8@1")
    panel.locator(".lx-tag", has_text="cosine").wait_for()
    panel.locator(".lx-preview summary").click()
    panel.locator(".lx-preview").get_by_label("Prompt", exact=True).fill(CIRCLE)
    panel.locator(".lx-preview summary").click()
    panel.get_by_role("button", name="Draw preview").click()
    panel.locator(".lx-result:not(.busy) > .lx-wiper").wait_for()
    # at the window's edge it would cover the preview
    panel.locator(".lx-tagline").evaluate("line => { line.style.position = 'static'; }")
    save(page, "weights", 1340)


def regions(page: Any) -> None:
    panel = go(page, "regions")
    panel.get_by_role("button", name="2 columns").click()
    for share, words, file, weight in ((0.75, SQUARE, "striped", "0.9"), (0.25, CIRCLE, "framed", "0.9")):
        box = panel.locator(".lx-region-canvas").bounding_box()
        page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.5)
        panel.get_by_label("Prompt of the region").fill(words)
        panel.get_by_role("button", name="Add a LoRA").click()
        choose(panel, file)
        panel.get_by_label("Weight", exact=True).last.fill(weight)
    page.wait_for_timeout(1000)  # the prompt follows a moment later
    save(page, "regions", 900)


def train(page: Any) -> None:
    panel = go(page, "train")
    panel.get_by_role("button", name="Check first").click()
    panel.locator(".lx-stick .lx-facts").first.wait_for()
    save(page, "train", 1000)


def compare(page: Any) -> None:
    panel = go(page, "compare")
    choose(panel, "framed")
    panel.get_by_label("Prompt", exact=True).fill(CIRCLE)
    panel.get_by_role("button", name="Draw sheet").click()
    ended(panel)
    panel.locator(".lx-sheet td.chosen, .lx-sheet td button").first.wait_for()
    save(page, "compare", 940)


def blocks(page: Any) -> None:
    panel = go(page, "blocks")
    choose(panel, "framed")
    panel.get_by_role("button", name="Measure", exact=True).click()
    ended(panel)
    save(page, "blocks", 910)


def resize(page: Any) -> None:
    panel = go(page, "tools")
    panel.locator(".lx-segments [data-value=resize]").click()
    choose(panel, "framed")
    panel.locator("svg:visible").first.wait_for()
    panel.get_by_role("button", name="Resize", exact=True).click()
    ended(panel)
    save(page, "resize", 900)


def files(page: Any) -> None:
    panel = go(page, "files")
    panel.locator(".lx-file", has_text="framed soft").click()
    panel.locator(".lx-detail h3", has_text="framed soft").wait_for()
    save(page, "files", 1100)


def main() -> None:
    """Makes all pictures, or those that are named."""
    shows = {show.__name__: show for show in (start, generate, weights, regions, train, compare, blocks, files, resize)}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(shows)}; all without")
    names = parser.parse_args().names or shows
    with tempfile.TemporaryDirectory() as scratch, started() as browser:
        data = Path(scratch)
        save_photos(data / "datasets" / "signs")
        server = Server(data, None)
        try:
            fill_library(server)
            with fresh(browser, PATIENCE) as (page, errors):
                with_one_date(page)
                page.goto(server.url)
                page.wait_for_selector("#lora-ext .lx-tabs")
                for name in names:
                    shows[name](page)
            assert not errors, errors
        finally:
            server.stop()


if __name__ == "__main__":
    main()

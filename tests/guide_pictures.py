"""Makes the pictures of docs/guide/images again: `python tests/guide_pictures.py` (ten minutes on one core).

A browser does what docs/guide/photos-to-lora.md says, on the standalone page with the small built-in model, and each
picture is the part of the page that the text is about. The "photos" are 20 drawn warning signs.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chromium import started
from PIL import Image
from ui.program import ROOT, Server
from ui.steps import go

from lora_ext.compare.sheet_layout import Sheet, draw_sheet
from lora_ext.embedded import shapes
from lora_ext.file.lora_library import LoraLibrary
from lora_ext.generate import embedded_model, load_settings_model
from lora_ext.training.toy_task import TOY_SETTINGS, generate_toy_grid

IMAGES = ROOT / "docs" / "guide" / "images"
PATIENCE = 900_000
"""Milliseconds: a training and its sheet take minutes."""
LANGUAGES = {"en": "en-GB", "zh": "zh-CN"}
"""Suffix of a picture's name → the browser's language; the pages of each language have pictures of their own."""
COLOURS = 96
"""Colours of a picture: the page has few, and files stay small."""
SHAPES = ("circle", "square", "cross", "diamond")
CIRCLE, RING = "a red circle on a blue background", "a large cyan ring on a black background"
TRIANGLE, SQUARE = "a green triangle on white", "a yellow square on a purple background"
SHEETS = {
    "first-pictures": ([CIRCLE, SQUARE], ["", "<lora:striped:1>"]),
    "overtrained": ([TRIANGLE, RING], ["", *(f"<lora:framed:{w}>" for w in (0.4, 0.6, 0.8, 1))]),
    "tamed": (
        [TRIANGLE, RING],
        [f"<lora:framed:{w}>" for w in ("1", "0@0,1@0.5", "1:lbw=OUTALL", "0@0,1@0.5:lbw=OUTALL")],
    ),
}
"""Name → (prompts of the rows, tags of the columns): pictures by the small model's own LoRA files."""
TWO_REGIONS = f"{CIRCLE} <lora:framed:0.7:neg=0> ADDCOL {SQUARE} <lora:striped:0.8:neg=0>"


def photos(count: int = 20) -> list[dict[str, Any]]:
    """Warning signs with a caption each, as a browser sends files."""
    rng = np.random.default_rng(5)
    files = []
    for number in range(count):
        scene = shapes.random_scene(rng, style="sign", shape=SHAPES[number % len(SHAPES)])
        out = io.BytesIO()
        shapes.draw_scene(scene).save(out, format="PNG")
        text = f"a {scene.shape} on a warning sign"
        files.append({"name": f"sign{number:02}.png", "mimeType": "image/png", "buffer": out.getvalue()})
        files.append({"name": f"sign{number:02}.txt", "mimeType": "text/plain", "buffer": text.encode()})
    return files


def save_picture(image: Image.Image, name: str) -> None:
    """Saves a picture of the guide with few colours."""
    path = IMAGES / f"{name}.png"
    image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {image.width}x{image.height}, {path.stat().st_size // 1024} KB", flush=True)


def save(element: Any, name: str, *, top: int | None = None) -> None:
    """Saves what an element shows. top: pixels of its upper part; all of it without."""
    page = element.page
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(400)  # pictures are being shown
    image = Image.open(io.BytesIO(element.screenshot()))
    save_picture(image.crop((0, 0, image.width, min(top or image.height, image.height))), name)


def draw_pictures() -> None:
    """What the small model draws by itself."""
    torch.set_num_threads(1)
    model, library = load_settings_model(TOY_SETTINGS), LoraLibrary([embedded_model().LORA_DIR])
    for name, (prompts, tags) in SHEETS.items():
        cells = generate_toy_grid(model, library, TOY_SETTINGS, [[f"{text} {tag}" for tag in tags] for text in prompts])
        save_picture(_labelled([tag or "no LoRA" for tag in tags], prompts, cells), name)
    wide = replace(TOY_SETTINGS, width=128, height=64, seed=5, steps=16)
    ((image,),) = generate_toy_grid(model, library, wide, [[TWO_REGIONS]])
    save_picture(image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC), "two-regions")


def _labelled(columns: Sequence[str], rows: Sequence[str], cells: list[list[Image.Image]]) -> Image.Image:
    return draw_sheet(Sheet(title="", columns=columns, rows=rows, cells=cells, note="", scale=2))


@contextmanager
def opened(browser: Any, server: Server, language: str) -> Iterator[Any]:
    """The tab in a language."""
    context = browser.new_context(
        viewport={"width": 1000, "height": 1000}, locale=LANGUAGES[language], reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.wait_for_selector("#lora-ext .lx-tabs")
    yield page
    context.close()


def start_here(page: Any, language: str) -> None:
    """The cards of Start here up to the button Train; in English pictures are sent, afterwards they are there."""
    panel = page.locator("#lx-panel-start")
    cards = panel.locator(".lx-step")
    panel.locator(".lx-kinds button").nth(3).click()
    cards.nth(0).locator("input").nth(0).fill("sign")
    cards.nth(0).locator("input").nth(1).fill("warning sign")
    if language == "en":
        panel.locator(".lx-drop input").first.set_input_files(photos())
    else:
        panel.locator("select").first.select_option("sign")
    panel.locator(".lx-taken img").nth(19).wait_for()
    save(cards.nth(0), f"start-what-{language}")
    save(cards.nth(1), f"start-pictures-{language}")
    panel.locator(".lx-captions summary").click()
    panel.locator(".lx-captions img").first.wait_for()
    save(panel.locator(".lx-captions"), f"start-captions-{language}", top=430)
    panel.locator(".lx-captions summary").click()
    reasons = cards.nth(2).locator("details").first
    reasons.locator("summary").click()
    save(cards.nth(2), f"start-settings-{language}", top=560)
    reasons.locator("summary").click()


def train(page: Any) -> None:
    """Presses Train in Start here and waits for the sheet."""
    cards = page.locator("#lx-panel-start .lx-step")
    cards.nth(2).locator("button.main").click()
    cards.nth(3).locator(".lx-sheet td.chosen, .lx-result .lx-note").first.wait_for()
    page.get_by_text("sheet.png").last.wait_for()


def sheet(page: Any, language: str) -> None:
    """The sheet that follows the training, and what a click on the suggested picture shows."""
    panel = go(page, "compare")
    panel.locator("details", has=panel.locator("summary")).last.locator("summary").first.click()
    panel.locator(".lx-side details button").first.click()
    table = panel.locator(".lx-sheet")
    table.wait_for()
    best = table.locator("td.chosen button, td:last-child button").last
    best.click()
    panel.locator(".lx-shown").wait_for()
    save(panel.locator(".lx-main .lx-card").first, f"sheet-{language}")


def run_and_check(page: Any, language: str) -> None:
    """Train: the report before a run, and the curve and samples of the run."""
    panel = go(page, "train")
    panel.locator("[data-value=history]").click()
    run = panel.locator(".lx-main details, .lx-main .lx-card").last
    run.wait_for()
    save(run, f"run-{language}")


def main() -> None:
    """Makes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="keep the program's folder here, and use what is trained there")
    parser.add_argument("--only", choices=("drawn", "page"), help="what the model draws, or what the page shows")
    args = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    if args.only != "page":
        draw_pictures()
    if args.only != "drawn":
        show_pages(args.data)


def show_pages(kept: Path | None) -> None:
    """What the page shows. kept: a folder for the program that stays; a new one without."""
    with tempfile.TemporaryDirectory() as scratch, started() as browser:
        data = kept or Path(scratch)
        data.mkdir(parents=True, exist_ok=True)
        server = Server(data, None)
        try:
            for language in LANGUAGES:
                with opened(browser, server, language) as page:
                    start_here(page, language)
                    if not (data / "loras" / "sign.safetensors").is_file():
                        train(page)
                    sheet(page, language)
                    run_and_check(page, language)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

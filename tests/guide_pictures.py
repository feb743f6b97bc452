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
from kept_pictures import keep_png, steady, with_one_seed
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
LANGUAGES = {"en": "en-GB"}
"""Suffix of a picture's name → the browser's language. The Chinese guide shows the English page too, and says so."""
COLOURS = 192
"""Colours of a picture: the page has few, and files stay small."""
SHAPES = ("circle", "square", "cross", "diamond")
CIRCLE, RING = "a red circle on a blue background", "a large cyan ring on a black background"
TRIANGLE, SQUARE = "a green triangle on white", "a yellow square on a purple background"
ON_GREEN = "a yellow square on a green background"
WEAK_OUT = "lbw=1,1,1,1,1,1,1,1,.6,.6,.6,.6,.6,.6,.6,.6,.6"
"""The cookbook's block weights: output blocks at 0.6."""
SHEETS = {
    "first-pictures": ([CIRCLE, SQUARE], ["", "<lora:striped:1>"]),
    "overtrained": ([TRIANGLE, RING], ["", *(f"<lora:framed:{w}>" for w in (0.6, 0.9, 1.2, 1.6))]),
    "tamed": (
        [TRIANGLE, RING],
        [f"<lora:framed:{w}>" for w in ("1.6", "1.6@0,0.8@0.6", f"1.6:{WEAK_OUT}", f"1.6@0,0.8@0.6:{WEAK_OUT}")],
    ),
}
"""Name → (prompts of the rows, tags of the columns): pictures by the small model's own LoRA files."""
SAMPLE_PROMPT = "a cross on a warning sign --d 7 --l 3 --s 12"
SHEET = {
    "prompt": "a cross on a warning sign <lora:sign:1>",
    "lora": "sign",
    "x": "epoch:1,3,6,last",
    "y": "weight:0.4-1.0(+0.2)",
    "dataset": "sign",
    "sampler": "DPM++ 2M",
    "cfg": 3,
    "steps": 12,
    "seed": 7,
}
"""What the API is asked for: the sheet of the guide."""
TWO_REGIONS = f"{CIRCLE} <lora:framed:0.9:neg=0> ADDCOL {ON_GREEN} <lora:striped:0.7:neg=0>"


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


def save(element: Any, name: str, *, top: int | None = None) -> None:
    """Saves what an element shows. top: pixels of its upper part; all of it without."""
    page = element.page
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(400)  # pictures are being shown
    steady(page)
    image = Image.open(io.BytesIO(element.screenshot()))
    shown = image.crop((0, 0, image.width, min(top or image.height, image.height)))
    keep_png(shown, IMAGES / f"{name}.png", COLOURS)


def draw_pictures() -> None:
    """What the small model draws by itself."""
    torch.set_num_threads(1)
    model, library = load_settings_model(TOY_SETTINGS), LoraLibrary([embedded_model().LORA_DIR])
    for name, (prompts, tags) in SHEETS.items():
        cells = generate_toy_grid(model, library, TOY_SETTINGS, [[f"{text} {tag}" for tag in tags] for text in prompts])
        sheet_image = _labelled([tag or "no LoRA" for tag in tags], prompts, cells)
        keep_png(sheet_image, IMAGES / f"{name}.png", COLOURS)
    wide = replace(TOY_SETTINGS, width=128, height=64, seed=2, steps=16)
    ((image,),) = generate_toy_grid(model, library, wide, [[TWO_REGIONS]])
    image = image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC)
    keep_png(image, IMAGES / "two-regions.png", COLOURS)


def _labelled(columns: Sequence[str], rows: Sequence[str], cells: list[list[Image.Image]]) -> Image.Image:
    return draw_sheet(Sheet(title="", columns=columns, rows=rows, cells=cells, note="", scale=2))


@contextmanager
def opened(browser: Any, server: Server, language: str) -> Iterator[Any]:
    """The tab in a language."""
    context = browser.new_context(
        viewport={"width": 1120, "height": 1000},
        locale=LANGUAGES[language],
        timezone_id="UTC",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with_one_seed(page)
    page.goto(server.url)
    page.wait_for_selector("#lora-ext .lx-tabs")
    # what floats over the page would cover what is shown
    page.locator("#lora-ext .lx-top").evaluate("top => { top.style.position = 'static'; }")
    page.locator("#lora-ext .lx-job-menu").first.evaluate("menu => { menu.style.display = 'none'; }")
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
    panel.locator(".lx-captions > summary").click()
    panel.locator(".lx-captions img").first.wait_for()
    save(panel.locator(".lx-captions"), f"start-captions-{language}", top=430)
    panel.locator(".lx-captions > summary").click()
    reasons = cards.nth(2).locator("details:not(.lx-regularisation *)").first
    reasons.locator("summary").click()
    save(cards.nth(2), f"start-settings-{language}", top=620)
    reasons.locator("summary").click()


def check(page: Any, language: str) -> Any:
    """Takes the settings over into Train, and shows its report before a run. Returns the panel's buttons."""
    page.locator("#lx-panel-start .lx-step").nth(2).locator("button.quiet").click()
    card = page.locator("#lx-panel-train .lx-stick")
    card.locator(".lx-button").first.click()
    card.locator(".lx-facts").wait_for()
    save(card, f"check-{language}")
    return card


def train(page: Any, card: Any, server: Server) -> None:
    """Trains with those settings and a sample prompt of its own, and draws the sheet."""
    page.locator("#lx-panel-train textarea").fill(SAMPLE_PROMPT)
    card.locator(".lx-check input").uncheck()
    card.locator(".lx-button.main").click()
    while not (server.data / "loras" / "sign.safetensors").is_file():
        page.wait_for_timeout(2000)
    server.idle(stop=False, seconds=PATIENCE / 1000)
    server.api("/compare", "POST", SHEET)
    server.idle(stop=False, seconds=PATIENCE / 1000)


def run(page: Any, language: str) -> None:
    """The samples and the curve of the run, in Train's history."""
    panel = go(page, "train")
    panel.locator(".lx-segments [data-value=history]").click()
    panel.locator(".lx-run summary").first.click()
    panel.locator(".lx-run .lx-samples img").first.wait_for()
    panel.locator(".lx-run svg").first.wait_for()
    panel.locator(".lx-run").first.evaluate(  # without its buttons, settings and files
        "run => { while (!run.lastChild.firstChild.matches('.lx-samples')) run.lastChild.firstChild.remove(); }"
    )
    save(panel.locator(".lx-run").first, f"run-{language}")


def sheet(page: Any, language: str) -> None:
    """The sheet, and what a click on a picture shows."""
    panel = go(page, "compare")
    panel.locator(".lx-side details summary").last.click()
    panel.locator(".lx-jobs-past .lx-item").first.click()
    panel.locator(".lx-sheet td button").last.wait_for()
    panel.locator(".lx-sheet td.chosen button, .lx-sheet tr:last-child td:last-child button").first.click()
    panel.locator(".lx-shown").wait_for()
    save(panel.locator(".lx-main .lx-card").first, f"sheet-{language}")


def main() -> None:
    """Makes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="keep the program's folder here, and use what is trained there")
    parser.add_argument("--only", choices=("drawn", "page"), help="what the model draws, or what the page shows")
    args = parser.parse_args()
    if args.only != "page":
        draw_pictures()
    if args.only != "drawn":
        show_pages(args.data)


def show_pages(kept: Path | None) -> None:
    """What the page shows. kept: a folder for the program that stays; a new one without."""
    with tempfile.TemporaryDirectory() as scratch, started() as browser:
        data = kept or Path(scratch)
        (data / "datasets").mkdir(parents=True, exist_ok=True)
        server = Server(data, None)
        try:
            for language in LANGUAGES:
                with opened(browser, server, language) as page:
                    start_here(page, language)
                    card = check(page, language)
                    if not server.api("/compare/history")["sheets"]:
                        train(page, card, server)
                    run(page, language)
                    sheet(page, language)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

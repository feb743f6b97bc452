"""Makes the pictures of all controls in all states again: `python tests/control_pictures.py`, into docs/controls.

A row is a kind of control, a column a state: off, on, focus, disabled, invalid. On the standalone page, and on a page
of gradio 3.41.2 and of 4.40 (LORA_EXT_GRADIO4), in both themes.
`tests/ui/test_controls.py` compares the page with them.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from chromium import fresh, started
from kept_pictures import keep_png
from PIL import Image
from ui.program import ROOT, Server

SCRIPT = Path(__file__).parent / "ui" / "control_sheet.js"
FOLDER = ROOT / "docs" / "controls"
THEMES = ("light", "dark")
COLOURS = 192
FOCUSABLE = "[tabindex], input, button, select, textarea, summary"


def show_controls(page: Any, url: str, theme: str) -> None:
    """Puts the sheet on the page, those of the column "focus" with the look of a focused control."""
    page.goto(f"{url}/?__theme={theme}")
    page.wait_for_selector("#lora-ext .lx-tabs")
    page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    page.mouse.move(0, 0)
    session = page.context.new_cdp_session(page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    for cell in session.send("DOM.querySelectorAll", {"nodeId": root, "selector": "[data-state=focus]"})["nodeIds"]:
        control = session.send("DOM.querySelector", {"nodeId": cell, "selector": FOCUSABLE})["nodeId"]
        session.send("CSS.forcePseudoState", {"nodeId": control, "forcedPseudoClasses": ["focus", "focus-visible"]})
    page.wait_for_timeout(400)


def picture_of(page: Any) -> Image.Image:
    """The sheet as it is drawn."""
    return Image.open(io.BytesIO(page.locator("#lx-control-sheet").screenshot())).convert("RGB")


def main() -> None:
    """Draws the sheets of the pages that are named, of all without a name."""
    gradio_page = str(Path(__file__).parent / "ui" / "gradio_page.py")
    gradio4 = os.environ.get("LORA_EXT_GRADIO4")
    with started() as browser:
        for name, program in (("alone", None), ("gradio", gradio_page), ("gradio 4", gradio_page)):
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            if name == "gradio 4" and not gradio4:
                print("gradio 4: LORA_EXT_GRADIO4 names no folder; its pictures stay")
                continue
            server = Server(
                Path(tempfile.mkdtemp()),
                gradio4 if name == "gradio 4" else None,
                **({"program": [program]} if program else {}),
            )
            for theme in THEMES:
                with fresh(browser, 60_000) as (page, _):
                    show_controls(page, server.url, theme)
                    keep_png(picture_of(page), FOLDER / f"{name.replace(' ', '-')}-{theme}.png", COLOURS)
            server.stop()


if __name__ == "__main__":
    main()

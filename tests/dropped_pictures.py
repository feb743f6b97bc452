"""Pictures as a person drops them onto the page."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

_SEND = """([files, kind]) => {
    const data = new DataTransfer();
    for (const [name, text] of files) {
        data.items.add(new File([Uint8Array.from(atob(text), one => one.charCodeAt(0))], name));
    }
    const how = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
    const event = kind === "drop" ? new DragEvent(kind, how) : new ClipboardEvent(kind, how);
    document.querySelector("#lora-ext .lx-drop").dispatchEvent(event);
}"""


def photo(number: int) -> bytes:
    """A circle on a ground of any colour."""
    colours = random.Random(number)
    image = Image.new("RGB", (64 + 16 * (number % 2), 64), tuple(colours.randrange(60, 230) for _ in "rgb"))
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill=(220, 30 * number, 40))
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def send(page: Any, files: Sequence[tuple[str, bytes]], kind: str = "drop") -> None:
    """Drops files onto the page's place for them, or pastes them."""
    page.evaluate(_SEND, [[[name, base64.b64encode(content).decode()] for name, content in files], kind])


def fill_in_an_object(page: Any, panel: Any, *, repeats: int) -> None:
    """Start here as a person fills it in: an object called mycat, four pictures, and a run that is short."""
    panel.get_by_role("radio", name="Object").click()
    panel.get_by_label("Name", exact=True).fill("mycat")
    send(page, [(f"p{number}.png", photo(number)) for number in range(4)])
    panel.get_by_text("4 pictures added").wait_for()
    panel.get_by_text("4 pictures × 25 repeats × 10 epochs = 1000 samples; 1000 suit an object").first.wait_for()
    panel.get_by_text("All settings, and why").click()
    panel.get_by_label("epochs", exact=True).fill("2")  # the test has no time for more
    panel.get_by_label("dataset repeats").fill(str(repeats))
    panel.get_by_text("What regularisation does").click()
    panel.get_by_label("number of regularisation pictures").fill("3")

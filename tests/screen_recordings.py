"""Makes the recordings in docs/recordings again: `python tests/screen_recordings.py` (about five minutes on one core).

A browser does three things on the standalone page with the small built-in model: block sliders are dragged and the
picture follows; pictures become a LoRA; two LoRAs act left and right. Each recording is an animated WebP of what the
page shows, in which waiting is shortened, and a still of its last frame for readers who want no motion.
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chromium import started
from guide_pictures import photos
from kept_pictures import keep, note_made, shows, steady, with_one_seed
from PIL import Image, ImageDraw
from ui.program import ROOT, Server
from ui.steps import choose, go, until

RECORDINGS = ROOT / "docs" / "recordings"
WINDOW = {"width": 1000, "height": 700}
QUALITY = 85
PATIENCE = 600_000
SCENE = 900
"""Milliseconds from which a frame is shown to be read."""
ARROW = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))
"""The pointer's outline."""
FRAMED, STRIPED = "a red circle on a blue background", "a yellow square on a purple background"
PHOTOS, EPOCHS, REPEATS = 20, 5, 10
"""What is trained on, and for how long: as many samples as the page suggests, but fewer files: the sheet then fits."""


class Recorder:
    """Frames of a page, with the pointer, which screenshots do not have."""

    def __init__(self, page: Any, clip: dict[str, float] | None = None) -> None:
        self.page, self.clip = page, clip
        self.frames: list[Image.Image] = []
        self.times: list[int] = []
        self.pointer: tuple[float, float] | None = None

    def move(self, x: float, y: float) -> None:
        """Moves the pointer to a place of the window, slower towards its end."""
        if self.pointer:
            left, top = self.pointer
            for share in (0.35, 0.7, 0.9):
                self.pointer = (left + (x - left) * share, top + (y - top) * share)
                self.take(40)
        self.page.mouse.move(x, y)
        self.pointer = (x, y)

    def click(self, element: Any, milliseconds: int = 600, *, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Moves the pointer onto an element, shows it there for a time, and clicks. at: where, by its sides."""
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        x, y = box["x"] + box["width"] * at[0], box["y"] + box["height"] * at[1]
        self.move(x, y)
        self.take(milliseconds)
        element.click(position={"x": box["width"] * at[0], "y": box["height"] * at[1]})  # waits until it moves no more
        self.page.wait_for_timeout(300)

    def write(self, field: Any, text: str) -> None:
        """Writes a text into a field, a few letters a frame."""
        self.click(field, 100, at=(0.3, 0.5))
        for end in range(0, len(text) + 4, 4):
            field.fill(text[:end])
            self.take(60)

    def take(self, milliseconds: int) -> None:
        """Adds what the page shows now for a time; the same as before is shown for longer."""
        frame = Image.open(io.BytesIO(self.page.screenshot(clip=self.clip))).convert("RGB")
        if self.pointer:
            x, y = (at - (self.clip or {}).get(side, 0) for at, side in zip(self.pointer, "xy", strict=True))
            ImageDraw.Draw(frame).polygon([(x + a, y + b) for a, b in ARROW], "white", "black")
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
        else:
            self.frames.append(frame)
            self.times.append(milliseconds)

    def watch(self, done: Callable[[], bool], every: float, shown: int, most: int = 40) -> None:
        """Adds what the page shows every few seconds until something is done, in at most a number of frames.

        Args:
            done: whether it is done.
            every: seconds between two looks.
            shown: for how many milliseconds each frame is shown.
            most: number of frames; more are thinned out evenly, since machines differ in how long it takes.
        """
        first, end = len(self.frames), time.monotonic() + PATIENCE / 1000
        while not done():
            assert time.monotonic() < end, "it was not done in time"
            self.take(shown)
            self.page.wait_for_timeout(every * 1000)
        step = max(1, -(-(len(self.frames) - first) // most))
        self.frames[first:] = self.frames[first::step]
        self.times[first:] = [shown] * (len(self.frames) - first)

    def save(self, name: str) -> None:
        """Writes the still and the recording, where one of them shows something else than before."""
        path = RECORDINGS / f"{name}.webp"
        note_made(path)
        is_new = keep(self.frames[-1], path.with_name(f"{name}-still.webp"), quality=QUALITY, method=6)
        made, (first, *rest) = io.BytesIO(), self.frames
        first.save(
            made, "WEBP", save_all=True, append_images=rest, duration=self.times, loop=0, quality=QUALITY, method=4,
            minimize_size=True, allow_mixed=True,
        )  # fmt: skip
        # what is shown for less, such as how far a job is, differs from run to run
        if not is_new and path.exists() and shows(path, made.getvalue(), SCENE):
            return print(f"{path.relative_to(ROOT)}: as before", flush=True)
        path.write_bytes(made.getvalue())
        size, seconds = path.stat().st_size // 1024, sum(self.times) / 1000
        print(f"{path.relative_to(ROOT)}: {len(self.frames)} frames, {seconds:.0f} s, {size} KB", flush=True)


def sliders(page: Any, server: Server) -> None:
    """Sliders of blocks are dragged, and the picture follows."""
    page.set_viewport_size({**WINDOW, "height": 1250})  # the tag's bar is then below the preview
    panel = go(page, "weights")
    choose(panel, "framed")
    panel.locator(".lx-about", has_text="SD1").wait_for()
    preview = panel.locator(".lx-preview")
    preview.locator("summary").click()
    preview.get_by_label("Prompt", exact=True).fill(FRAMED)
    preview.locator("summary").click()
    panel.get_by_role("button", name="Draw preview").click()
    panel.locator(".lx-wipe").wait_for()
    panel.get_by_label("Draw again when a weight changes").check()
    preview.locator(".lx-wiper input").fill("20")
    blocks = panel.locator(".lx-handles").locator("xpath=ancestor::*[contains(@class, 'lx-card')]").bounding_box()
    wipe = preview.bounding_box()
    clip = {"x": blocks["x"] - 8, "y": blocks["y"] - 8, "width": blocks["width"] + 16}
    recorder = Recorder(page, {**clip, "height": wipe["y"] + wipe["height"] - blocks["y"] + 16})
    recorder.take(1200)
    for group in (3, 1):  # OUT, IN
        box = panel.locator(".lx-handles .lx-range").nth(group).bounding_box()
        left, length, y = box["x"] + 8, box["width"] - 16, box["y"] + box["height"] / 2
        recorder.move(left + length, y)
        recorder.take(500)
        page.mouse.down()
        for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0.2, 0.4, 0.6, 0.8, 1):
            before = page.evaluate(_PREVIEW)
            recorder.pointer = (left + length * share, y)
            page.mouse.move(*recorder.pointer)
            until(page, f"before => ![before, ''].includes(({_PREVIEW})())", before)
            page.wait_for_timeout(200)
            recorder.take(1400 if share in (0, 1) else 160)
        page.mouse.up()
    recorder.save("block-sliders")


_PREVIEW = """() => {
    const drawn = document.querySelector("#lx-panel-weights .lx-result:not(.busy) > .lx-wiper img.after");
    return drawn ? drawn.src : "";
}"""
"""The picture's address; none while it is drawn."""


def two_loras(page: Any, server: Server) -> None:
    """Two LoRAs, left and right."""
    panel = go(page, "regions")
    for label, value in (("Width", 128), ("Height", 64)):
        panel.get_by_label(label).last.fill(str(value))
    page.evaluate("window.scrollTo(0, 0)")
    recorder = Recorder(page)
    recorder.take(800)
    recorder.click(panel.get_by_role("button", name="2 columns"))
    for share, words, file, weight in ((0.25, FRAMED, "framed", "0.9"), (0.75, STRIPED, "striped", "0.9")):
        recorder.click(panel.locator(".lx-region-canvas"), at=(share, 0.5))
        recorder.write(panel.get_by_label("Prompt of the region"), words)
        recorder.click(panel.get_by_role("button", name="Add a LoRA"))
        choose(panel, file)
        panel.get_by_label("Weight", exact=True).last.fill(weight)
        page.wait_for_timeout(300)
        recorder.take(900)
    recorder.click(panel.get_by_role("button", name="Insert into prompt"), 900)
    panel = go(page, "generate")
    for label, value in (("Width", 128), ("Height", 64), ("Seed", 2)):
        panel.get_by_label(label).last.fill(str(value))
    page.evaluate("window.scrollTo(0, 0)")
    recorder.take(1500)
    recorder.click(panel.get_by_role("button", name="Draw", exact=True))
    recorder.watch(lambda: panel.locator(".lx-pictures img:visible").count() > 0, 1, 150)
    # the small model's picture is small: it is shown four times as large as a user sees it
    panel.locator(".lx-pictures img:visible").evaluate("image => { image.style.width = '512px'; }")
    page.wait_for_timeout(800)
    steady(page)
    recorder.take(3500)
    recorder.save("two-loras")


def below_the_bar(element: Any) -> None:
    """Scrolls an element to just below the bar of the panels."""
    element.evaluate("element => window.scrollBy(0, element.getBoundingClientRect().top - 56)")


def photos_to_lora(page: Any, server: Server) -> None:
    """Start here: pictures are dropped, a training follows, and its sheet."""
    panel = go(page, "start")
    recorder = Recorder(page)
    recorder.take(900)
    recorder.click(panel.get_by_role("radio", name="Object"))
    recorder.write(panel.get_by_label("Name", exact=True), "sign")
    recorder.write(panel.get_by_label("Trigger word"), "warning sign")
    recorder.take(600)
    panel.locator(".lx-drop input").first.set_input_files(photos(PHOTOS))
    panel.locator(".lx-taken img").nth(PHOTOS - 1).wait_for()
    page.wait_for_timeout(800)
    recorder.take(1500)
    panel.get_by_text("All settings, and why").click()
    for label, value in (("epochs", EPOCHS), ("dataset repeats", REPEATS)):
        panel.get_by_label(label, exact=True).fill(str(value))
    panel.get_by_text("All settings, and why").click()
    recorder.click(panel.get_by_role("button", name="Train", exact=True), 900)
    job = panel.locator(".lx-job:visible").last

    def has_sheet() -> bool:
        below_the_bar(job)  # its curve comes later
        return bool(panel.locator(".lx-sheet td").count())

    recorder.watch(has_sheet, 3, 200, 25)
    below_the_bar(panel.locator(".lx-sheet"))
    recorder.watch(lambda: panel.get_by_text(re.compile(r"sheet(-1)?\.png")).count() > 0, 3, 200, 15)
    page.wait_for_timeout(500)
    recorder.take(2500)
    recorder.click(panel.locator(".lx-range").last, 600, at=(0.01, 0.5))  # the sheet's zoom: all of it, and the picture
    below_the_bar(panel.locator(".lx-sheet"))
    recorder.take(900)
    recorder.click(panel.locator(".lx-sheet td.chosen button").last, 900)
    recorder.take(2000)
    recorder.click(panel.get_by_role("button", name="Insert into prompt").last, 900)
    steady(page)
    recorder.take(2500)
    recorder.save("photos-to-lora")
    server.idle()


def main() -> None:
    """Makes all recordings, or those that are named."""
    recordings = {"block-sliders": sliders, "two-loras": two_loras, "photos-to-lora": photos_to_lora}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(recordings)}; all without")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as scratch, started() as browser:
        server = Server(Path(scratch), None)
        try:
            server.warm()
            for name in names or recordings:
                page = browser.new_context(
                    viewport=WINDOW, locale="en-GB", timezone_id="UTC", reduced_motion="reduce"
                ).new_page()
                page.set_default_timeout(PATIENCE)
                with_one_seed(page)
                page.goto(server.url)
                page.wait_for_selector("#lora-ext .lx-tabs")
                recordings[name](page, server)
                page.context.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()

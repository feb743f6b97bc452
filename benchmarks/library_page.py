"""`python benchmarks/library_page.py --files 20000`: the Files panel with many files in a real browser.

Measures, by what is seen: dragging the list to its end and back, elements of the tab, the heap after twenty drags, and
500 files moved to a folder and moved back. Needs playwright and Chromium, as the tests of the page do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "ui"), str(TESTS)]

from chromium import CHROMIUM, FLAGS, fresh  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from program import Server  # noqa: E402
from steps import go, small  # noqa: E402
from test_many_files import drag_to_end, node_count  # noqa: E402

DRAGS, MOVED = 20, 500


def heap(page: Any) -> float:
    """MB of the page's JavaScript heap after a garbage collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return float(page.evaluate("performance.memory.usedJSHeapSize")) / 1e6


def seconds_until(locator: Any) -> float:
    """Seconds until an element is in the page."""
    begun = time.perf_counter()
    locator.wait_for()
    return time.perf_counter() - begun


def drags(page: Any, panel: Any, count: int) -> dict[str, Any]:
    """The list dragged to its end and back."""
    box = panel.locator(".lx-file-list")
    first, last = (panel.locator(f".lx-file[data-name='many/file {n:05}']") for n in (0, count - 1))
    found: dict[str, Any] = {"last_card_seconds": [], "first_card_seconds": [], "nodes": [], "heap_mb": []}
    for turn in range(DRAGS):
        drag_to_end(page, box)
        found["last_card_seconds"].append(seconds_until(last))
        found["nodes"].append(node_count(page))
        last.click()
        page.keyboard.press("Home")
        found["first_card_seconds"].append(seconds_until(first))
        if turn in (1, DRAGS // 2, DRAGS - 1):
            found["heap_mb"].append(round(heap(page), 1))
    return {
        name: [round(values[0], 2), round(max(values), 2)] if name.endswith("seconds") else values
        for name, values in found.items()
    } | {"nodes": max(found["nodes"])}


def move_and_undo(page: Any, panel: Any) -> dict[str, float]:
    """The files of a folder moved to another one, and moved back."""
    panel.get_by_label("Search", exact=True).fill("batch/")
    panel.get_by_text(f"{MOVED} files", exact=True).wait_for()
    panel.get_by_role("button", name="Select files").click()
    panel.get_by_role("button", name="All", exact=True).click()
    panel.get_by_text(f"{MOVED} selected").wait_for()
    panel.get_by_role("button", name="Move…").click()
    panel.get_by_label("Folder, empty for the top").fill("batch/moved")
    panel.get_by_role("button", name="Move", exact=True).click()
    moved = seconds_until(panel.get_by_text(f"{MOVED} files moved", exact=True))
    panel.get_by_role("button", name="Undo", exact=True).click()
    back = seconds_until(panel.get_by_text(f"{MOVED} files moved back", exact=True))
    return {"move_seconds": round(moved, 2), "undo_seconds": round(back, 2)}


def main() -> None:
    """Prints what was measured as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=20_000)
    count = parser.parse_args().files
    folder = Path(tempfile.mkdtemp())
    for part, files in (("many", count), ("batch", MOVED)):
        place = folder / "loras" / part
        place.mkdir(parents=True)
        small(place / "file 00000.safetensors", 1)
        data = (place / "file 00000.safetensors").read_bytes()
        for number in range(1, files):
            (place / f"file {number:05}.safetensors").write_bytes(data)
    server = Server(folder, None)
    with sync_playwright() as playwright:
        options = {"executable_path": CHROMIUM, "ignore_default_args": ["--hide-scrollbars"]}
        browser = playwright.chromium.launch(args=[*FLAGS, "--enable-precise-memory-info"], **options)
        with fresh(browser, 120_000) as (page, errors):
            page.goto(server.url)
            begun = time.perf_counter()
            panel = go(page, "files")
            panel.get_by_label("Order").select_option("name")
            panel.get_by_label("Search", exact=True).fill("many/")
            panel.get_by_text(f"{count} files").wait_for()
            panel.locator(".lx-file[data-name='many/file 00000']").wait_for()
            found = {"files": count + MOVED, "first_cards_seconds": round(time.perf_counter() - begun, 2)}
            print(json.dumps({**found, **drags(page, panel, count), **move_and_undo(page, panel), "errors": errors}))
        browser.close()
    server.stop()


if __name__ == "__main__":
    main()

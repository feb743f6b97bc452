"""What the tests of the tab do again and again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
LONG = 240_000
"""Milliseconds for a job to end: the machine may be busy."""


def go(page: Any, name: str) -> Any:
    """The panel of a name, shown."""
    page.click(f"#lx-tab-{name}")
    return page.locator(f"#lx-panel-{name}")


def until(page: Any, script: str, arg: Any = None, *, seconds: float = 60) -> None:
    """Until a script is true. Playwright's own way compiles text in the page, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(script, arg):
        assert time.monotonic() < end, script
        page.wait_for_timeout(50)


def choose(panel: Any, name: str, which: int = 0) -> None:
    """Chooses the file of just this name in a panel's picker, by typing."""
    picker = panel.locator(".lx-picker:visible").nth(which)
    picker.locator(".lx-pick").click()
    picker.locator("input[type=search]").fill(name)
    picker.locator(".lx-item", has=panel.page.get_by_text(name, exact=True)).first.click()


def ended(panel: Any, state: str = "done") -> Any:
    """The panel's job, when it is over; what failed or was refused is told at once."""
    job = panel.locator(f".lx-job[data-state={state}]:visible").last
    wrong = panel.locator(".lx-job:visible .lx-note.bad").last
    job.or_(wrong).last.wait_for(timeout=LONG)
    assert not wrong.is_visible(), wrong.inner_text()
    return job


def draw_sheet(page: Any, weights: str, seeds: str, steps: int) -> Any:
    """The Compare panel, where a sheet of the small model's first LoRA was just asked for."""
    panel = go(page, "compare")
    choose(panel, "framed")
    panel.locator(".lx-axis input").nth(0).fill(weights)
    panel.locator(".lx-axis input").nth(1).fill(seeds)
    panel.get_by_text("Settings", exact=True).click()
    panel.locator("input[type=number][aria-label=Steps]").fill(str(steps))
    panel.get_by_role("button", name="Draw sheet").click()
    return panel


def small(path: Path, rank: int = 4, **metadata: str) -> None:
    """A file with one layer."""
    torch.manual_seed(rank)
    up, down = torch.randn(64, rank), torch.randn(rank, 64)
    names = (f"{UNET}.lora_up.weight", f"{UNET}.lora_down.weight", f"{UNET}.alpha")
    save_file(dict(zip(names, (up, down, torch.tensor(float(rank))), strict=True)), path, metadata=metadata)


def insert_regions(page: Any, place: str, width: int, height: int) -> Any:
    """Writes "two shapes" with this size from Regions into a prompt, which the panel says; the panel."""
    panel = go(page, "regions")
    panel.get_by_label("Prompt of the whole picture").fill("two shapes")
    for name, value in (("Width", width), ("Height", height)):
        panel.locator(f"input[type=number][aria-label={name}]").fill(str(value))
    panel.get_by_role("button", name=f"Insert into {place}").click()
    panel.get_by_text(f"Width and height are {width} × {height} now, as the regions are drawn for.").wait_for()
    return panel

"""Our tab on the web UI's page, for tests that drive it in a browser."""

from __future__ import annotations

from typing import Any

PATIENCE = 240_000
"""Milliseconds: the machine may be busy."""
LONG = 400_000
"""Milliseconds for a run of training and its sheet."""


def open_tab(page: Any) -> None:
    """Shows the tab."""
    page.locator("#tabs > .tab-nav > button", has_text="LoRA").first.click()
    page.wait_for_selector("#lora-ext .lx-tabs")


def prompt_of(page: Any, name: str) -> str:
    """The prompt of "txt2img" or "img2img"."""
    return str(page.locator(f"#{name}_prompt textarea").input_value())

"""The tab itself, the same in the web UI and alone: an empty element that the page's script fills."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

import lora_ext

TITLE, ROOT = "LoRA", "lora-ext"
HOME = Path(lora_ext.__file__).parent.parent
"""Where `javascript/`, `style.css` and `localizations/` lie."""


def tab(token: str, *, language: str = "") -> Any:
    """Puts the root element into the open gradio context. token: by which this page may call the API."""
    return gr.HTML(
        f'<div id="{ROOT}" class="notranslate" data-token="{escape(token)}" data-language="{escape(language)}"></div>',
        elem_id=f"{ROOT}-holder",
    )


def blocks(token: str, *, language: str = "") -> Any:
    """A whole gradio page with the tab alone."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # fetched from nowhere
    with gr.Blocks(title="LoRA ext", analytics_enabled=False, theme=gr.themes.Default(**fonts)) as page:
        tab(token, language=language)
    return page


def scripts() -> list[Path]:
    """The page's scripts in the order in which they are loaded."""
    return sorted((HOME / "javascript").glob("lora_ext*.js"))

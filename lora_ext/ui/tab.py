"""The tab itself, the same in the web UI and alone: an empty element that the page's script fills."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

TITLE, ROOT = "LoRA", "lora-ext"


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

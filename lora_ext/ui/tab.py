"""The tab in the web UI's page: an empty element that the page's script fills."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .page import ROOT_ID, root_element


def add_tab_element(token: str, *, language: str = "") -> Any:
    """Puts the root element into the open gradio context. token: by which this page may call the API."""
    return gr.HTML(root_element(token, language), elem_id=f"{ROOT_ID}-holder")

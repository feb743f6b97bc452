"""The tab: one root element that `javascript/lora_ext*.js` fills, in the web UI's page (gradio) and on a page alone."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ui`. Raises ModuleNotFoundError where its packages are missing."""
    from .standalone_server import main

    return main(argv)

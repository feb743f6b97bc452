"""The tab: one root element that `javascript/lora_ext*.js` fills. The only room, beside hosts, that imports gradio."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `ui`."""
    from .standalone import main

    return main(argv)

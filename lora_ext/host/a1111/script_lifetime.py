"""Whether the web UI's scripts are loaded: Reload UI takes them away for a while, and jobs may go on meanwhile."""

from __future__ import annotations

import threading


class Page:
    """up: set while scripts are loaded. reloads: how often they were taken away.

    at_work: whether a job of ours has the model.
    """

    def __init__(self) -> None:
        self.up = threading.Event()
        self.up.set()
        self.reloads = 0
        self.at_work = False

    def leave(self) -> None:
        """Scripts are about to go."""
        self.up.clear()
        self.reloads += 1

    def enter(self) -> None:
        """Scripts are there again."""
        self.up.set()


PAGE = Page()
"""Stays over Reload UI while a job is at work (see `scripts/lora_ext_entry.py`)."""

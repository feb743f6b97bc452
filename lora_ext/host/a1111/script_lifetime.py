"""Whether the web UI's scripts are loaded: Reload UI takes them away for a while, and jobs may go on meanwhile."""

from __future__ import annotations

import threading


class ScriptLifetime:
    """up: set while scripts are loaded. reloads: how often they were taken away.

    has_running_job: whether a job of ours has the model.
    """

    def __init__(self) -> None:
        self.loaded = threading.Event()
        self.loaded.set()
        self.reloads = 0
        self.has_running_job = False

    def mark_unloaded(self) -> None:
        """Scripts are about to go."""
        self.loaded.clear()
        self.reloads += 1

    def mark_loaded(self) -> None:
        """Scripts are there again."""
        self.loaded.set()


SCRIPT_LIFETIME = ScriptLifetime()
"""Stays over Reload UI while a job is at work (see `scripts/lora_ext_entry.py`)."""

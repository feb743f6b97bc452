"""Whether the web UI's scripts are loaded. Reload UI unloads them for a while, and jobs may go on meanwhile."""

from __future__ import annotations

import threading


class ScriptLifetime:
    """Whether scripts are loaded.

    Attributes:
        loaded: set while scripts are loaded.
        reloads: how often they were unloaded.
        has_running_job: whether a job of the extension is using the model.
    """

    def __init__(self) -> None:
        self.loaded = threading.Event()
        self.loaded.set()
        self.reloads = 0
        self.has_running_job = False

    def mark_unloaded(self) -> None:
        """Called before scripts are unloaded."""
        self.loaded.clear()
        self.reloads += 1

    def mark_loaded(self) -> None:
        """Called when scripts are loaded again."""
        self.loaded.set()


SCRIPT_LIFETIME = ScriptLifetime()
"""The same object before and after Reload UI while a job is running (see `scripts/lora_ext_entry.py`)."""

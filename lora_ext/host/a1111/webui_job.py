"""Marks a job of this extension in the web UI's state, so that Interrupt and Skip belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modules import devices, shared


@contextmanager
def webui_job(title: str) -> Iterator[None]:
    """Begins a job of the web UI and ends it. Enter it while holding `call_queue.queue_lock`.

    Afterwards no request to interrupt or skip is left; one from before (Reload UI makes one) does not count.
    """
    shared.state.begin(job=title)
    shared.state.textinfo = title
    try:
        yield
    finally:
        state = shared.state
        state.end()
        state.skipped = state.interrupted = state.stopping_generation = False
        devices.torch_gc()

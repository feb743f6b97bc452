"""The web UI's queue: calls that wait for it, and jobs of this extension, so that Interrupt and Skip belong to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modules import call_queue, devices, shared


def while_nothing_is_generated(work: Callable[[], Any]) -> Callable[..., None]:
    """Returns a function that calls `work` while it holds the queue: at once, or in a thread where it is not free.

    Forge changes the settings of a request (`override_settings`) while the request itself holds the queue: a callback
    that waited for it would wait forever.

    Args:
        work: called without arguments; the arguments of the returned function are ignored.
    """

    def start(*_: Any) -> None:
        queue_lock = call_queue.queue_lock
        if not queue_lock.acquire(blocking=False):
            threading.Thread(target=call_queue.wrap_queued_call(work), daemon=True).start()
            return
        try:
            work()
        finally:
            queue_lock.release()

    return start


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

"""Hooks into the web UI's model switching and its Reload UI, for which it has no callbacks.

It replaces functions of the web UI. Each replacement calls the original with its arguments. `close` restores the
originals; where another extension has wrapped a replacement since, it stays and only calls the original.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from modules import sd_models, shared

from .script_lifetime import SCRIPT_LIFETIME


class ModelSwitchHooks:
    """Callbacks around the web UI's model switching.

    Args:
        before: called with a model that is about to leave its device or memory.
        after: called when the model in use may have changed.
    """

    def __init__(self, before: Callable[[Any], None], after: Callable[[], None]) -> None:
        self.active = True
        self._replaced: list[tuple[str, Any, Any]] = []
        for name in ("send_model_to_cpu", "send_model_to_trash"):
            self._replace(name, before=before)
        self._replace("reload_model_weights", after=after)

    def _replace(
        self, name: str, before: Callable[[Any], None] | None = None, after: Callable[[], None] | None = None
    ) -> None:
        original = getattr(sd_models, name, None)
        if original is None:  # Forge has other functions for moving models
            return

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            if self.active and before and args and args[0] is not None:
                before(args[0])
            result = original(*args, **kwargs)
            if self.active and after:
                after()
            return result

        setattr(sd_models, name, replacement)
        self._replaced.append((name, original, replacement))

    def close(self) -> None:
        """Restores the original functions."""
        self.active = False
        for name, original, replacement in self._replaced:
            if getattr(sd_models, name) is replacement:
                setattr(sd_models, name, original)
        self._replaced.clear()


class ReloadUiHook:
    """Keeps Reload UI from interrupting the extension's own jobs.

    The web UI's `request_restart` interrupts the current job, which would stop a training run or a sheet. While one is
    running (and so nothing else is), only the restart itself is requested.
    """

    def __init__(self) -> None:
        self._state = shared.state
        self._before = vars(self._state).get("request_restart")
        original = self._state.request_restart

        @functools.wraps(original)
        def replacement() -> None:
            if SCRIPT_LIFETIME.has_running_job:
                self._state.server_command = "restart"
            else:
                original()

        self._replacement = self._state.request_restart = replacement

    def close(self) -> None:
        """Restores the original: the class's function, or the one that another extension had set on the object."""
        if vars(self._state).get("request_restart") is not self._replacement:
            return
        if self._before is None:
            del self._state.request_restart
        else:
            self._state.request_restart = self._before

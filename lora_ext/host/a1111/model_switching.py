"""Hooks into the web UI's model switching and its Reload UI, for which it has no callbacks.

The one place that replaces functions of the web UI. Each replacement calls the original with what it was given;
`close` puts the originals back, or makes the replacement inert where another extension has wrapped it since.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from modules import sd_models, shared

from .script_lifetime import SCRIPT_LIFETIME


class ModelSwitchHooks:
    """before(model): a model is about to leave its device or memory. after(): the model in use may be another one."""

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
        if original is None:  # Forge moves its models by other ways
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
        """Puts the originals back."""
        self.active = False
        for name, original, replacement in self._replaced:
            if getattr(sd_models, name) is replacement:
                setattr(sd_models, name, original)
        self._replaced.clear()


class ReloadUiHook:
    """Reload UI interrupts what is being drawn, which would stop our runs and sheets as Interrupt does: while one of
    ours is at work, and so nothing else, it only asks for the restart."""

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
        """The original again: the class's, or what another extension had put onto the object."""
        if vars(self._state).get("request_restart") is not self._replacement:
            return
        if self._before is None:
            del self._state.request_restart
        else:
            self._state.request_restart = self._before

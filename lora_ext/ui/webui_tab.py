"""The tab in a web UI: what its callbacks ask for. Knows no web UI; it is given a backend."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import gradio as gr

from ..console import print_text
from ..errors import LoraError
from ..web.access_guard import AccessGuard, initial_token
from ..web.allowed_hosts import LOOPBACK, AllowedHosts, allowed_hosts_from_environment, parse_allowed_host
from ..web.app_state import AppState
from ..web.backend import Backend
from ..web.mount import mount_api
from .page import ROOT_ID, TAB_TITLE
from .tab import add_tab_element

_Value = TypeVar("_Value")


def _given(read: Callable[[], _Value], otherwise: _Value) -> _Value:
    """What the environment gives. A mistake there is told; it does not keep the web UI from starting."""
    try:
        return read()
    except LoraError as error:
        print_text(f"[LoRA ext] {error}", file=sys.stderr)
        return otherwise


class Tab:
    """The tab, made once each time the web UI loads its scripts.

    Jobs continue over "Reload UI": a tab that is closed while they run leaves its state to the next one.

    Args:
        backend: The web UI.
        users: Names and passwords that the web UI was started with.
        bound: The address that it listens on.
        names: Returns the names by which it is reached from elsewhere, as far as it knows them.
    """

    _left_state: ClassVar[AppState | None] = None

    def __init__(
        self,
        backend: Backend,
        users: Callable[[], Mapping[str, str]],
        bound: str = LOOPBACK,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        hosts = AllowedHosts(
            bound, _given(allowed_hosts_from_environment, []), lambda: [parse_allowed_host(name) for name in names()]
        )
        self._backend = backend
        self._guard = AccessGuard(users, hosts, _given(initial_token, None) or secrets.token_urlsafe(24))
        self._app_state: AppState | None = None

    @classmethod
    def busy(cls) -> bool:
        """Whether a tab that was closed has left jobs at work."""
        return cls._left_state is not None and cls._left_state.jobs.is_busy

    @property
    def app_state(self) -> AppState:
        """Made when it is first needed: folders may be named after scripts are loaded."""
        if self._app_state is None:
            self._app_state, Tab._left_state = Tab._left_state or AppState(self._backend), None
            self._app_state.backend = self._backend
        return self._app_state

    def page(self) -> list[tuple[Any, str, str]]:
        """For `on_ui_tabs`."""
        with gr.Blocks(analytics_enabled=False) as page:
            add_tab_element(self._guard.token)
        return [(page, TAB_TITLE, ROOT_ID.replace("-", "_"))]

    def serve(self, _: Any, app: Any) -> None:
        """For `on_app_started`."""
        mount_api(app, self.app_state, self._guard)

    def close(self) -> None:
        """For `on_script_unloaded`."""
        if self._app_state is None:
            return
        if self._app_state.jobs.is_busy:
            Tab._left_state = self._app_state
        else:
            self._app_state.jobs.close()

"""The tab in a web UI: what its callbacks ask for. Knows no web UI; it is given a desk."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import gradio as gr

from ..errors import LoraError
from ..web.access_guard import Guard, token_of_start
from ..web.allowed_hosts import LOOPBACK, Hosts, allowed_host, from_environment
from ..web.app_state import Studio
from ..web.backend import Desk
from ..web.mount import mount
from .page import ROOT, TITLE
from .tab import tab

Given = TypeVar("Given")


def _given(read: Callable[[], Given], otherwise: Given) -> Given:
    """What the environment gives. A mistake there is told; it does not keep the web UI from starting."""
    try:
        return read()
    except LoraError as error:
        print(f"[LoRA ext] {error}", file=sys.stderr)
        return otherwise


class Tab:
    """Made once each time the web UI loads its scripts.

    users: names and passwords that it was started with. bound: the address that it listens on. names: the names by
    which it is reached from elsewhere, as far as it knows them.

    Jobs go on over Reload UI: a tab that is closed while they do leaves its studio to the next one.
    """

    _left: ClassVar[Studio | None] = None

    def __init__(
        self,
        desk: Desk,
        users: Callable[[], Mapping[str, str]],
        bound: str = LOOPBACK,
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        hosts = Hosts(bound, _given(from_environment, []), lambda: [allowed_host(name) for name in names()])
        self._desk = desk
        self._guard = Guard(users, hosts, _given(token_of_start, None) or secrets.token_urlsafe(24))
        self._studio: Studio | None = None

    @classmethod
    def busy(cls) -> bool:
        """Whether a tab that was closed has left jobs at work."""
        return cls._left is not None and cls._left.jobs.busy

    @property
    def studio(self) -> Studio:
        """Made when it is first needed: folders may be named after scripts are loaded."""
        if self._studio is None:
            self._studio, Tab._left = Tab._left or Studio(self._desk), None
            self._studio.desk = self._desk
        return self._studio

    def page(self) -> list[tuple[Any, str, str]]:
        """For `on_ui_tabs`."""
        with gr.Blocks(analytics_enabled=False) as page:
            tab(self._guard.token)
        return [(page, TITLE, ROOT.replace("-", "_"))]

    def serve(self, _: Any, app: Any) -> None:
        """For `on_app_started`."""
        mount(app, self.studio, self._guard)

    def close(self) -> None:
        """For `on_script_unloaded`."""
        if self._studio is None:
            return
        if self._studio.jobs.busy:
            Tab._left = self._studio
        else:
            self._studio.jobs.close()

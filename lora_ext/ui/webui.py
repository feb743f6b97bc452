"""The tab in a web UI: what its callbacks ask for. Knows no web UI; it is given a desk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gradio as gr

from ..web.desk import Desk
from ..web.route import Guard
from ..web.service import mount
from ..web.studio import Studio
from .tab import ROOT, TITLE, tab


class Tab:
    """Made once each time the web UI loads its scripts. users: names and passwords that it was started with.

    Jobs go on over Reload UI: a tab that is closed while they do leaves its studio to the next one.
    """

    _left: ClassVar[Studio | None] = None

    def __init__(self, desk: Desk, users: Callable[[], Mapping[str, str]]) -> None:
        self._desk, self._guard = desk, Guard(users)
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

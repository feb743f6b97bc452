"""A message that the troubleshooting page explains has a button that shows what to do."""

from __future__ import annotations

from typing import Any

import pytest
from program import Server
from steps import go, small

pytestmark = [pytest.mark.flaky(reruns=2), pytest.mark.one_page]


def test_what_to_do_is_shown(page: Any, server: Server) -> None:
    path = server.data / "loras" / "goes.safetensors"
    small(path, 1)
    panel = go(page, "files")
    panel.get_by_text("goes", exact=True).first.wait_for()
    path.write_bytes(b"")
    panel.get_by_text("goes", exact=True).first.click()
    panel.get_by_role("alert").get_by_role("button", name="What to do").click()
    dialog = page.get_by_role("dialog", name="What to do")
    dialog.get_by_text("download it again").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")

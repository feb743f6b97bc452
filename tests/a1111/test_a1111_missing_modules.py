"""A web UI without modules that AUTOMATIC1111's has: the entry script loads, and tags are applied."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import lora
from stand_in_webui import ENTRY, started
from test_a1111_tags import apart

MISSING = ("lowvram", "sd_hijack_optimizations", "sd_schedulers", "deepbooru")
"""What Forge Classic lacks."""


@pytest.mark.long
def test_the_entry_script_loads_and_tags_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MISSING:
        monkeypatch.setitem(sys.modules, f"modules.{name}", None)
    with started(tmp_path, ENTRY) as webui:
        from modules import shared

        lora(webui, "one", 1)
        clean = webui.make("a cat")
        assert apart(webui.make("a cat <lora:one:1:lbw=OUTALL>"), clean) > 0
        assert apart(webui.make("a cat"), clean) == 0
        assert webui.module("backend").scheduler_labels() == ["Automatic"]
        assert "deepbooru" not in webui.module("interrogators").interrogators()
        monkeypatch.delattr(shared, "interrogator")
        assert webui.module("interrogators").interrogators() == {}

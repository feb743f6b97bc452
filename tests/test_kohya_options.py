"""Every option of kohya's scripts is recognised, and docs/KOHYA_OPTIONS.md says what the program does with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("kohya_options")
    sys.modules.pop("kohya_options", None)


@pytest.mark.long
def test_the_page_is_what_the_program_does(script) -> None:
    options = json.loads(script.OPTIONS.read_text(encoding="utf-8"))
    assert len(options) >= 196
    page = script.page(options)
    assert "| unrecognised |" not in page
    told = "docs/KOHYA_OPTIONS.md is old: python benchmarks/kohya_options.py"
    assert page == script.PAGE.read_text(encoding="utf-8"), told

"""`python -m benchmarks --page`: each section keeps its own run; a part that fails changes nothing."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_sections_are_replaced_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("benchmarks_main", ROOT / "benchmarks" / "__main__.py")
    assert spec and spec.loader
    runs = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, runs)
    spec.loader.exec_module(runs)
    assert [one.program for one in runs.PARTS.values() if not (ROOT / f"benchmarks/{one.program}.py").is_file()] == []

    def printing(text: str) -> None:
        code = f"print({text!r})" if text else "raise SystemExit(3)"
        monkeypatch.setattr(runs.Part, "command", lambda *_: ["-c", code])

    page = tmp_path / "numbers.md"
    for name, text in (("tools", "| one |"), ("apply", "| two |"), ("tools", "| three |")):
        printing(text)
        assert runs.main(["--page", str(page), "--short", "--only", name]) == 0
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^(## .*|\| .*)$", text, re.MULTILINE) == [
        "## Applying",
        "| two |",
        "## File tools",
        "| three |",
    ]
    assert "torch" in text and "cores" in text
    printing("")
    assert runs.main(["--page", str(page), "--only", "tools"]) == 1 and page.read_text(encoding="utf-8") == text

"""`python -m benchmarks --page`: the page says what the records say; each run keeps its own date and machine."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lora_ext.embedded import shapes

ROOT = Path(__file__).parent.parent


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/__main__.py."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.__main__")


def test_the_page_says_what_the_records_say(runs: ModuleType) -> None:
    records = json.loads(runs.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert runs.PAGE.read_text(encoding="utf-8") == runs.page_text(records)
    assert {record["part"] for record in records} <= set(runs.PARTS)
    facts = ("date", "machine", "versions", "command", "name")
    assert [record for record in records if not all(record[one] for one in facts)] == []
    assert [record for record in records if not any(record["values"].values())] == []


def test_runs_are_replaced_one_by_one(runs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.program for one in runs.PARTS.values() if not (ROOT / f"benchmarks/{one.program}.py").is_file()] == []

    def printing(value: str) -> None:
        table = f"print_table(('what', 'ratio'), [('a', {value!r})], 'of b', peer='b')"
        code = f"from benchmarks.figures import print_table; {table}" if value else "raise SystemExit(3)"
        monkeypatch.setattr(runs.Part, "command", lambda *_: ["-c", code])

    page = tmp_path / "numbers.md"
    for name, value, more in (("tools", "1x", ["--short"]), ("apply", "2x", []), ("tools", "3x", ["--short"])):
        printing(value)
        assert runs.main(["--page", str(page), *more, "--only", name]) == 0
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^(## .*|\| a .*)$", text, re.MULTILINE) == [
        "## Applying",
        "| a | 2x |",
        "## File tools, short",
        "| a | 3x |",
    ]
    assert "of b; beside: b." in text and "torch" in text and "cores" in text
    printing("4x")
    assert runs.main(["--page", str(page), "--only", "tools"]) == 0  # a long run, beside the short one
    assert "| a | 3x |" in page.read_text(encoding="utf-8") and "## File tools\n" in page.read_text(encoding="utf-8")
    kept = page.read_text(encoding="utf-8")
    printing("")
    assert runs.main(["--page", str(page), "--only", "tools"]) == 1 and page.read_text(encoding="utf-8") == kept
    page.unlink()
    assert runs.main(["--page", str(page), "--only"]) == 0 and page.read_text(encoding="utf-8") == kept


def test_what_the_model_draws_has_a_row_for_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    obeyed = importlib.import_module("obeyed")
    scenes = [shapes.Scene("ring", "red", "blue"), shapes.Scene("ring", "blue", "white")]
    assert list(obeyed.shares(scenes, np.array([True, False]))) == [
        ("all", "50.0% of 2"),
        ("shape ring", "50.0% of 2"),
        ("colour red", "100.0% of 1"),
        ("colour blue", "0.0% of 1"),
        ("ground blue", "100.0% of 1"),
        ("ground white", "0.0% of 1"),
    ]
    every = obeyed.drawn_scenes(336, 0)
    assert len(set(every)) == 336 and obeyed.drawn_scenes(5, 0) == every[:5]

"""docs/ROUTES.md tells what the program does."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
from route_table import PAGE, text


def test_the_page_of_routes_is_up_to_date() -> None:
    found = text()
    assert PAGE.read_text(encoding="utf-8") == found, "python tests/malicious/route_table.py writes it anew"
    rows = [line.split(" | ") for line in found.splitlines() if line.startswith("| ") and "`/" in line]
    assert len(rows) > 50
    for _, _, host, origin, _token, nobody, wrong in rows:
        assert host.startswith("refused") and origin.startswith("refused")
        assert nobody.startswith("refused") and wrong.startswith("refused")
    assert all(row[4].startswith("refused") for row in rows if row[0] != "| GET")

"""docs/ROUTES.md tells what the program does."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
from fastapi import FastAPI
from route_table import PAGE, text
from test_requests import USERS, Target

from lora_ext.web.mount import mount_api
from lora_ext.web.routing import API_PREFIX


def test_the_page_of_routes_is_up_to_date() -> None:
    found = text()
    assert PAGE.read_text(encoding="utf-8") == found, "python tests/malicious/route_table.py writes it anew"
    rows = [line.split(" | ") for line in found.splitlines() if line.startswith("| ") and "`/" in line]
    assert len(rows) > 50
    for _, _, host, origin, _token, nobody, wrong in rows:
        assert host.startswith("refused") and origin.startswith("refused")
        assert nobody.startswith("refused") and wrong.startswith("refused")
    assert all(row[4].startswith("refused") for row in rows if row[0] != "| GET")


def test_a_web_ui_s_own_schema_does_not_list_our_routes(tmp_path: Path) -> None:
    """It needs no password there; ours does."""
    outer = FastAPI()

    def build(app_state: object, guard: object) -> FastAPI:
        mount_api(outer, app_state, guard)  # type: ignore[arg-type]
        return outer

    program = Target(tmp_path, build, users=lambda: USERS)
    assert (
        "paths" in program.send("GET", "/openapi.json").json()
        and "lora" not in program.send("GET", "/openapi.json").text
    )
    assert program.send("GET", f"{API_PREFIX}/openapi.json").status_code == 401
    program.app_state.jobs.close()
